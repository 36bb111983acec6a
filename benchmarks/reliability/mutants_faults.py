"""All faults of a package's files, as mutmut's operators make them, and a sample of them."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parents[2]
SHOWN = ("text.py", "plots.py", "progress.py")  # pictures and text: judged by looking at them


@dataclass(frozen=True)
class Mutant:
    """One fault: the line before and after, in a file."""

    file: str
    line: int
    before: str
    after: str
    digest: str

    @property
    def key(self) -> str:
        return f"{self.file}: {self.before} -> {self.after}"


class Faults:
    """All faults of a file; their text is made when it is asked for, because there are many."""

    def __init__(self, file: Path) -> None:
        self.file, self.text = file, file.read_text(encoding="utf-8")
        wrapper = MetadataWrapper(cst.parse_module(self.text))
        parents = wrapper.resolve(ParentNodeProvider)
        self._module, self._positions = wrapper.module, wrapper.resolve(PositionProvider)
        self._changes = [
            (node, changed)
            for node in parents
            if _is_code(node, parents)
            for kind, operator in mutation_operators
            if isinstance(node, kind)
            for changed in operator(node)
        ]

    def __len__(self) -> int:
        return len(self._changes)

    def made(self, number: int) -> tuple[Mutant, str] | None:
        """A fault and the file's text with it; None where that is no Python."""
        node, changed = self._changes[number]
        mutated = self._module.deep_replace(node, changed).code
        if mutated == self.text or not _compiles(mutated):
            return None
        name = str(self.file.relative_to(ROOT))
        digest = hashlib.sha256(f"{name} {mutated}".encode()).hexdigest()[:12]
        before, after = _difference(self.text, mutated)
        return Mutant(name, self._positions[node].start.line, before, after, digest), mutated


def _is_code(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> bool:
    """Whether a node is part of what a function does: not of an annotation, a decorator, a message or a docstring."""
    inside = False
    while node in parents:
        parent = parents[node]
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Raise | cst.Assert | cst.FormattedString | cst.Import):
            return False
        if isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString):
            return False
        if isinstance(parent, cst.FunctionDef) and node is parent.body:
            if parent.name.value in ("__repr__", "_repr_html_", "__str__"):
                return False
            inside = True
        node = parent
    return inside


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _difference(text: str, mutated: str) -> tuple[str, str]:
    """The lines that differ, joined and stripped."""
    sides: dict[str, list[str]] = {"-": [], "+": []}
    for line in difflib.ndiff(text.splitlines(), mutated.splitlines()):
        if line[0] in sides:
            sides[line[0]].append(line[2:].strip())
    return " ".join(sides["-"]), " ".join(sides["+"])


def sampled(patterns: Sequence[str], package: str, count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Faults of a package, which is the files that ``patterns`` find, drawn uniformly from all that there are."""
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    faults = [Faults(file) for file in files if file.name not in SHOWN]
    numbered = [(faults_of, number) for faults_of in faults for number in range(len(faults_of))]
    random.Random(f"{package} {seed}").shuffle(numbered)
    drawn: dict[str, tuple[Mutant, str]] = {}
    for faults_of, number in numbered:
        if len(drawn) == count:
            break
        made = faults_of.made(number)
        if made is not None:
            drawn.setdefault(made[0].digest, made)
    return list(drawn.values())
