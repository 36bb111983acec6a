"""The commands of ``shapkit-diffusion``, one module for each group: its options, and what it does with them."""
