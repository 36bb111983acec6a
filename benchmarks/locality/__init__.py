"""Local noise: the reference study, influence, latent models, edits and the shipped models."""
