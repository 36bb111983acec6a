"""What is done with noise: generation and inversion, edits of a region, and which noise drives what."""
