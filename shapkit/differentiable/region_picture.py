"""Regions in notebooks: a small map of them, as a picture that needs no library."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from torch import Tensor

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")  # Okabe and Ito's
_REST = "#999999"
_MOST_CELLS, _SIDE, _SHOWN = 48, 128, 4


def regions_html(masks: Tensor, names: Sequence[str], caption: str) -> str:
    """Return maps of the first few samples in HTML, each pixel in the colour of its largest region, and a legend.

    Args:
        masks: (batch, K, height, width); of other dimensions only the legend is shown.
        names: of the K regions; "rest" is grey.
        caption: above.

    >>> import torch
    >>> labels = torch.tensor([[[0, 1]]])
    >>> masks = torch.stack([labels == 0, labels == 1], dim=1).float()
    >>> regions_html(masks, ("rest", "mouth"), "two pixels").count("<rect")
    2
    """
    colours = [_REST if name == "rest" else _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)]
    maps = "".join(_map(sample, colours) for sample in masks[:_SHOWN].detach().cpu()) if masks.ndim == 4 else ""
    legend = " ".join(
        f'<span style="border-left: 1em solid {colour}; padding-left: 0.3em; margin-right: 0.8em">{escape(name)}</span>'
        for name, colour in zip(names, colours, strict=True)
    )
    return f"<p>{escape(caption)}</p><div>{maps}</div><div>{legend}</div>"


def _map(masks: Tensor, colours: Sequence[str]) -> str:
    step = max(1, -(-max(masks.shape[-2:]) // _MOST_CELLS))
    labels = masks[:, ::step, ::step].argmax(dim=0)
    height, width = labels.shape
    runs = []
    for y, row in enumerate(labels.tolist()):
        starts = [x for x in range(width) if x == 0 or row[x] != row[x - 1]]
        for x, end in zip(starts, [*starts[1:], width], strict=True):
            runs.append(f'<rect x="{x}" y="{y}" width="{end - x}" height="1" fill="{colours[row[x]]}"/>')
    size = f'width="{_SIDE}" height="{round(_SIDE * height / width)}"'
    return (
        f'<svg {size} viewBox="0 0 {width} {height}" shape-rendering="crispEdges" style="margin-right: 4px">'
        f"{''.join(runs)}</svg>"
    )
