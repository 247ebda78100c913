"""Records that stay in the host's memory while devices compute."""
