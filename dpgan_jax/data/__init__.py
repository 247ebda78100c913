"""Data sets: read, checked, written."""
