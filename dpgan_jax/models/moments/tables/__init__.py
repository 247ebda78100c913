"""Moments of tables: counts in public cells, and rows that have them and no relations besides."""
