"""How good samples are, beside real images."""
