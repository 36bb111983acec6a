"""Kill ``train``, ``demo`` and ``save`` at random moments of their lives, go on, and see what is lost: nothing may be.

    python -m benchmarks.reliability.kills_runs                  # all, 50 kills each; about 20 minutes
    python -m benchmarks.reliability.kills_runs --kills 4 --only train --out somewhere

Of what is not asked for by ``--only`` the figures in the file stay.

Every command runs in a process of its own. A run is killed five times, half of them by SIGKILL and half by SIGTERM, at
moments drawn uniformly over what is left of its life, start-up included, and then goes on to its end. What it left is
compared with what an uninterrupted run left, bit for bit. A process that saves one of two models in a folder again and
again is killed, too; the folder must hold one of them, whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "kills_runs.json"
KILLS_A_RUN = 5
MARKER = "SHAPKIT_KILLED_RUN"
"""The environment variable by which the processes of a run are found, whoever their parent is by now."""


@dataclass(frozen=True)
class Subject:
    """A command that is killed.

    Args:
        name: of the command.
        command: the arguments of Python that run it into a folder, new or begun.
        runs: the run folders in that folder, with the steps and the steps between saved states of each.
        result: what an uninterrupted run and a resumed one must leave alike.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    runs: Mapping[str, tuple[int, int]]
    result: Callable[[Path], dict[str, Any]]


@dataclass
class Tally:
    """What was found; everything but the first three and the last is a fault and must be 0."""

    kills: dict[str, int] = field(default_factory=lambda: {"SIGKILL": 0, "SIGTERM": 0})
    moments: list[float] = field(default_factory=list)
    runs: int = 0
    unexpected_statuses: list[int] = field(default_factory=list)
    processes_left: int = 0
    steps_lost_beyond_a_save: int = 0
    most_steps_done_again: int = 0
    records_missing_or_twice: int = 0
    other_results: int = 0
    slowest_end_seconds: float = 0.0


def train_subject() -> Subject:
    """``shapkit-diffusion train`` of a small model."""
    steps, save_every = 300, 20
    options = f"--count 64 --size 16 --channels 8 16 --batch-size 4 --steps {steps} --save-every {save_every}"
    fixed = ["-m", "shapkit_diffusion.cli", "train", *options.split(), "--log-every", "1", "--threads", "1", "--resume"]
    return Subject(
        "train",
        lambda folder: [*fixed, "--out", str(folder)],
        {".": (steps, save_every)},
        lambda folder: {**_records(folder), **_files(folder / "model"), **_files(folder, "samples.png")},
    )


def demo_subject() -> Subject:
    """``shapkit-diffusion demo`` of photographs with few steps, pairs and images."""
    runs = {name: (60, 20) for name in ("plain", "control", "penalty")}

    def result(folder: Path) -> dict[str, Any]:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        found = {"summary": {name: value for name, value in summary.items() if name != "seconds"}}
        for name in runs:
            found |= {f"{name}/{key}": value for key, value in _files(folder / name / "model").items()}
            found |= {f"{name}/{key}": value for key, value in _records(folder / name).items()}
        return found

    return Subject("demo", lambda folder: [__file__, "--demo-into", str(folder)], runs, result)


def small_demo(folder: str) -> int:
    """The command ``demo`` with another configuration, in this process; its exit status."""
    import shapkit_diffusion.commands.demo as command
    from shapkit_diffusion import cli
    from shapkit_diffusion.demo import DemoConfig
    from shapkit_diffusion.evaluation.evaluate import EvaluateConfig
    from shapkit_diffusion.training.config import PenaltyConfig, TrainConfig

    quick = TrainConfig(steps=60, batch_size=4, warmup=1, log_every=1, save_every=20, penalty=PenaltyConfig())
    measured = EvaluateConfig(pairs=3, images=8, steps=2)
    config = DemoConfig("photographs", quick, measured, base=replace(quick, penalty=None), influence_images=2)
    command.demo_config = lambda data: config  # type: ignore[attr-defined]
    return cli.main(["demo", "--data", "photographs", "--out", folder, "--resume"])


def killed(subject: Subject, kills: int, seed: int, work: Path) -> dict[str, Any]:
    """Kill a command so many times and return what was found, as plain values."""
    draw, tally = random.Random(seed), Tally()
    signals = [signal.SIGKILL, signal.SIGTERM] * (kills // 2) + [signal.SIGKILL] * (kills % 2)
    draw.shuffle(signals)
    started = time.monotonic()
    whole = Run(subject, work / "whole", tally)
    whole.start()
    assert whole.ended() == 0, whole.said()
    life, expected = time.monotonic() - started, subject.result(whole.folder)
    started = time.monotonic()
    whole.start()  # of a finished run: how long it takes to begin, more or less
    assert whole.ended() == 0, whole.said()
    start_up = time.monotonic() - started
    while signals:
        run = Run(subject, work / f"run-{tally.runs}", tally)
        left = life
        for _ in range(min(KILLS_A_RUN, len(signals))):
            moment = draw.uniform(0, left)
            run.start()
            if not run.killed(moment, signals[-1]):
                break
            name = signals.pop().name
            tally.kills[name] += 1
            tally.moments.append(round(moment + life - left, 2))
            left = max(1.2 * start_up, left - max(0.0, moment - start_up))
            print(f"{subject.name}: {name} after {moment:.1f} s, {sum(tally.kills.values())} of {kills}", flush=True)
        else:
            run.start()
        status = run.ended()
        if status:
            print(run.said(), file=sys.stderr)
            tally.unexpected_statuses.append(status)
        tally.runs += 1
        if status == 0:
            run.check_records()
            tally.other_results += subject.result(run.folder) != expected
    found = {key: value for key, value in vars(tally).items() if key != "moments"}
    tenths = [sum(1 for moment in tally.moments if int(10 * moment / life) == tenth) for tenth in range(10)]
    return {"command": subject.name, "life_seconds": round(life, 1), "kills_by_tenth_of_life": tenths, **found}


class Run:
    """One run of a command, killed and resumed."""

    def __init__(self, subject: Subject, folder: Path, tally: Tally) -> None:
        self.subject, self.folder, self.tally = subject, folder, tally
        self.mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin, or go on."""
        self._log = self.folder.with_name(self.folder.name + ".log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.subject.command(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, MARKER: self.mark, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def killed(self, moment: float, by: signal.Signals) -> bool:
        """Whether the process was there after ``moment`` seconds, and was killed; what it left is looked at."""
        assert self._process is not None
        try:
            self._process.wait(moment)
            return False
        except subprocess.TimeoutExpired:
            self._process.send_signal(by)
        sent = time.monotonic()
        status = self.ended()
        tally = self.tally
        while (left := processes_marked(self.mark)) and time.monotonic() < sent + 30:
            time.sleep(0.02)
        tally.slowest_end_seconds = round(max(tally.slowest_end_seconds, time.monotonic() - sent), 2)
        tally.processes_left += len(left)
        for process in left:
            os.kill(process, signal.SIGKILL)
        if status not in ({-signal.SIGKILL} if by == signal.SIGKILL else {-signal.SIGTERM, 75, 0}):
            print(self.said(), file=sys.stderr)
            tally.unexpected_statuses.append(status)
        for name, (_, save_every) in self.subject.runs.items():
            lost = max(steps_logged(self.folder / name), default=0) - step_saved(self.folder / name)
            tally.steps_lost_beyond_a_save += lost > save_every
            tally.most_steps_done_again = max(tally.most_steps_done_again, lost)
        return True

    def ended(self) -> int:
        """The exit status, once there is one."""
        assert self._process is not None
        return self._process.wait(300)

    def check_records(self) -> None:
        """Count the runs whose metrics do not have every step once."""
        for name, (steps, _) in self.subject.runs.items():
            self.tally.records_missing_or_twice += steps_logged(self.folder / name) != list(range(1, steps + 1))

    def said(self) -> str:
        """The last that it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]


def killed_saves(kills: int, seed: int, work: Path) -> dict[str, Any]:
    """Kill a process that saves two models in one folder in turn, and return what was found in it, as plain values.

    The models have other sizes and predict other things, so that no mixture of their files can be taken for either.
    """
    from shapkit_diffusion.denoisers.denoiser import small_denoiser
    from shapkit_diffusion.denoisers.loading import load_denoiser

    models = [small_denoiser(32, 3, (16, 32), "epsilon"), small_denoiser(16, 3, (16, 32, 64), "v_prediction", seed=1)]
    folder, draw = work / "model", random.Random(seed)
    digests = []
    for model in reversed(models):
        model.save(folder)
        digests.append(_digest(load_denoiser(folder)))
    files = sorted(_files(folder))
    begun = time.monotonic()
    for model in models * 5:
        model.save(folder)
    life = (time.monotonic() - begun) / 10
    signals = [signal.SIGKILL, signal.SIGTERM] * (kills // 2) + [signal.SIGKILL] * (kills % 2)
    found = {"whole": 0, "neither": 0, "half_written": 0, "half_moved": 0, "files_left": 0, "files_lost": 0}
    tally = {"SIGKILL": 0, "SIGTERM": 0}
    for by in signals:
        process = get_context("fork").Process(target=_save_for_ever, args=(models, folder))
        process.start()
        time.sleep(0.05 + draw.uniform(0, 10 * life))
        assert process.pid is not None
        os.kill(process.pid, by)
        process.join()
        stage = folder / ".saving"
        found["half_moved"] += (stage / "complete.json").is_file()
        found["half_written"] += stage.is_dir() and not (stage / "complete.json").is_file()
        try:
            found["whole" if _digest(load_denoiser(folder)) in digests else "neither"] += 1
        except ValueError:
            found["neither"] += 1
        models[0].save(folder)
        left = sorted(_files(folder))
        found["files_left"] += len(set(left) - set(files))
        found["files_lost"] += len(set(files) - set(left))
        tally[by.name] += 1
    return {"command": "save", "life_seconds": round(life, 3), "kills": tally, **found}


def _save_for_ever(models: Sequence[Any], folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        for model in models:
            model.save(folder)


def _digest(model: Any) -> str:
    """Of a denoiser's weights and settings."""
    digest = hashlib.sha256(json.dumps([dict(model.scheduler.config), str(model.unet.config)], default=str).encode())
    for name, weights in model.unet.state_dict().items():
        digest.update(name.encode() + weights.numpy().tobytes())
    return digest.hexdigest()


def processes_marked(mark: str) -> list[int]:
    """The processes that have ``mark`` in their environment: those of a run, and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{MARKER}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile, or is another user's
                continue
    return found


def steps_logged(folder: Path) -> list[int]:
    """The steps that ``metrics.jsonl`` has lines of; half a last line counts for nothing."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line)["step"] for line in lines]


def step_saved(folder: Path) -> int:
    """The step of the last state that was written to its end."""
    names = [path.parent.name for path in folder.glob("state/step-*/state.json")]
    return max((int(name.removeprefix("step-")) for name in names if not name.endswith(".partial")), default=0)


def _records(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"metrics": [{name: value for name, value in line.items() if name != "seconds"} for line in lines]}


def _files(folder: Path, pattern: str = "**/*") -> dict[str, Any]:
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def report(measured: Mapping[str, Any]) -> str:
    """The table of the documentation."""
    head = ("command", "SIGKILL", "SIGTERM", "runs", "steps again", "processes left", "records wrong", "other results")
    lines = ["  ".join(f"{name:>14}" for name in head)]
    runs = [row for row in measured["commands"] if row["command"] != "save"]
    for row in runs:
        cells = (
            row["command"],
            row["kills"]["SIGKILL"],
            row["kills"]["SIGTERM"],
            row["runs"],
            f"at most {row['most_steps_done_again']}",
            row["processes_left"],
            row["records_missing_or_twice"],
            row["other_results"],
        )
        lines.append("  ".join(f"{cell:>14}" for cell in cells))
    lines.append("")
    for row in runs:
        spread = " ".join(str(count) for count in row["kills_by_tenth_of_life"])
        lines.append(f"{row['command']}: a life of {row['life_seconds']} s; kills in each tenth of it: {spread}")
        lines.append(f"{'':<{len(row['command'])}}  all processes ended {row['slowest_end_seconds']} s after a signal")
    for row in (row for row in measured["commands"] if row["command"] == "save"):
        signals = " and ".join(f"{count} {name}" for name, count in row["kills"].items())
        lines += [
            "",
            f"save: {signals} among saves of {row['life_seconds']} s each, {row['half_written']} while files were "
            f"written, {row['half_moved']} while they were moved",
            f"      afterwards: the old or the new model, whole, {row['whole']} times, anything else {row['neither']}; "
            f"after one more save: files lost {row['files_lost']}, left {row['files_left']}",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill train, demo and save at random moments, and go on.")
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("train", "demo", "save"), help="one of the commands")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument("--demo-into", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.demo_into:
        sys.exit(small_demo(options.demo_into))
    subjects = [subject for subject in (train_subject(), demo_subject()) if options.only in (None, subject.name)]
    with tempfile.TemporaryDirectory() as work:
        commands = []
        for subject in subjects:
            (Path(work) / subject.name).mkdir()
            commands.append(killed(subject, options.kills, options.seed, Path(work) / subject.name))
        if options.only in (None, "save"):
            commands.append(killed_saves(options.kills, options.seed, Path(work)))
    kept = json.loads(options.out.read_text(encoding="utf-8"))["commands"] if options.out.is_file() else []
    by_name = {row["command"]: row for row in [*kept, *commands]}
    measured = {"seed": options.seed, "commands": list(by_name.values())}
    options.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(report(measured))


if __name__ == "__main__":
    main()
