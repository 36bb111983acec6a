"""The report of the tables, in HTML and Markdown, written from a measured folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks.published_tables.layout import Results, markdown_of, text_of
from benchmarks.published_tables.pictures import all_pictures
from shapkit._files import user_path
from shapkit_diffusion.pictures.pages import html_report

TITLE = "Locality and realism of compared systems"
INTRODUCTION = (
    "Each row is a system that edits one concept of an image. Two figures answer whether the edit stays where it "
    "belongs and still edits: the mean square change inside the concept's region and outside it, and their ratio. The "
    "ratio alone can be bought by filling the region with noise, so that the change inside, the realism of the "
    "concept's crop, the diversity of edits and the seam at the border stand beside it, and an interpretable model is "
    "held against its control by all of them."
)


def write_report(folder: str | Path, results: Results) -> list[Path]:
    """Write ``report.html``, which needs no other file, ``report.md`` and its ``pictures/`` into the folder."""
    folder = user_path(folder)
    pictures = all_pictures(folder, results)
    (folder / "pictures").mkdir(exist_ok=True)
    lines = [f"# {TITLE}", "", INTRODUCTION, "", markdown_of(results), ""]
    for name, (caption, data) in pictures.items():
        (folder / "pictures" / f"{name}.png").write_bytes(data)
        lines += [f"![{caption}](pictures/{name}.png)", ""]
    tables = "\n\n\n".join(text_of(results, table) for table in ("locality", "realism"))
    page = html_report(TITLE, INTRODUCTION, tables, dict(pictures.values()))
    written = {folder / "report.md": "\n".join(lines), folder / "report.html": page}
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return list(written)
