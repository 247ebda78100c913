"""What a run may spend, what it has spent, and a second opinion on ε."""
