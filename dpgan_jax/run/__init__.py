"""A run in its directory: plan, charge, step, record."""
