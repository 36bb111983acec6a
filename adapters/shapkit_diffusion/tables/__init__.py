"""The two published tables, locality and realism, with every compared system measured anew on data anyone has."""
