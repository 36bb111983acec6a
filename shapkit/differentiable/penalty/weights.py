"""How much a sample's penalty counts, by the noise in it: each a function of the signal-to-noise ratio.

For noisy images a x_0 + s noise the ratio is (a / s)^2, which is alpha_bar / (1 - alpha_bar) in a diffusion model. The
results go to ``DummyPlayerPenalty`` as ``sample_weights``. Any other function of the timestep does as well.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Prediction = Literal["sample", "epsilon", "v_prediction", "flow_prediction"]


def signal_share(snr: Tensor) -> Tensor:
    """alpha_bar = snr / (1 + snr): little weight where the image is mostly noise. Shape of ``snr``.

    >>> import torch
    >>> signal_share(torch.tensor([0.0, 1.0, 3.0]))
    tensor([0.0000, 0.5000, 0.7500])
    """
    return 1 - noise_share(snr)


def noise_share(snr: Tensor) -> Tensor:
    """1 - alpha_bar = 1 / (1 + snr): little weight where the image is nearly clean. Shape of ``snr``.

    >>> import torch
    >>> noise_share(torch.tensor([0.0, 1.0, 3.0]))
    tensor([1.0000, 0.5000, 0.2500])
    """
    return 1 / (1 + snr)


def min_snr(snr: Tensor, *, gamma: float = 5.0, prediction: Prediction = "sample") -> Tensor:
    """Min-SNR-gamma (Hang et al. 2023, "Efficient diffusion training via min-SNR weighting"). Shape of ``snr``.

    min(snr, gamma) for a loss on the clean image, the same divided by snr for one on the noise, by snr + 1 for one on
    the velocity and by (sqrt(snr) + 1)^2 for one on a flow's: the four are one loss on the image.

    Raises:
        ValueError: for an unknown prediction, or gamma not positive.

    >>> import torch
    >>> min_snr(torch.tensor([0.5, 20.0]))
    tensor([0.5000, 5.0000])
    >>> min_snr(torch.tensor([0.0, 0.5, 20.0]), prediction="epsilon")
    tensor([1.0000, 1.0000, 0.2500])
    """
    if prediction not in get_args(Prediction):
        raise ValueError(f"prediction must be one of {', '.join(get_args(Prediction))}, got {prediction!r}")
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1)  # finite at snr = 0
    clipped = snr.clamp(max=gamma)
    if prediction == "flow_prediction":
        return clipped / (snr.sqrt() + 1).square()
    return clipped if prediction == "sample" else clipped / (snr + 1)
