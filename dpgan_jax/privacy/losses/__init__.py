"""Distributions of the privacy loss."""
