"""Layers: which of them mix regions, and one that does not; extra runs that leave their statistics alone."""
