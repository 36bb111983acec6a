"""Small faults put into the code one at a time, to see whether the tests notice: how many they kill, and which survive.

    make mutants                                              # both packages, as many as were published; some hours
    python -m benchmarks.reliability.mutants --package core --sample 40 --seed 1 --work runs/mutants

The faults are mutmut's: a number and one more, + and -, < and <=, an argument left out, a value that becomes None, and
so on. mutmut itself runs tests in forks of one process, which inherit threads of torch, OpenMP and executors that do
not run there. Here each fault goes into a copy of the tree, where a new process runs the tests that run its line; a
first run of all tests under coverage tells which those are. A sample is drawn from all faults. Annotations, docstrings,
messages of errors and what is only shown are left out.

Everything is written to the folder ``--work`` as soon as it is known, and a second call goes on. Those that no test can
notice are listed with the reason in ``benchmarks/reliability/mutants_equivalent.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.reliability.mutants_faults import Mutant

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "mutants.json"
EQUIVALENT = ROOT / "benchmarks" / "mutants_equivalent.json"
ADAPTERS = "adapters/shapkit_diffusion"
PACKAGES = {
    "core": ["shapkit/**/*.py"],
    "adapters": [
        f"{ADAPTERS}/denoisers/schedules.py",
        *(f"{ADAPTERS}/{room}/*.py" for room in ("noise", "evaluation", "training")),
    ],
}
TESTS = ("tests/shapkit", "tests/shapkit_diffusion")
COPIED = (
    "shapkit",
    "adapters",
    "tests",
    "benchmarks",
    "examples",
    "docs",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
)
PATIENCE = 60.0  # seconds a mutant's tests may take beyond five times what they took
NO_TESTS = 5  # pytest's exit status where there is nothing to run
LONGEST = 60.0  # seconds of tests for one mutant: the quickest that run its line, and no more


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
        [path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("test_*.py")) if path.stat().st_mtime > since]
        for folder in TESTS
    ]
    parts = [part for part in parts if part]
    if not parts:
        return lines
    tree = _copied(work / "tree-0")  # a test that fails in a copy without any fault would seem to kill all faults
    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(lambda part: _covered(work, tree, *part), enumerate(parts)))
    for number in range(len(parts)):
        _read_coverage(tree, work / f"coverage-{number}", _seconds(work / f"junit-{number}.xml"), lines)
    everything = [*lines.get("", {}).get(0, [])]
    for number in range(len(parts)):
        everything += _seconds(work / f"junit-{number}.xml").items()
    lines[""] = {0: everything}  # also those that run nothing but compiled code
    found.write_text(json.dumps(lines), encoding="utf-8")
    return lines


def _covered(work: Path, tree: Path, number: int, tests: Sequence[Path]) -> None:
    settings = work / "coveragerc"
    settings.write_text("[run]\nsource = shapkit\n    shapkit_diffusion\n")
    command = ["-m", "coverage", "run", f"--rcfile={settings}", f"--data-file={work / f'coverage-{number}'}"]
    pytest = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.reliability.mutants_contexts",
        f"--junitxml={work / f'junit-{number}.xml'}",
        *map(str, tests),
    ]
    with (work / f"coverage-{number}.log").open("wb") as log:
        subprocess.run([sys.executable, *command, *pytest], cwd=tree, stdout=log, stderr=log, env=_environment(tree))


def _seconds(junit: Path) -> dict[str, float]:
    """The seconds of each test function that passed, by its node, of all its parameters together."""
    import xml.etree.ElementTree as ElementTree

    seconds: dict[str, float] = {}
    failed = set()
    for case in ElementTree.parse(junit).iter("testcase"):  # our own file
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].split('[')[0]}"
        seconds[name] = seconds.get(name, 0.0) + float(case.attrib["time"])
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(name)
    for name in sorted(failed):
        print(f"left out, because it fails without any fault: {name}", flush=True)
    return {name: taken for name, taken in seconds.items() if name not in failed}


def _read_coverage(
    tree: Path, data: Path, seconds: Mapping[str, float], lines: dict[str, dict[int, list[tuple[str, float]]]]
) -> None:
    from coverage import CoverageData

    covered = CoverageData(str(data))
    covered.read()
    for path in covered.measured_files():
        file = str(Path(path).relative_to(tree))
        by_line = lines.setdefault(file, {})
        for line, contexts in covered.contexts_by_lineno(path).items():
            for context in contexts:
                if context in seconds and context not in dict(by_line.get(line, [])):
                    by_line.setdefault(line, []).append((context, seconds[context]))


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
                outcome = "survived" if status in (0, NO_TESTS) else "killed"
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


def main() -> None:
    from benchmarks.reliability.mutants_faults import (
        sampled,  # needs the extra "mutants", which the table above does without
    )

    parser = argparse.ArgumentParser(description="Put small faults into the code, and see whether the tests notice.")
    parser.add_argument("--package", choices=PACKAGES, action="append", help="by default all")
    parser.add_argument("--sample", type=int, default=300, help="faults of each package")
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
        wanted = sampled(PACKAGES[package], package, options.sample, options.seed)
        known = {record["digest"]: record for record in _records(log)}
        left = [
            (mutant, text)
            for mutant, text in wanted
            if mutant.digest not in known or (options.again and known[mutant.digest]["outcome"] == "survived")
        ]
        _try_all(package, left, lines, options.processes, options.work, log)
        print(report(figures(_records(log), [(package, wanted)])))
    if options.publish:
        drawn = [(package, sampled(PACKAGES[package], package, options.sample, options.seed)) for package in PACKAGES]
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
    found = lines.get(mutant.file, {}).get(mutant.line, [])
    if found or "@compiled" not in _text(mutant.file):
        return found
    name = Path(mutant.file).stem
    importers = [file for file in lines if _imports(file, name)]
    indirect = {test for file in importers for tests in lines[file].values() for test in map(tuple, tests)}
    direct = {test for test in map(tuple, lines[""][0]) if _imports(test[0].split("::")[0], name)}
    return sorted(indirect | direct)


def _imports(file: str, name: str) -> bool:
    text = _text(file)
    return f"{name} import" in text or f"import {name}\n" in text


@cache
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
