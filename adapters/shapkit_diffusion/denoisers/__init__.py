"""Denoisers: networks with their noise schedule, of pixels or latents, and their files."""

from shapkit_diffusion.denoisers.composed import ComposedDenoiser
from shapkit_diffusion.denoisers.denoiser import PREDICTIONS, Denoiser, small_denoiser
from shapkit_diffusion.denoisers.loading import load_denoiser, shipped_model

__all__ = ["PREDICTIONS", "ComposedDenoiser", "Denoiser", "load_denoiser", "shipped_model", "small_denoiser"]
