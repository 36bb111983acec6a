"""Studies and measurements, each a module with a command line; their figures are in `docs/results`."""
