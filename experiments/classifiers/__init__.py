"""Private classifiers, and the classifiers that judge samples."""
