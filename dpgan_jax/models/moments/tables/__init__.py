"""Moments of tables: counts in public cells, and a mixture of products that has them."""
