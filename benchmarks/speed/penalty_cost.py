"""What the penalty costs a training step: time and memory beside a step without it, for 2 to 11 regions.

    python -m benchmarks.speed.penalty_cost          # docs/results/penalty_cost.json and a picture; ten minutes
    python -m benchmarks.speed.penalty_cost --quick  # a minute or two, prints only
    python -m benchmarks.speed.penalty_cost --redraw # the picture and the text from the JSON

A step is the forward and backward pass of the denoising loss, the penalty's, and AdamW. On the CPU it trains the
shipped DDPM of 32 x 32 faces and a DiT of that size (diffusers' DiTTransformer2DModel), in float32. On a GPU, where
there is one, also a DDPM of 113.7 M random weights (the architecture of google/ddpm-celebahq-256), in bf16. Every step
with a penalty stands beside a step without one that was measured just before; a ratio is the median of those ratios.
Peak memory is that of a step in a process of its own (on a GPU, of the allocator), less what was there before the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from torch import Tensor, nn

from benchmarks.machine import machine
from shapkit.differentiable import DummyPlayerPenalty, RandomState, Regions
from shapkit_diffusion.denoisers.loading import load_denoiser

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "penalty_cost.json"
PICTURE = ROOT / "docs" / "pictures" / "penalty_cost.png"
SHIPPED = ROOT / "adapters" / "shapkit_diffusion" / "models" / "faces32"

N_REGIONS = (2, 4, 8, 11)
FORMS: dict[str, DummyPlayerPenalty] = {
    "published, C = 4": DummyPlayerPenalty("per_region", "zeros", samples=4),
    "published, C = 1": DummyPlayerPenalty("per_region", "zeros", samples=1),
    "shared, C = 4": DummyPlayerPenalty("shared", "zeros", samples=4),
    "grand coalition": DummyPlayerPenalty("grand", "zeros"),
    "default": DummyPlayerPenalty(),
}
"""The default compares each sample with itself, one region exchanged; the rest are for contrast."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH")


@dataclass(frozen=True)
class Problem:
    """A network to train, called with a batch and its timesteps, and a batch for it."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    x: Tensor
    target: Tensor
    timesteps: Tensor
    autocast: bool

    @property
    def device(self) -> torch.device:
        return self.x.device


def problem_of(name: str, network: nn.Module, size: int, batch: int, device: str, autocast: bool = False) -> Problem:
    """``network`` with AdamW and random images; neighbours share their timestep."""
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(batch, 3, size, size, generator=generator).to(device) for _ in range(2))
    timesteps = torch.randint(0, 1000, (batch // 2,), generator=generator).repeat_interleave(2).to(device)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    return Problem(name, network, optimizer, x, target, timesteps, autocast)


def shipped_problem(batch: int) -> Problem:
    return problem_of(f"UNet, 32 x 32, batch {batch}, float32, CPU", load_denoiser(SHIPPED), 32, batch, "cpu")


def dit_problem(batch: int) -> Problem:
    return problem_of(f"DiT, 32 x 32, batch {batch}, float32, CPU", Dit(), 32, batch, "cpu")


class Dit(nn.Module):
    """A DiT of 32 x 32 pixels: patches of 2 x 2, six layers of width 192; random weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.transformer = DiTTransformer2DModel(
                num_attention_heads=3,
                attention_head_dim=64,
                in_channels=3,
                out_channels=3,
                num_layers=6,
                sample_size=32,
                patch_size=2,
                num_embeds_ada_norm=1000,
                dropout=0.0,
            )

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        labels = torch.zeros_like(timesteps)
        output: Tensor = self.transformer(x, timestep=timesteps, class_labels=labels).sample
        return output


class Ddpm(nn.Module):
    """The UNet of google/ddpm-celebahq-256, or a smaller one of its kind, with random weights."""

    def __init__(self, size: int, channels: tuple[int, ...] = (128, 128, 256, 256, 512, 512), layers: int = 2) -> None:
        super().__init__()
        plain = len(channels) - 2  # attention on the last level but one: 16 x 16 of 256 x 256
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.unet = UNet2DModel(
                sample_size=size,
                block_out_channels=channels,
                layers_per_block=layers,
                down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * plain,
                attention_head_dim=None,
                norm_num_groups=min(32, channels[0]),
                norm_eps=1e-6,
                downsample_padding=0,
                flip_sin_to_cos=False,
                freq_shift=1,
            )

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        output: Tensor = self.unet(x, timesteps).sample
        return output


def stripes(n_regions: int, like: Tensor) -> Regions:
    """``n_regions`` regions side by side, on the device of ``like`` (batch, channels, height, width)."""
    height, width = like.shape[2:]
    labels = (torch.arange(width) * n_regions // width).expand(1, height, width)
    return Regions.from_labels(labels, {str(k): [k] for k in range(n_regions)}, rest=None).to(like)


def train_step(problem: Problem, penalty: DummyPlayerPenalty | None, regions: Regions, step: int) -> int:
    """One step of training; returns how often the network ran."""
    runs = 0

    def network(x: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        output: Tensor = problem.network(x, problem.timesteps)
        return output

    with torch.autocast(problem.device.type, torch.bfloat16, enabled=problem.autocast):
        state = RandomState.of(problem.device)  # a DiT drops labels at random: the penalty's runs must drop the same
        output = network(problem.x)
        loss = (output.float() - problem.target).square().mean()
        if penalty is not None:
            paired = None if penalty.estimator == "present" else "paired"  # it compares no two samples
            loss = loss + penalty(
                network, problem.x, regions, output=output, random_state=state, step=step, conditions=paired
            )
    loss.backward()
    problem.optimizer.step()
    problem.optimizer.zero_grad(set_to_none=True)
    return runs


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, by the device's own clock where it has one."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1e3


def measure(problem: Problem, sizes: Iterable[int], turns: int) -> list[dict[str, Any]]:
    """Seconds of a step for every form and number of regions; every step has a plain one just before it."""
    cases = {(form, n): stripes(n, problem.x) for n in sizes for form in FORMS}
    timed: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in cases}
    runs: dict[tuple[str, int], list[int]] = {case: [] for case in cases}
    too_large: set[tuple[str, int]] = set()

    def one(form: str | None, regions: Regions, turn: int) -> tuple[float, int]:
        counts: list[int] = []
        penalty = FORMS[form] if form is not None else None
        seconds = seconds_of(lambda: counts.append(train_step(problem, penalty, regions, turn)), problem.device)
        return seconds, counts[0]

    for turn in range(turns + 1):
        for (form, n), regions in cases.items():
            if (form, n) in too_large or (turn == 0 and form != "default"):
                continue  # turn 0 warms up, which one form per number of regions does
            for _ in range(12 if form in ("grand coalition", "default") else 1):  # a step more or less is little
                plain, _one_run = one(None, regions, turn)
                try:
                    seconds, n_runs = one(form, regions, turn)
                except torch.OutOfMemoryError:
                    too_large.add((form, n))
                if (form, n) in too_large:  # out of the handler, whose traceback keeps the tensors alive
                    problem.optimizer.zero_grad(set_to_none=True)
                    torch.cuda.empty_cache()
                    break
                if turn:
                    timed[form, n].append((plain, seconds))
                    runs[form, n].append(n_runs)
        print(f"{problem.name}: turn {turn} of {turns}", flush=True)
    rows = []
    for (form, n), pairs in timed.items():
        row: dict[str, Any] = {"form": form, "n_regions": n, "seconds": None}
        if (form, n) not in too_large and pairs:
            row["plain_seconds"] = statistics.median(plain for plain, _ in pairs)
            row["seconds"] = statistics.median(seconds for _, seconds in pairs)
            row["ratio"] = statistics.median(seconds / plain for plain, seconds in pairs)
            row["runs"] = statistics.mean(runs[form, n])
        rows.append(row)
    return rows


def peak_on_cpu(form: str | None, n_regions: int, batch: int) -> float | None:
    """Peak memory in MB that a step adds, in a fresh process; None where the system does not tell (it is Linux's)."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.speed.penalty_cost", "--peak", form or "", str(n_regions), str(batch)]
    finished = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(finished.stdout.split()[-1])


def peak_of_this_process(form: str, n_regions: int, batch: int) -> float:
    """The same, in this process, which has taken no step before."""
    problem = shipped_problem(batch)
    regions = stripes(n_regions, problem.x)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here
    before = _status_mb("VmRSS")
    train_step(problem, FORMS.get(form), regions, 0)
    return _status_mb("VmHWM") - before


def _status_mb(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith(name + ":"))


def peak_on_gpu(problem: Problem, form: str | None, n_regions: int) -> float | None:
    """Peak memory in MB that a step adds; None where it does not fit."""
    regions = stripes(n_regions, problem.x)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(problem.device)
    before = torch.cuda.memory_allocated(problem.device)
    try:
        train_step(problem, None if form is None else FORMS[form], regions, 0)
    except torch.OutOfMemoryError:
        problem.optimizer.zero_grad(set_to_none=True)
        return None
    return (torch.cuda.max_memory_allocated(problem.device) - before) / 1e6


def waits(penalty: DummyPlayerPenalty, x: Tensor, regions: Regions) -> int:
    """How often the penalty's own code makes the host wait: counted in a profiler's trace, forward and backward.

    The network is a multiplication, so that nothing in the trace is the network's.
    """
    scale = torch.ones((), device=x.device, requires_grad=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if x.is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def without(step: int) -> None:
        (x * scale).mean().backward()

    def with_penalty(step: int) -> None:
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = penalty(lambda mixed: mixed * scale, x, regions, output=x * scale, step=step)
        loss.backward()

    counts = []
    for call in (without, with_penalty):
        call(0)
        with torch.profiler.profile(activities=activities) as trace:
            call(1)
        counts.append(count_waits(event.name for event in trace.events() or []))
    return counts[1] - counts[0]  # the profiler itself waits for the device when it stops


def count_waits(names: Iterable[str]) -> int:
    """How many events of a trace make the host wait for the device."""
    return sum(any(wait in name for wait in WAITS) for name in names)


def measured_problem(problem: Problem, sizes: Iterable[int], turns: int, batch_on_cpu: int | None) -> dict[str, Any]:
    """All figures of one problem; peaks in processes of their own for the CPU's, whose batch is given."""
    sizes = list(sizes)
    rows = measure(problem, sizes, turns)

    def peak(form: str | None, n: int) -> float | None:
        if problem.device.type == "cuda":
            return peak_on_gpu(problem, form, n)
        return None if batch_on_cpu is None else peak_on_cpu(form, n, batch_on_cpu)

    plain = peak(None, sizes[0])
    for row in rows:
        row["peak_mb"] = None if row["seconds"] is None else peak(row["form"], row["n_regions"])
    regions = stripes(sizes[0], problem.x)
    return {
        "name": problem.name,
        "n_parameters": sum(weights.numel() for weights in problem.network.parameters()),
        "plain_peak_mb": plain,
        "waits": waits(FORMS["default"], problem.x, regions) if problem.device.type == "cuda" else None,
        "rows": rows,
    }


def gpu_problems() -> Iterable[Problem]:
    """The large DDPM at two sizes; one at a time, because both may not fit."""
    for size, batch in ((64, 8), (256, 4)):
        name = f"{size} x {size}, batch {batch}, bf16, {torch.cuda.get_device_name()}"
        yield problem_of(name, Ddpm(size), size, batch, "cuda", autocast=True)


def verdict(problem: dict[str, Any]) -> str:
    """The three claims about the exchange, with what was measured."""
    rows = {(row["form"], row["n_regions"]): row for row in problem["rows"] if row["seconds"] is not None}
    sizes = sorted({n for _, n in rows})
    ratios = [rows["default", n]["ratio"] for n in sizes]
    text = (
        f"the default: at most {max(ratios):.2f} plain steps; from K = {sizes[0]} to {sizes[-1]} the cost varies by "
        f"{max(ratios) / min(ratios) - 1:.0%}"
    )
    published = rows.get(("published, C = 4", sizes[-1]))
    if published is None:
        return text + f"; the published form with C = 4 does not fit in memory at K = {sizes[-1]}"
    times = published["ratio"] / rows["default", sizes[-1]]["ratio"]
    return text + f"; {times:.0f} times cheaper than the published form with C = 4 at K = {sizes[-1]}"


def report(results: dict[str, Any]) -> str:
    """The measured figures as text, the same in the terminal and in the README."""
    lines = []
    for problem in results["problems"]:
        sizes = sorted({row["n_regions"] for row in problem["rows"]})
        plain = statistics.median(row["plain_seconds"] for row in problem["rows"] if row["seconds"] is not None)
        peak = problem["plain_peak_mb"]
        memory = "" if peak is None else f", {peak:,.0f} MB at its peak"
        lines += [
            f"{problem['name']}, {problem['n_parameters'] / 1e6:.1f} M parameters",
            f"a plain step takes {1e3 * plain:.0f} ms{memory}; a step with the penalty takes, in plain steps,",
            f"  {'':<18}" + "".join(f"{f'K = {n}':>22}" for n in sizes),
        ]
        for form in FORMS:
            cells = []
            for row in (row for row in problem["rows"] if row["form"] == form):
                if row["seconds"] is None:
                    cells.append("does not fit")
                    continue
                size = "" if row.get("peak_mb") is None or not peak else f", {row['peak_mb'] / peak:.1f} x MB"
                cells.append(f"{row['ratio']:.2f}{size}")
            lines.append(f"  {form:<18}" + "".join(f"{cell:>22}" for cell in cells))
        lines.append(verdict(problem))
        if problem["waits"] is not None:
            lines.append(f"the penalty's own code makes the host wait for the GPU {problem['waits']} times")
        lines.append("")
    lines.append(results["machine"])
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    problems = results["problems"][:2]
    figure, axes = pyplot.subplots(1, len(problems) + 1, figsize=(4 + 4 * len(problems), 4), layout="constrained")
    colours = ("#D55E00", "#E69F00", "#009E73", "#56B4E9", "#0072B2")
    for form, colour, marker in zip(FORMS, colours, "^vsDo", strict=True):
        for axis, problem in zip(axes, problems, strict=False):
            rows = [row for row in problem["rows"] if row["form"] == form and row["seconds"] is not None]
            players = [row["n_regions"] for row in rows]
            axis.plot(players, [row["ratio"] for row in rows], color=colour, marker=marker, label=form)
        rows = [row for row in problems[0]["rows"] if row["form"] == form and row.get("peak_mb")]
        peaks = [row["peak_mb"] / problems[0]["plain_peak_mb"] for row in rows]
        axes[-1].plot([row["n_regions"] for row in rows], peaks, color=colour, marker=marker)
    for axis, problem in zip(axes, [*problems, problems[0]], strict=True):
        axis.set_title(problem["name"], fontsize=9)
        axis.set_yscale("log")
        axis.axhline(1, color="#000000", linewidth=0.8)
        axis.set_xlabel("regions K")
        axis.set_ylabel("peak memory, in plain training steps" if axis is axes[-1] else "time, in plain training steps")
        axis.set_xticks(N_REGIONS)
    axes[0].legend(fontsize=8)
    figure.suptitle("The penalty costs one more run, whatever the number of regions")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes and one turn; nothing is written")
    parser.add_argument("--redraw", action="store_true", help="draw and print what was measured before")
    parser.add_argument("--peak", nargs=3, metavar=("FORM", "K", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        form, n_regions, batch = arguments.peak
        print(peak_of_this_process(form, int(n_regions), int(batch)))
        return
    if arguments.redraw:
        measured = json.loads(RESULTS.read_text(encoding="utf-8"))
        draw(measured, PICTURE)
        print(report(measured))
        return
    sizes, turns, batch = ((2, 4), 1, 2) if arguments.quick else (N_REGIONS, 7, 4)
    problems = [
        measured_problem(shipped_problem(batch), sizes, turns, batch_on_cpu=batch),
        measured_problem(dit_problem(batch), sizes, min(turns, 2), batch_on_cpu=None),
    ]
    if torch.cuda.is_available():
        problems += [measured_problem(problem, sizes, turns, batch_on_cpu=None) for problem in gpu_problems()]
    else:
        print("no GPU here: the large DDPM in bf16 is left out")
    results = {
        "command": "python -m benchmarks.speed.penalty_cost",
        "machine": machine("torch", "diffusers", n_threads=torch.get_num_threads()),
        "problems": problems,
    }
    print("\n" + report(results))
    if not arguments.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        unfinished = RESULTS.with_suffix(".partial")
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(RESULTS)
        draw(results, PICTURE)


if __name__ == "__main__":
    main()
