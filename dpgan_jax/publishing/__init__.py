"""What may be published of a run, and what is said of it."""
