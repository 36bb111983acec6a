from .composed import ComposedDenoiser as ComposedDenoiser
from .denoiser import PREDICTIONS as PREDICTIONS
from .denoiser import Denoiser as Denoiser
from .denoiser import small_denoiser as small_denoiser
from .loading import load_denoiser as load_denoiser
from .loading import shipped_model as shipped_model
