"""What a GPU proves and how fast it is."""
