"""Weights by the signal-to-noise ratio."""

from typing import Any

import pytest
import torch

from shapkit.differentiable.penalty.weights import min_snr, noise_share, signal_share

ALPHA = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
SNR = ALPHA / (1 - ALPHA)


def test_shares_are_those_of_the_schedule() -> None:
    torch.testing.assert_close(signal_share(SNR), ALPHA)
    torch.testing.assert_close(noise_share(SNR), 1 - ALPHA)


def test_the_three_forms_of_min_snr_are_one_loss_on_the_image() -> None:
    """With x_t = a x_0 + s e, errors of the image are s / a times those of the noise, and s times those of v."""
    error = 0.3
    on_image = min_snr(SNR) * error**2
    on_noise = min_snr(SNR, prediction="epsilon") * (error * SNR.sqrt()) ** 2
    on_velocity = min_snr(SNR, prediction="v_prediction") * (error / (1 - ALPHA).sqrt()) ** 2
    torch.testing.assert_close(on_noise, on_image)
    torch.testing.assert_close(on_velocity, on_image)
    assert float(on_image.max()) == pytest.approx(5 * error**2)


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
def test_pure_noise_has_finite_weights(prediction: Any) -> None:
    assert bool(min_snr(torch.tensor([0.0]), prediction=prediction).isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prediction": "noise"}, "prediction must be one of sample, epsilon, v_prediction"), ({"gamma": 0.0}, "gamma")],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        min_snr(SNR, **options)
