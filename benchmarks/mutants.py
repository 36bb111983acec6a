"""Small faults put into the code one at a time, to see whether the tests notice: how many they kill, and which survive.

    make mutants                                              # both packages, as many as were published; some hours
    python benchmarks/mutants.py --package core --sample 40 --seed 1 --work runs/mutants

The faults are mutmut's: a number and one more, + and -, < and <=, an argument left out, a value that becomes None, and
so on. mutmut itself runs tests in forks of one process, which inherit threads of torch, OpenMP and executors that do
not run there. Here each fault goes into a copy of the tree, where a new process runs the tests that run its line; a
first run of all tests under coverage tells which those are. A sample is drawn from all faults. Annotations, docstrings,
messages of errors and what is only shown are left out.

Everything is written to the folder ``--work`` as soon as it is known, and a second call goes on. Those that no test can
notice are listed with the reason in ``benchmarks/mutants_equivalent.json``.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "mutants.json"
EQUIVALENT = ROOT / "benchmarks" / "mutants_equivalent.json"
ADAPTERS = "adapters/shapkit_diffusion"
PACKAGES = {
    "core": ["shapkit/**/*.py"],
    "adapters": [
        *(f"{ADAPTERS}/{name}.py" for name in ("sampling", "schedules", "edits", "influence")),
        f"{ADAPTERS}/evaluation/*.py",
        f"{ADAPTERS}/training*.py",
    ],
}
TESTS = ("tests/shapkit", "tests/shapkit_diffusion")
COPIED = ("shapkit", "adapters", "tests", "benchmarks", "examples", "docs", "pyproject.toml", "README.md", "Makefile")
PATIENCE = 60.0  # seconds a mutant's tests may take beyond five times what they took
LONGEST = 60.0  # seconds of tests for one mutant: the quickest that run its line, and no more
SHOWN = ("_printing.py", "plots.py", "progress.py")  # pictures and text: judged by looking at them


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


def tests_of_lines(work: Path) -> dict[str, dict[int, list[tuple[str, float]]]]:
    """For each file and line the tests that run it, with their seconds; from a run of all tests, once."""
    found = work / "tests_of_lines.json"
    lines: dict[str, dict[int, list[tuple[str, float]]]] = {}
    since = 0.0
    if found.is_file():
        stored = json.loads(found.read_text(encoding="utf-8"))
        lines = {file: {int(line): tests for line, tests in by_line.items()} for file, by_line in stored.items()}
        since = found.stat().st_mtime
    # Tests that were written since then are run too; lines that have moved since then are not looked for
    parts = [
        sorted(path for path in (ROOT / folder).rglob("test_*.py") if path.stat().st_mtime > since) for folder in TESTS
    ]
    parts = [part for part in parts if part]
    with ThreadPoolExecutor(max(1, len(parts))) as threads:
        list(threads.map(lambda part: _covered(work, *part), enumerate(parts)))
    for number in range(len(parts)):
        _read_coverage(work / f"coverage-{number}", _seconds(work / f"junit-{number}.xml"), lines)
    found.write_text(json.dumps(lines), encoding="utf-8")
    return lines


def _covered(work: Path, number: int, tests: Sequence[Path]) -> None:
    settings = work / "coveragerc"
    settings.write_text("[run]\ndynamic_context = test_function\nsource = shapkit\n    shapkit_diffusion\n")
    command = ["-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={work / f'coverage-{number}'}"]
    pytest = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={work / f'junit-{number}.xml'}",
        *map(str, tests),
    ]
    with (work / f"coverage-{number}.log").open("wb") as log:
        subprocess.run([sys.executable, *command, *pytest], cwd=ROOT, stdout=log, stderr=log, env=_environment(ROOT))


def _seconds(junit: Path) -> dict[str, float]:
    """The seconds of each test function, by its dotted name, of all its parameters together."""
    import xml.etree.ElementTree as ElementTree

    seconds: dict[str, float] = {}
    for case in ElementTree.parse(junit).iter("testcase"):  # our own file
        name = f"{case.attrib['classname']}.{case.attrib['name'].split('[')[0]}"
        seconds[name] = seconds.get(name, 0.0) + float(case.attrib["time"])
    return seconds


def _read_coverage(
    data: Path, seconds: Mapping[str, float], lines: dict[str, dict[int, list[tuple[str, float]]]]
) -> None:
    from coverage import CoverageData

    covered = CoverageData(str(data))
    covered.read()
    for path in covered.measured_files():
        file = str(Path(path).relative_to(ROOT))
        by_line = lines.setdefault(file, {})
        for line, contexts in covered.contexts_by_lineno(path).items():
            for context in contexts:
                if context in seconds and (test := (_node(context), seconds[context]))[0] not in dict(
                    by_line.get(line, [])
                ):
                    by_line.setdefault(line, []).append(test)


def _node(context: str) -> str:
    """What pytest calls a test function."""
    module, name = context.rsplit(".", 1)
    return f"{module.replace('.', '/')}.py::{name}"


def _environment(tree: Path) -> dict[str, str]:
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    paths = os.pathsep.join([str(tree), str(tree / "adapters")])
    return {
        **os.environ,
        **threads,
        "PYTHONPATH": paths,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(tree / ".hypothesis"),
    }


def tried(mutant: Mutant, text: str, tests: Sequence[tuple[str, float]], tree: Path) -> dict[str, Any]:
    """Whether tests notice a fault in a copy of the tree."""
    chosen, total = [mutant.file], 0.0  # its doctests
    for name, seconds in sorted(tests, key=lambda test: test[1]):
        if total + seconds > LONGEST:
            break
        chosen.append(name)
        total += seconds
    target = tree / mutant.file
    shutil.copyfile(ROOT / mutant.file, target)
    before = target.read_text(encoding="utf-8")
    target.write_text(text, encoding="utf-8")
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *chosen,
    ]
    try:
        with subprocess.Popen(
            command,
            cwd=tree,
            env=_environment(tree),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                status = process.wait(5 * total + PATIENCE)
                outcome = "survived" if status == 0 else "killed"
            except subprocess.TimeoutExpired:
                outcome = "timed out"
            finally:
                _end(process.pid)
    finally:
        target.write_text(before, encoding="utf-8")
    return {**asdict(mutant), "outcome": outcome, "tests": len(chosen), "seconds": round(time.monotonic() - began, 1)}


def _end(group: int) -> None:
    """Kill what is left of a test run, with the processes it started."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def sampled(package: str, count: int, seed: int) -> list[tuple[Mutant, str]]:
    """Faults of a package, drawn uniformly from all that there are."""
    files = sorted({path for pattern in PACKAGES[package] for path in ROOT.glob(pattern)})
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Put small faults into the code, and see whether the tests notice.")
    parser.add_argument("--package", choices=PACKAGES, action="append", help="by default all")
    parser.add_argument("--sample", type=int, default=100, help="faults of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "mutants")
    parser.add_argument("--again", action="store_true", help="try those again that survived")
    parser.add_argument("--publish", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    lines = tests_of_lines(options.work)
    log = options.work / "mutants.jsonl"
    for package in options.package or PACKAGES:
        wanted = sampled(package, options.sample, options.seed)
        known = {record["digest"]: record for record in _records(log)}
        left = [
            (mutant, text)
            for mutant, text in wanted
            if mutant.digest not in known or (options.again and known[mutant.digest]["outcome"] == "survived")
        ]
        _try_all(package, left, lines, options.processes, options.work, log)
        print(report(figures(_records(log), [(package, wanted)])))
    if options.publish:
        drawn = [(package, sampled(package, options.sample, options.seed)) for package in PACKAGES]
        RESULTS.write_text(json.dumps(figures(_records(log), drawn), indent=1) + "\n", encoding="utf-8")


def _try_all(
    package: str,
    left: Sequence[tuple[Mutant, str]],
    lines: Mapping[str, Mapping[int, list[tuple[str, float]]]],
    processes: int,
    work: Path,
    log: Path,
) -> None:
    trees: SimpleQueue[Path] = SimpleQueue()
    for number in range(processes):
        trees.put(_copied(work / f"tree-{number}"))

    def one(pair: tuple[Mutant, str]) -> dict[str, Any]:
        mutant, text = pair
        tree = trees.get()
        try:
            record = tried(mutant, text, _tests_of(mutant, lines), tree)
        finally:
            trees.put(tree)
        return {"package": package, **record}

    with ThreadPoolExecutor(processes) as threads, log.open("a", encoding="utf-8") as file:
        for done, record in enumerate(threads.map(one, left), start=1):
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(
                f"{package} {done} of {len(left)}: {record['outcome']}, {record['file']}:{record['line']}", flush=True
            )


def _tests_of(mutant: Mutant, lines: Mapping[str, Mapping[int, list[tuple[str, float]]]]) -> list[tuple[str, float]]:
    """The tests that run the line; of compiled code, which no tracer sees, those that run what imports it."""
    own = lines.get(mutant.file, {})
    if own:
        return own.get(mutant.line, [])
    name = Path(mutant.file).stem
    importers = [file for file in lines if f"{name} import" in (text := _text(file)) or f"import {name}\n" in text]
    return sorted({(test, seconds) for file in importers for tests in lines[file].values() for test, seconds in tests})


def _text(file: str) -> str:
    path = ROOT / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _copied(tree: Path) -> Path:
    shutil.rmtree(tree, ignore_errors=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, tree / name)
    return tree


def _records(log: Path) -> list[dict[str, Any]]:
    """The last record of each fault."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return list({record["digest"]: record for record in map(json.loads, lines)}.values())


def figures(
    records: Sequence[Mapping[str, Any]], drawn: Sequence[tuple[str, Sequence[tuple[Mutant, str]]]]
) -> dict[str, Any]:
    """What was found of the faults drawn, as plain values."""
    reasons = {entry["mutant"]: entry["reason"] for entry in json.loads(EQUIVALENT.read_text(encoding="utf-8"))}
    by_digest = {record["digest"]: record for record in records}
    packages, equivalents, survivors = [], [], []
    for package, wanted in drawn:
        counts = dict.fromkeys(("killed", "timed out", "survived", "equivalent"), 0)
        for mutant, _ in wanted:
            record = by_digest.get(mutant.digest)
            if record is None:
                continue
            outcome = record["outcome"]
            if outcome == "survived" and mutant.key in reasons:
                outcome = "equivalent"
                equivalents.append({"mutant": mutant.key, "reason": reasons[mutant.key]})
            elif outcome == "survived":
                survivors.append({"mutant": mutant.key, "line": mutant.line, "tests": record["tests"]})
            counts[outcome] += 1
        packages.append({"package": package, "tried": sum(counts.values()), **counts})
    return {"packages": packages, "equivalents": equivalents, "survivors": survivors}


def report(measured: Mapping[str, Any]) -> str:
    """The table of the documentation."""
    head = ("package", "tried", "killed", "timed out", "survived", "equivalent", "killed of the rest")
    lines = ["  ".join(f"{name:>10}" for name in head)]
    for row in measured["packages"]:
        rest = row["tried"] - row["equivalent"]
        share = (row["killed"] + row["timed out"]) / rest if rest else 0.0
        lines.append("  ".join(f"{row[name]:>10}" for name in head[:-1]) + f"  {share:>17.1%}")
    for title, key in (("survived", "survivors"), ("equivalent", "equivalents")):
        if measured[key]:
            lines += ["", f"{title}:"]
            lines += [
                f"  {entry['mutant']}" + (f"\n      {entry['reason']}" if "reason" in entry else "")
                for entry in measured[key]
            ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
