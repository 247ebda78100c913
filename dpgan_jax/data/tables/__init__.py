"""Tables: what their columns are, how they are read, drafted and written."""
