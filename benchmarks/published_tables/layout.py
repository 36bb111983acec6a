"""The two published tables as text, from what was measured: nothing is computed here.

``locality_tables`` and ``realism_tables`` lay out the results of ``assemble``; a ``Table`` prints as text or Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.published_tables.published import ANOTHER_DATA_SET, ELSEWHERE, FID, LOCALITY

PASTES = "†"
NOTHING = "–"

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A title, groups of columns, rows of cells, and notes under it.

    Args:
        title: one line.
        groups: what stands over the columns: (heading, their names), the first of the rows' names.
        rows: as many cells each as there are columns.
        notes: lines of text.

    >>> table = Table("Fruit", (("", ("kind",)), ("price", ("here", "there"))), (("apple", "1", "2"),), ("In coins.",))
    >>> print(table.text())
    Fruit
    <BLANKLINE>
              price
    kind   here  there
    apple     1      2
    <BLANKLINE>
    In coins.
    >>> print(table.markdown().splitlines()[2])
    | kind | price: here | price: there |
    """

    title: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """In columns, for a terminal."""
        names = [name for _, columns in self.groups for name in columns]
        widths = [max(len(row[number]) for row in (names, *self.rows)) for number in range(len(names))]
        over, start = "", 0
        for heading, columns in self.groups:
            part = widths[start : start + len(columns)]
            span = sum(part) + 2 * (len(part) - 1)
            wanting = max(0, len(heading) - span)
            for number in range(len(columns)):
                widths[start + number] += wanting // len(columns) + (number < wanting % len(columns))
            span += wanting
            over += f"{heading:^{span}}  "
            start += len(columns)
        lines = [self.title, "", *([over.rstrip()] if over.strip() else [])]
        for row in (names, *self.rows):
            first, *others = (
                f"{cell:<{w}}" if not n else f"{cell:>{w}}" for n, (cell, w) in enumerate(_cells(row, widths))
            )
            lines.append("  ".join([first, *others]).rstrip())
        return "\n".join([*lines, *(["", *self.notes] if self.notes else [])])

    def markdown(self) -> str:
        """A pipe table under its title in bold; the notes as a list."""
        names = [f"{heading}: {name}" if heading else name for heading, columns in self.groups for name in columns]
        lines = [f"**{self.title}**", "", f"| {' | '.join(names)} |", "|---" + "|---:" * (len(names) - 1) + "|"]
        lines += [f"| {' | '.join(cell or ' ' for cell in row)} |" for row in self.rows]
        return "\n".join([*lines, *(["", *(f"- {note}" for note in self.notes)] if self.notes else [])])


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, int]]:
    return list(zip(row, widths, strict=True))


def locality_tables(results: Results) -> list[Table]:
    """The published Table 1 with intervals, its own figures beside; then, by concept, what the ratios are made of."""
    concepts = _concepts(results)
    rows = tuple(
        (
            _name(row),
            *(_interval(row["concepts"][c]["edits"]["ratio"]) for c in concepts),
            *(_published(LOCALITY, key, c) for c in concepts),
        )
        for key, row in results["rows"].items()
    )
    title = "Locality: MSE outside / MSE inside the edited region, lower is better"
    groups = (("", ("system",)), ("measured here [95 % interval]", concepts), (ANOTHER_DATA_SET, concepts))
    main = Table(title, groups, rows, _locality_notes(results))
    against = [_against(results)] if any(_held(row) for row in results["rows"].values()) else []
    return [main, *against, *(_parts(results, concept) for concept in concepts)]


def _held(row: Mapping[str, Any]) -> bool:
    """Whether the row was held against a control."""
    return all("against" in figures for figures in row["concepts"].values())


def _against(results: Results) -> Table:
    """What the penalty bought and what it cost, here and in print."""
    concepts = _concepts(results)
    rows: list[tuple[str, ...]] = []
    for key, row in results["rows"].items():
        if not _held(row):
            continue
        control = results["rows"][row["control"]]
        gains, costs, kept = [], [], []
        for concept in concepts:
            figures = row["concepts"][concept]
            over = figures["against"]["ratio"]
            ends = {"value": "value", "low": "high", "high": "low"}  # of the inverse
            gains.append(_interval({end: _inverse(over[other]) for end, other in ends.items()}))
            fids = [results["realism"][one["models"][concept]]["crops"]["whole"]["fid"] for one in (row, control)]
            costs.append(f"{fids[0] / fids[1]:.2f}")
            kept.append(f"{figures['against']['mse_in']['value']:.2f}")
        rows.append((row["name"], *gains, *kept, *costs))
        if key in LOCALITY:
            gains = [_over(LOCALITY, row["control"], key, c, ".1f") for c in concepts]
            costs = [_over(FID, key, row["control"], c, ".2f") for c in concepts]
            rows.append((f"  in print, {ELSEWHERE}", *gains, *[NOTHING] * len(concepts), *costs))
    groups = (
        ("", ("system over its control",)),
        ("ratio less by a factor of [95 %]", concepts),
        ("MSE in, factor", concepts),
        ("FID, factor", concepts),
    )
    return Table("What the penalty bought and what it cost", groups, tuple(rows))


def _over(figures: Mapping[str, Mapping[str, float]], above: str, below: str, concept: str, form: str) -> str:
    """One row's published figure over another's, where both were published."""
    both = [figures.get(key, {}).get(concept) for key in (above, below)]
    return NOTHING if both[0] is None or both[1] is None else format(both[0] / both[1], form)


def _inverse(value: float) -> float:
    return 1 / value if value else float("nan")


def _parts(results: Results, concept: str) -> Table:
    rows = []
    for row in results["rows"].values():
        figures = row["concepts"][concept]
        edits = figures["edits"]
        runs = figures["network_runs"]
        rows.append(
            (
                _name(row),
                _interval(edits["mse_in"]),
                _interval(edits["mse_out"]),
                _interval(edits["seam"]),
                _interval(edits["diversity"]),
                str(edits["n_images"]),
                NOTHING if runs is None else f"{runs:.0f}",
                f"{figures['seconds']:.2f}",
                NOTHING if row["psnr_db"] is None else f"{row['psnr_db']:.1f}",
                figures["verdict"]["outcome"] if "verdict" in figures else NOTHING,
            )
        )
    columns = ("MSE in", "MSE out", "seam", "diversity", "images", "runs", "s", "PSNR", "verdict")
    return Table(f"Edits of the {concept}", (("", ("system",)), ("", columns)), tuple(rows))


def realism_tables(results: Results) -> list[Table]:
    """The published Table 2 for every row: generated images, whole and cropped, and edited images."""
    return [_generated(results), _edited(results)]


def _generated(results: Results) -> Table:
    concepts = _concepts(results)
    rows = []
    for key, row in results["rows"].items():
        edits_of: dict[str, list[str]] = {}
        for concept, model in row["models"].items():
            edits_of.setdefault(model, []).append(concept)
        for model, own in edits_of.items():
            name = _name(row) if len(edits_of) == 1 else f"{_name(row)}, {', '.join(own)}"
            cells = _realism_cells(results["realism"][model]["crops"], concepts, own)
            rows.append((name, *cells, _published(FID, key, own[0])))
    if "real" in results["realism"]:
        cells = _realism_cells(results["realism"]["real"]["crops"], concepts, concepts)
        rows.append(("real images", *cells, NOTHING))
    groups = (
        ("", ("system",)),
        ("whole images", ("FID", "KID x 1000", "precision", "recall")),
        ("FID of the crop", concepts),
        (ANOTHER_DATA_SET, ("FID",)),
    )
    return Table("Realism of generated images", groups, tuple(rows), _realism_notes(results))


def _realism_cells(crops: Mapping[str, Any], concepts: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Whole images, then the crops of the concepts that the model edits."""
    whole = crops["whole"]
    return (
        f"{whole['fid']:.3f}",
        _kid(whole),
        f"{whole['precision']:.2f}",
        f"{whole['recall']:.2f}",
        *(f"{crops[concept]['fid']:.3f}" if concept in own else NOTHING for concept in concepts),
    )


def _edited(results: Results) -> Table:
    concepts = _concepts(results)
    rows = []
    for row in results["rows"].values():
        made = {concept: results["realism"][row["models"][concept]]["crops"] for concept in concepts}
        after = {concept: row["concepts"][concept]["edited"]["crops"] for concept in concepts}
        crops = (f"{_kid(made[c][c])} → {_kid(after[c][c])}" for c in concepts)
        whole = (f"{_kid(made[c]['whole'])} → {_kid(after[c]['whole'])}" for c in concepts)
        rows.append((_name(row), *crops, *whole))
    columns = (("", ("system",)), ("crop of the edited concept", concepts), ("whole image", concepts))
    title = "Realism of edited images: KID x 1000 of generated images → of edited ones"
    return Table(title, columns, tuple(rows), (_edited_note(results),))


def verdicts(results: Results) -> str:
    """Each interpretable row against its control, a sentence for each concept; empty where none was measured."""
    lines: list[str] = []
    for row in results["rows"].values():
        held = {concept: f["verdict"] for concept, f in row["concepts"].items() if "verdict" in f}
        if held:
            control = results["rows"][row["control"]]["name"]
            lines += [f"{row['name']} against {control}:", *(f"  {one['sentence']}" for one in held.values())]
    return "\n".join(lines)


def text_of(results: Results, table: str) -> str:
    """What the command prints: ``"locality"`` or ``"realism"``, as text."""
    if table == "realism":
        return "\n\n".join(one.text() for one in realism_tables(results))
    said = verdicts(results)
    return "\n\n".join([*(one.text() for one in locality_tables(results)), *([said] if said else [])])


def markdown_of(results: Results) -> str:
    """Both tables with all their parts, as Markdown."""
    parts = [table.markdown() for table in (*locality_tables(results), *realism_tables(results))]
    said = verdicts(results)
    return "\n\n".join([*parts, *([f"```\n{said}\n```"] if said else [])])


def _concepts(results: Results) -> tuple[str, ...]:
    return tuple(results["tables"]["concepts"])


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['name']}{PASTES if row['pastes'] else ''}"


def _interval(figure: Mapping[str, float]) -> str:
    return f"{_short(figure['value'])} [{_short(figure['low'])}, {_short(figure['high'])}]"


def _short(value: float) -> str:
    """Three figures, without exponents: what is far below the others is 0.0000.

    >>> _short(0.0123456), _short(12.3456), _short(0.000012)
    ('0.0123', '12.3', '0.0000')
    """
    if value != value:
        return NOTHING
    if value == 0:
        return "0"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _kid(crop: Mapping[str, float]) -> str:
    return f"{1000 * crop['kid']:.2f}"


def _published(figures: Mapping[str, Mapping[str, float]], key: str, concept: str) -> str:
    value = figures.get(key, {}).get(concept)
    return NOTHING if value is None else f"{value:.4f}" if figures is LOCALITY else f"{value:.2f}"


def _locality_notes(results: Results) -> tuple[str, ...]:
    tables = results["tables"]
    convention = tables["convention"]
    areas = {
        "own_area": "each change divided by its own area",
        "published": "both changes divided by the area of the region, as the paper prints it",
    }[convention["normalisation"]]
    colours = {"rgb": "RGB in [-1, 1]", "cielab": "CIELAB"}[convention["colours"]]
    extent = {
        "source": "the concept before the edit",
        "union": "the concept before or after the edit",
    }[convention["extent"]]
    mean = {"ratio_of_means": "ratio of means", "mean_of_ratios": "mean of ratios"}[convention["aggregate"]]
    notes = [
        f"{PASTES} puts the outside back itself: its MSE out is 0, or a decoder's reach, by construction, and says "
        "nothing of the model.",
        f"Convention: {areas}; {colours}; region: {extent}, grown by {convention['dilation']} px; {mean}.",
        f"{tables['images']} images of each system's own ({results['data']}), 95 % bootstrap intervals over images.",
        "Seam: energy across the region's border after the edit over before, 1 is none. Diversity: distance of two "
        "edits in features of the crop.",
        "Runs, s: of the network for one edit, and its seconds on one thread. PSNR: of given images inverted and made "
        "again, dB. Verdict: against the row's control; its seam is the energy after the edits over the control's.",
    ]
    return (*notes, *_row_notes(results))


def _row_notes(results: Results) -> tuple[str, ...]:
    """What is to be known of single rows; those of one note together."""
    named: dict[str, list[str]] = {}
    for row in results["rows"].values():
        if row["note"]:
            named.setdefault(row["note"], []).append(row["name"])
    return tuple(f"{', '.join(names)}: {note}." for note, names in named.items())


def _realism_notes(results: Results) -> tuple[str, ...]:
    extractor = next(iter(results["realism"].values()))["extractor"]
    other = "" if results["tables"]["inception"] else ", not Inception's"
    return (
        f"{results['tables']['samples']} generated images against the real ones, in {extractor}{other}: the published "
        "FID, of 10,000 samples, is on another scale.",
        "Real images: as many of the reference against the rest of it, the floor. Rows of one model share its figures.",
        f"{PASTES} puts the outside back itself when it edits.",
    )


def _edited_note(results: Results) -> str:
    tables = results["tables"]
    count = tables["images"] * (1 + tables["resamples"])
    return f"KID is unbiased, so that {count} edited images compare with {tables['samples']} generated ones."
