"""Stages that release something once, on the host; and what a stage is."""
