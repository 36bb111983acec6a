"""Figures as PNG, and an HTML page of tables and pictures: one file, readable without the network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shapkit._optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG; the figure is closed."""
    pyplot = require("matplotlib.pyplot", extra="plots", purpose="pictures")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    pyplot.close(figure)
    return buffer.getvalue()


def html_report(title: str, introduction: str, table: str, pictures: Mapping[str, bytes], notes: str = "") -> str:
    """One self-contained page: text, the table as printed, and the pictures under their captions.

    Args:
        title, introduction, notes: plain text; blank lines separate paragraphs.
        table: preformatted text.
        pictures: PNG bytes by caption.
    """
    figures = "\n".join(
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, data in pictures.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
 pre {{ background: #f5f5f2; padding: 1rem; overflow-x: auto; font-size: 13px; line-height: 1.35; }}
 figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} figcaption {{ color: #555; font-size: 14px; }}
</style></head><body>
<h1>{html.escape(title)}</h1>
{_paragraphs(introduction)}
<pre>{html.escape(table)}</pre>
{figures}
{_paragraphs(notes)}
</body></html>
"""


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{html.escape(part.strip())}</p>" for part in text.split("\n\n") if part.strip())
