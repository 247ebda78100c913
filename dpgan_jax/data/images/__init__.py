"""Images with their labels, and the files that people have of them."""
