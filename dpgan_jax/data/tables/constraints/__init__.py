"""Constraints: what every synthetic row satisfies, declared in the schema, free of cost."""
