"""Time and memory of private steps."""
