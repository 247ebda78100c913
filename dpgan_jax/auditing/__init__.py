"""Attacks that bound ε from below."""
