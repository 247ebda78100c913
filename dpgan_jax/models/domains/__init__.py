"""What each column of a private table may hold, found with privacy."""
