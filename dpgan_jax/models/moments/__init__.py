"""Class-conditional moments: released once with noise, denoised at no cost, sampled in seconds."""
