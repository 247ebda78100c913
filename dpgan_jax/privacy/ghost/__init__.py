"""Norms and clipped sums of per-example gradients, found without forming the gradients."""
