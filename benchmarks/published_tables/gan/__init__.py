"""The compared GANs: a small style-based one, Editing in Style and IGAN."""
