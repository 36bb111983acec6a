"""The two published tables, locality and realism, with every row measured."""
