"""What was tried against the guarantee."""
