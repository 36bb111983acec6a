"""The examples run, do what they say, and add to a training loop no more than they say."""

from __future__ import annotations

import ast
import importlib.util
import tokenize
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


class Example(Protocol):
    """What every example offers: loss and penalty of every step, and whatever it measured in the end."""

    def main(self, *, steps: int, weight: float = ...) -> tuple[list[tuple[float, float]], Sequence[object]]: ...


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Cores are often shared: more threads than free cores slow torch tenfold."""
    torch.set_num_threads(1)


def _example(name: str, monkeypatch: pytest.MonkeyPatch) -> Example:
    """The example as Python runs it: with its own folder to import from."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Example, module)


def _code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: no comment, no blank line, no docstring."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__)
    lines = {n for t in tokens if t.type not in layout for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            assert node.body[0].end_lineno is not None
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def _marked(name: str) -> list[str]:
    """The lines of an example that end with the mark of what was added; a statement that is wrapped bears it once."""
    return [line for line in (EXAMPLES / f"{name}.py").read_text().splitlines() if line.endswith("# shapkit")]


def test_the_counting_of_lines() -> None:
    source = '"""Two\nlines."""\n\n# comment\nx = [\n    1,  # one\n]\n\n\ndef f():\n    """One."""\n    return x\n'
    assert _code_lines(source) == {5, 6, 7, 10, 12}


def test_a_ddpm_with_the_penalty_takes_fewer_than_40_lines() -> None:
    assert len(_code_lines((EXAMPLES / "ddpm.py").read_text())) < 40


@pytest.mark.parametrize("name", ["ddpm", "flow_matching", "diffusers_unconditional"])
def test_two_lines_are_added_to_the_loop(name: str) -> None:
    build, add = _marked(name)
    assert "Regions.from_labels(" in build and "loss" in add


def test_a_relative_penalty_takes_four() -> None:
    assert len(_marked("gan")) == 4


# Mean penalty of the last ten steps, with over without: ddpm 0.14, flow matching 0.41, gan 0.57, diffusers 0.29.
@pytest.mark.parametrize(
    ("name", "steps", "bound"),
    [("ddpm", 20, 0.4), ("flow_matching", 20, 0.75), ("gan", 50, 0.8), ("diffusers_unconditional", 20, 0.6)],
)
def test_training_with_the_penalty_lowers_it(
    name: str, steps: int, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = _example(name, monkeypatch)
    monkeypatch.setattr(example, "print_locality", partial(cast(Any, example).print_locality, n_images=4))
    without, localities = example.main(steps=steps, weight=0.0)
    with_penalty, _ = example.main(steps=steps)  # the default weight
    assert len(without) == len(with_penalty) == steps and len(localities) == 3
    assert with_penalty[0][1] == without[0][1] > 0  # the same network, batch and coalitions
    before, after = (sum(penalty for _, penalty in history[-10:]) for history in (without, with_penalty))
    assert after < bound * before


def test_an_edit_of_the_local_model_changes_nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = cast(Any, _example("edit", monkeypatch))
    local, plain = (
        example.main(name, count=4, steps=8, out=str(tmp_path / f"{name}.png")) for name in ("local", "plain")
    )
    for concept in ("eyes", "nose", "mouth"):
        assert local[concept][1] == 0 < plain[concept][1]
        assert local[concept][0] > 0.25 * plain[concept][0]
    assert (tmp_path / "local.png").stat().st_size > 1000


def test_a_picture_and_a_text_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    picture: Any = _example("explain_image", monkeypatch)
    phi = picture.main(str(tmp_path / "digit.png"), steps=60)
    assert (tmp_path / "digit.png").stat().st_size > 5_000 and phi.n_players == 16
    assert float(phi.grand_value - phi.empty_value) > 1 and abs(float(phi.efficiency_gap)) < 1e-4
    text: Any = _example("explain_text", monkeypatch)
    pairs = text.main(str(tmp_path / "text.html"))
    assert "wonderful" in (tmp_path / "text.html").read_text(encoding="utf-8")
    assert pairs["not", "good"] < -1 < pairs["plot", "music"] < 1  # a negation turns the word behind it round
