"""The published figures, for a column beside the measured ones (Liu et al. 2025, Tables 1 and 2).

They are of CelebA at 64 x 64 and CelebA-HQ at 256 x 256 with large models: another data set, another scale. What can be
compared is which row is better than which, and by what factor.
"""

from __future__ import annotations

ELSEWHERE = "CelebA(-HQ)"
ANOTHER_DATA_SET = f"published, {ELSEWHERE}: another data set"

LOCALITY: dict[str, dict[str, float]] = {
    "sd": {"mouth": 0.1284, "eyes": 0.2307, "nose": 0.1707},
    "repaint": {"mouth": 0.0553, "eyes": 0.7806, "nose": 0.1125},
    "sega": {"mouth": 0.8617, "eyes": 0.6956, "nose": 1.0189},
    "style": {"mouth": 1.3649, "eyes": 0.9745, "nose": 2.9423},
    "igan": {"mouth": 0.0606, "eyes": 0.0802, "nose": 0.0995},
    "ldm": {"mouth": 0.0511, "eyes": 0.0867, "nose": 0.3506},
    "ddpm": {"mouth": 0.0869, "eyes": 0.0837, "nose": 0.2035},
    "ldm-published": {"mouth": 0.0357, "eyes": 0.0640, "nose": 0.3191},
    "ddpm-published": {"mouth": 0.0369, "eyes": 0.0295, "nose": 0.0683},
}
"""MSE out over MSE in, by row and concept; lower is better."""

FID: dict[str, dict[str, float]] = {
    "ddpm": {"mouth": 12.86, "eyes": 12.86, "nose": 12.86},
    "ddpm-published": {"mouth": 18.44, "eyes": 19.42, "nose": 18.81},
}
"""Fréchet distance of 10,000 samples in Inception's features, by row and the concept that the model was trained for."""
