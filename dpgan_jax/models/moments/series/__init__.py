"""Moments of series: summaries of each record, and what all have in common over time."""
