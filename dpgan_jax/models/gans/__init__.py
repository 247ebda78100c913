"""What is said and settled about a GAN beside its mathematics."""
