"""Sums over private records that are released once: second moments, histograms."""
