"""The game of a model for one image: what its regions do to the prediction, the others blurred or replaced."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from math import ceil
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shapkit._checks import from_torch, is_tensor, positive_integer
from shapkit._optional import require
from shapkit.games.cache import CoalitionCache
from shapkit.games.game import Game
from shapkit.games.model_game import model_game
from shapkit.games.predictions import Predict

Segments: TypeAlias = int | tuple[int, int] | Mapping[str, Any] | Any
"""A number of superpixels, (rows, columns) of a grid, masks by name, or labels (height, width)."""

_BLUR = 0.1  # standard deviation of the blur, as a share of the longer side
_REST = "rest"


def image_game(
    predict: Predict,
    image: Any,
    segments: Segments = 50,
    absent: Literal["blur", "mean", "grey"] | float | Any = "blur",
    channels: int | None = None,
    max_rows: int = 64,
    batch_size: int | None = None,
    cache: CoalitionCache | bool | None = None,
    executor: Executor | None = None,
) -> Game:
    """Return the game whose players are regions of `image` and whose payoffs are predictions of images without others.

    Args:
        predict: takes images (n_images, *image.shape) and returns real numbers (n_images, *output_shape): a function,
            or a torch module, as for `model_game`. It is given tensors where `image` is one.
        image: (height, width), (height, width, channels) or (channels, height, width).
        segments: the regions, as `image_segments` takes them; 50 superpixels by default.
        absent: what absent regions show: the image "blur"red with a tenth of its longer side as standard deviation,
            its "mean" colour, "grey", halfway between its darkest and its lightest number, a number, or another image
            of the same shape. Or a function of the image and of which of its numbers are present, bool of the image's
            shape, that returns images (n_images, *image.shape), whose mean prediction counts: an inpainting model.
        channels: the axis of the channels of an image with three axes; by default the only one of 1, 3 or 4 entries.
        max_rows: the most images `predict` is given at once.
        batch_size, cache, executor: as for `Game`.

    Returns:
        a Game with a player for every region, named by its label or the mask's name.

    Raises:
        ImportError: superpixels are asked for, and scikit-image is not installed.
        ValueError: an argument is not as described.

    >>> image = np.zeros((4, 4))
    >>> image[:2, :2] = 1.0
    >>> game = image_game(lambda images: images.sum(axis=(1, 2)), image, segments=(2, 2), absent=0.0)
    >>> game.names, game(np.eye(4, dtype=bool))
    (('0', '1', '2', '3'), array([4., 0., 0., 0.]))
    """
    pixels = np.asarray(from_torch(image))
    axis = _channel_axis(image, pixels.shape, channels)
    labels = image_segments(image, segments, channels)
    if axis is not None:
        labels = np.broadcast_to(np.expand_dims(labels, axis), pixels.shape)
    fill: Any = absent if callable(absent) and not is_tensor(absent) else "marginal"
    background: Any = None if callable(fill) else _absent(pixels, absent, axis)[None]
    if background is not None and is_tensor(image):
        import torch

        background = torch.as_tensor(background.copy(), dtype=image.dtype, device=image.device)
    return model_game(
        predict,
        image,
        background,
        fill=fill,
        groups=labels,
        max_rows=max_rows,
        batch_size=batch_size,
        cache=cache,
        executor=executor,
    )


def image_segments(image: Any, segments: Segments = 50, channels: int | None = None) -> NDArray[Any]:
    """Return the label of every pixel, (height, width): integers from 0, or names where masks are given.

    Args:
        image: as for `image_game`.
        segments: about how many superpixels (SLIC, Achanta and others 2012, by scikit-image); (rows, columns) of a
            grid; masks (height, width) by name, which must not overlap, and beside which the rest of the image is
            called "rest"; or labels (height, width), as they are.
        channels: as for `image_game`.

    Raises:
        ImportError: superpixels are asked for, and scikit-image is not installed.
        ValueError: an argument is not as described.

    >>> image_segments(np.zeros((2, 4)), (1, 2))
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    pixels = np.asarray(from_torch(image))
    axis = _channel_axis(image, pixels.shape, channels)
    size = tuple(side for at, side in enumerate(pixels.shape) if at != axis)
    if isinstance(segments, Mapping):
        return _of_masks(segments, size)
    if isinstance(segments, tuple):
        return _grid(segments, size)
    if not isinstance(segments, int | np.integer):
        labels = np.asarray(from_torch(segments))
        if labels.shape != size:
            raise ValueError(f"segments has shape {labels.shape}, expected {size}: a label for every pixel")
        return labels
    segmentation: Any = require("skimage.segmentation", extra="images", purpose="superpixels")
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels.astype(np.float64) - low) / ((high - low) or 1.0)
    found = segmentation.slic(
        scaled, positive_integer("segments", int(segments)), channel_axis=axis, start_label=0, convert2lab=None
    )
    return np.asarray(found)


def _channel_axis(image: Any, shape: tuple[int, ...], channels: int | None) -> int | None:
    """The axis of the channels, not negative; None where there is none."""
    if len(shape) == 2:
        return None
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"image has shape {shape}, expected (height, width), with channels before or behind: one image, not several"
        )
    if channels is not None:
        if channels not in (0, 2, -1, -3):
            raise ValueError(f"channels must be the first axis, 0, or the last, -1, got {channels!r}")
        return channels % 3
    likely = [at for at in (0, 2) if shape[at] in (1, 3, 4)]
    if len(likely) == 1:
        return likely[0]
    if likely and is_tensor(image):
        return 0
    raise ValueError(f"image has shape {shape}: say which axis holds the channels, channels=0 or channels=-1")


def _absent(pixels: NDArray[Any], absent: Any, axis: int | None) -> NDArray[np.float64]:
    """What absent regions show, of the image's shape."""
    values = pixels.astype(np.float64)
    if isinstance(absent, str):
        space = tuple(at for at in range(values.ndim) if at != axis)
        if absent == "blur":
            width = _BLUR * max(values.shape[at] for at in space)
            return np.asarray(
                ndimage.gaussian_filter(values, [width if at in space else 0 for at in range(values.ndim)])
            )
        if absent == "mean":
            return np.broadcast_to(values.mean(axis=space, keepdims=True), values.shape)
        if absent == "grey":
            return np.full(values.shape, (values.min() + values.max()) / 2)
        raise ValueError(f"absent must be 'blur', 'mean', 'grey', a number or an image, got {absent!r}")
    other = np.asarray(from_torch(absent)).astype(np.float64)
    if other.shape not in ((), values.shape):
        raise ValueError(f"absent has shape {other.shape}, expected a number or an image of shape {values.shape}")
    return np.broadcast_to(other, values.shape)


def _grid(cells: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.int64]:
    if len(cells) != 2:
        raise ValueError(f"segments is {cells!r}, expected (rows, columns) of a grid")
    counts = [positive_integer("segments", count) for count in cells]
    places = [np.arange(side) // ceil(side / count) for side, count in zip(size, counts, strict=True)]
    return np.asarray(places[0][:, None] * counts[1] + places[1])


def _of_masks(masks: Mapping[str, Any], size: tuple[int, ...]) -> NDArray[Any]:
    labels = np.full(size, _REST, dtype=object)
    taken = np.zeros(size, dtype=bool)
    for name, mask in masks.items():
        own = np.asarray(from_torch(mask))
        if own.shape != size or own.dtype != bool:
            raise ValueError(f"segments[{name!r}] must be a mask, bool {size}, got {own.dtype} {own.shape}")
        if (taken & own).any():
            raise ValueError(f"segments[{name!r}] overlaps with a mask before: every pixel must be in one at most")
        labels[own], taken = str(name), taken | own
    return labels.astype(str)
