"""The figures of the GPU run as text."""

from __future__ import annotations

from typing import Any


def report(results: dict[str, Any]) -> str:
    """All steps, one after the other, as far as they got."""
    parts = {
        "correctness": _correctness,
        "cost": _cost,
        "attention": _attention,
        "generation": _generation,
        "games": _games,
        "compiled": _compiled,
    }
    lines = [results["machine"]]
    for name, step in results["steps"].items():
        if name in parts:
            unfinished = "" if step["complete"] else " (cut off)"
            lines += ["", f"{name}{unfinished}", *(f"  {line}" for line in parts[name](step["rows"]))]
    return "\n".join(lines)


def _correctness(rows: list[dict[str, Any]]) -> list[str]:
    wrong = [row for row in rows if not row["passed"]]
    lines = [f"{len(rows) - len(wrong)} of {len(rows)} checks passed"]
    kinds = sorted({row["kind"] for row in rows})
    for kind in kinds:
        of_kind = [row for row in rows if row["kind"] == kind]
        errors = [row["error"] for row in of_kind if row["error"] is not None]
        worst = (
            f", largest difference {max(errors):.1e}, bound {max(row['bound'] for row in of_kind):.0e}"
            if errors
            else ""
        )
        lines.append(f"{kind}: {sum(row['passed'] for row in of_kind)} of {len(of_kind)}{worst}")
    return lines + [f"FAILED {row['kind']}, {row['name']}: {row.get('message') or row['error']}" for row in wrong]


def _cost(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        memory = "" if row["peak_mb"] is None else f", {row['peak_mb']:,.0f} MB ({row['memory_ratio']:.2f})"
        lines.append(
            f"{row['network']}, batch {row['batch']}, {row['form']}: {1e3 * row['seconds']:.1f} ms a step "
            f"({row['ratio']:.2f} plain steps{memory})"
        )
    return lines


def _attention(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        what = f"{row['tokens']:,} tokens, batch {row['batch']}, {row['form']}"
        if "error" in row:
            lines.append(f"{what}: not run: {row['error']}")
            continue
        apart = "" if row["difference"] is None else f"; {row['difference']:.0e} from the dense mask"
        lines.append(
            f"{what}: {1e3 * row['seconds']:.2f} ms ({row['ratio']:.2f} of the plain one, for {row['pairs']:.2f} of "
            f"its products{apart})"
        )
    return lines


def _generation(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['network']}, batch {row['batch']}, {row['what']}: {row['per_second']:,.1f} images a second "
        f"({row['ratio']:.3f} of the time of a plain image)"
        for row in rows
    ]


def _compiled(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['network']}, batch {row['batch']}, {row['what']}: {row['per_second']:,.1f} images a second, "
        f"{row['speedup']:.2f} times as fast as not compiled; compiling took {row['compiling']:.0f} s"
        for row in rows
    ]


def _games(rows: list[dict[str, Any]]) -> list[str]:
    return [
        f"{row['model']}: {row['per_second']:,.0f} coalitions a second through {row['path']} "
        f"({row['share']:.0%} of the bare model's)"
        for row in rows
    ]
