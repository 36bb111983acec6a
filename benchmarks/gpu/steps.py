"""The steps: each takes the setting, a function that records a row of figures, and the results folder."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.machine import machine
from benchmarks.speed.penalty_cost import Ddpm, seconds_of, stripes
from shapkit.differentiable import Composition, DummyPlayerPenalty, Regions, star
from shapkit.differentiable.attention import Stage, TokenGraph
from shapkit.differentiable.penalty.absence import Fill
from shapkit.differentiable.penalty.comparisons import Estimator
from shapkit.differentiable.penalty.values import exact_values, sampled_values
from shapkit.games.game import Game
from shapkit_diffusion.denoisers.denoiser import Denoiser, small_denoiser, small_transformer
from shapkit_diffusion.denoisers.region_transformer import RegionDenoiser
from shapkit_diffusion.noise.sampling import draw_noise, generate, regenerate, swap


class Record(Protocol):
    """Takes the figures of one row."""

    def __call__(self, **row: Any) -> None: ...


@dataclass(frozen=True)
class Setting:
    """Where it runs and how large."""

    device: str
    small: bool

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    def described(self) -> str:
        """The machine, for the results."""
        name = f"{torch.cuda.get_device_name()}; " if self.on_gpu else ""
        return name + machine("torch", "diffusers")


# --- correctness ------------------------------------------------------------------------------------------------------


def correctness(setting: Setting, record: Record, out: Path) -> None:
    """Everything that the device computes, against the CPU in the same precision or a better one."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for kind, checks in (
        ("penalty", _penalty_checks),
        ("composition and attention", _composition_checks),
        ("Shapley values", _value_checks),
        ("noise and coalitions", _draw_checks),
        ("low precision", _precision_checks),
        ("waiting", _waiting_checks),
        ("torch.compile", _compile_checks),
    ):
        for name, check, bound in checks(setting):
            error, message = math.nan, None
            try:
                error = check()
            except Exception as problem:  # a failed check is a result, and the others are wanted too
                message = f"{type(problem).__name__}: {problem}"[:500]
            known = None if math.isnan(error) else error
            record(kind=kind, name=name, error=known, bound=bound, passed=error <= bound, message=message)


Checks = Iterator[tuple[str, Callable[[], float], float]]


def _small_network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
    return layers.to(dtype)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, over the largest value."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _penalty_checks(setting: Setting) -> Checks:
    def difference(estimator: Estimator, fill: Fill, dtype: torch.dtype) -> float:
        generator = torch.Generator().manual_seed(1)
        x, penalty = torch.randn(4, 3, 8, 8, generator=generator, dtype=dtype), DummyPlayerPenalty(estimator, fill)
        found = []
        for device in ("cpu", setting.device):
            network, at = _small_network(dtype).to(device), x.to(device)
            loss = penalty(network, at, stripes(3, at))
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            found.append(torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)]))
        return _difference(found[1], found[0])

    for estimator in get_args(Estimator):
        for fill in get_args(Fill):
            for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
                name = f"{estimator}, {fill}, {dtype}"
                yield name, lambda e=estimator, f=fill, d=dtype: difference(e, f, d), bound  # type: ignore[misc]


def _local_model(size: int = 16, dtype: torch.dtype = torch.float64) -> RegionDenoiser:
    labels = torch.zeros(1, size, size, dtype=torch.long)
    labels[:, 4:8, 4:12], labels[:, 10:14, 6:10] = 1, 2
    regions = Regions.from_labels(labels, {"eyes": [1], "mouth": [2]})
    torch.manual_seed(0)
    model = RegionDenoiser(small_transformer(size, width=32, depth=3), regions)
    for weights in model.parameters():
        nn.init.normal_(weights, std=0.1)
    return model.to(dtype)


def _composition_checks(setting: Setting) -> Checks:
    def composed(dtype: torch.dtype) -> float:
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)
        found = []
        for device in ("cpu", setting.device):
            network, at = _small_network(dtype).to(device), x.to(device)
            compose = Composition(stripes(3, at), star("0")).to(device)
            found.append(compose(lambda seen, rows, network=network: network(seen), at))
        return _difference(found[1], found[0])

    def transformer(dtype: torch.dtype) -> float:
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=dtype)
        found = []
        for device in ("cpu", setting.device):
            model, at = _local_model(dtype=dtype).to(device), x.to(device)
            output = model(at, torch.tensor([100, 700], device=device), at.flip(0))
            gradients = torch.autograd.grad(output.square().mean(), list(model.parameters()), allow_unused=True)
            parts = [gradient.flatten() for gradient in gradients if gradient is not None]
            found.append(torch.cat([output.flatten(), *parts]))
        return _difference(found[1], found[0])

    def outside(precision: torch.dtype) -> float:
        model = _local_model(dtype=torch.float32).to(setting.device).eval()
        noise, other = draw_noise(model, 2, 0), draw_noise(model, 2, 1)
        mask = model.regions.mask("mouth").to(noise)
        with torch.autocast(noise.device.type, precision, enabled=precision != torch.float32):
            known = generate(model, noise, 4)
            edited = regenerate(model, swap(noise, other, mask), noise, known, 4)
        return float(((edited - known) * (1 - mask)).abs().max())

    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        yield f"composition, {dtype}", lambda d=dtype: composed(d), bound  # type: ignore[misc]
        yield f"region transformer, {dtype}", lambda d=dtype: transformer(d), bound  # type: ignore[misc]
    for precision in (torch.float32, torch.bfloat16):
        yield f"outside of an edit, {precision}", lambda p=precision: outside(p), 0.0  # type: ignore[misc]


def _value_checks(setting: Setting) -> Checks:
    weights = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def game(device: str) -> Callable[[Tensor], Tensor]:
        return lambda coalitions: torch.tanh(coalitions.to(device).double() @ weights.to(device))

    def exact() -> float:
        return _difference(exact_values(game(setting.device), 6), exact_values(game("cpu"), 6))

    def sampled() -> float:
        found, expected = (sampled_values(game(device), 6, 32, seed=3) for device in (setting.device, "cpu"))
        return _difference(found.values, expected.values)

    yield "exact", exact, 1e-10
    yield "sampled", sampled, 1e-10


def _draw_checks(setting: Setting) -> Checks:
    def noise() -> float:
        here, there = (small_denoiser(16, channels=(8, 16)).to(device) for device in ("cpu", setting.device))
        return float((draw_noise(there, 3, 5).cpu() - draw_noise(here, 3, 5)).abs().max())

    def coalitions() -> float:
        x = torch.zeros(4, 3, 8, 8)
        drawn = [
            DummyPlayerPenalty("grand", "noise", samples=3).draw(x.to(device), stripes(4, x.to(device)), step=7)
            for device in ("cpu", setting.device)
        ]
        assert drawn[0].noise is not None and drawn[1].noise is not None
        return float((drawn[1].noise.cpu() - drawn[0].noise).abs().max()) + float(
            (drawn[1].weights.cpu() - drawn[0].weights).abs().max()
        )

    yield "noise of images", noise, 0.0
    yield "fill and weights of a penalty", coalitions, 0.0


def _precision_checks(setting: Setting) -> Checks:
    def drift(dtype: torch.dtype) -> float:
        """Of the penalty's value under autocast, relative to float32's."""
        x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(setting.device)
        network, penalty = _small_network(torch.float32).to(setting.device), DummyPlayerPenalty()
        plain = penalty(network, x, stripes(4, x))
        with torch.autocast(x.device.type, dtype):
            low = penalty(network, x, stripes(4, x))
        low.backward()  # type: ignore[no-untyped-call]
        finite = all(
            bool(weights.grad.isfinite().all()) for weights in network.parameters() if weights.grad is not None
        )
        return abs(float(low - plain)) / float(plain) if finite else math.inf

    def pointwise(dtype: torch.dtype) -> float:
        """The penalty of a network in which no pixel sees another, which must be zero."""
        x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(setting.device)
        network = nn.Conv2d(3, 3, 1).to(setting.device)
        with torch.autocast(x.device.type, dtype):
            return float(DummyPlayerPenalty()(network, x, stripes(4, x)))

    for dtype in (torch.bfloat16, torch.float16):
        yield f"penalty, {dtype}", lambda d=dtype: drift(d), 0.05  # type: ignore[misc]
        yield f"penalty of a pointwise network, {dtype}", lambda d=dtype: pointwise(d), 1e-6  # type: ignore[misc]


def _waiting_checks(setting: Setting) -> Checks:
    if not setting.on_gpu:
        return

    def without_waiting(step: Callable[[int], None]) -> float:
        step(0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return 0.0

    def penalised() -> float:
        x = torch.randn(4, 3, 16, 16, device=setting.device)
        network, regions = _small_network(torch.float32).to(setting.device), stripes(4, x)

        def step(number: int) -> None:
            loss: Tensor = DummyPlayerPenalty()(network, x, regions, output=network(x), step=number)
            loss.backward()  # type: ignore[no-untyped-call]

        return without_waiting(step)

    def region_step() -> float:
        model = _local_model(dtype=torch.float32).to(setting.device)
        x, timesteps = torch.randn(2, 3, 16, 16, device=setting.device), torch.tensor([5, 9], device=setting.device)
        return without_waiting(lambda number: model(x, timesteps, x.flip(0)).square().mean().backward())

    yield "a step with the penalty", penalised, 0.0
    yield "a step of the region transformer", region_step, 0.0


def _compile_checks(setting: Setting) -> Checks:
    if setting.small:
        return

    def penalty() -> float:
        x = torch.randn(4, 3, 16, 16, device=setting.device)
        network, regions, form = _small_network(torch.float32).to(setting.device), stripes(4, x), DummyPlayerPenalty()
        drawn = form.draw(x, regions, step=3)
        plain = form(network, x, regions, drawn=drawn)
        compiled = torch.compile(lambda x: form(network, x, regions, drawn=drawn), fullgraph=True)
        return _difference(compiled(x).reshape(1), plain.reshape(1))

    yield "penalty, one graph", penalty, 1e-4


# --- cost -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A network at the size it is published at, with random weights."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batches: tuple[int, ...]
    """To be tried in this order, until one fits."""
    regions: int | None = None
    """Of a region transformer; None for a plain network."""


def _ldm() -> nn.Module:
    """The UNet of CompVis/ldm-celebahq-256."""
    attention = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=64,
        block_out_channels=(224, 448, 672, 896),
        layers_per_block=2,
        down_block_types=("DownBlock2D", *(attention[0],) * 3),
        up_block_types=(*(attention[1],) * 3, "UpBlock2D"),
        attention_head_dim=32,
    )


def _dit(width: int, depth: int, heads: int, size: int = 32) -> Denoiser:
    return small_transformer(size, 4, width=width, depth=depth, heads=heads)


def _region_dit(width: int, depth: int, heads: int, size: int = 32) -> RegionDenoiser:
    """With a fifth of the image in three concepts and the rest around them, as in faces."""
    labels = torch.zeros(1, size, size, dtype=torch.long)
    unit = size // 8
    labels[:, 2 * unit : 3 * unit, unit : 7 * unit] = 1
    labels[:, 3 * unit : 5 * unit, 3 * unit : 5 * unit] = 2
    labels[:, 6 * unit : 7 * unit, 2 * unit : 6 * unit] = 3
    regions = Regions.from_labels(labels, {"eyes": [1], "nose": [2], "mouth": [3]})
    return RegionDenoiser(_dit(width, depth, heads, size), regions)


def _models(setting: Setting) -> list[Model]:
    if setting.small:
        return [
            Model("DDPM, 0.1 M", lambda: Ddpm(16, (8, 8, 16), 1), (3, 16, 16), (4,)),
            Model("DiT, 2 blocks", lambda: _dit(32, 2, 2, 16), (4, 16, 16), (4,)),
            Model("region DiT, 2 blocks", lambda: _region_dit(32, 2, 2, 16), (4, 16, 16), (4,), regions=4),
        ]
    return [
        Model("DiT-B/2, 32 x 32", lambda: _dit(768, 12, 12), (4, 32, 32), (256, 128, 64)),
        Model("region DiT-B/2, 32 x 32", lambda: _region_dit(768, 12, 12), (4, 32, 32), (256, 128, 64), regions=4),
        Model("ddpm-celebahq-256's UNet, 64 x 64", lambda: Ddpm(64), (3, 64, 64), (64, 32, 16)),
        Model("ldm-celebahq-256's UNet, 64 x 64", _ldm, (3, 64, 64), (64, 32, 16)),
        Model("DiT-L/2, 32 x 32", lambda: _dit(1024, 24, 16), (4, 32, 32), (128, 64, 32)),
        Model("region DiT-L/2, 32 x 32", lambda: _region_dit(1024, 24, 16), (4, 32, 32), (128, 64, 32), regions=4),
        Model("ddpm-celebahq-256's UNet, 256 x 256", lambda: Ddpm(256), (3, 256, 256), (8, 4)),
    ]


FORMS: dict[str, DummyPlayerPenalty] = {
    "exchange": DummyPlayerPenalty("grand", "exchange"),
    "published, C = 1": DummyPlayerPenalty("per_region", "zeros", samples=1),
}


def cost(setting: Setting, record: Record, out: Path) -> None:
    """Seconds and peak memory of a training step, bf16, AdamW."""
    device, turns = torch.device(setting.device), 2 if setting.small else 5
    plain_seconds: dict[str, tuple[float, float | None]] = {}
    for model in _models(setting):
        for batch in model.batches:
            try:
                _cost_of(model, batch, device, turns, record, plain_seconds, setting)
                break
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()


def _cost_of(
    model: Model,
    batch: int,
    device: torch.device,
    turns: int,
    record: Record,
    plain_of: dict[str, tuple[float, float | None]],
    setting: Setting,
) -> None:
    network = model.make().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=device.type == "cuda")
    x, target = torch.randn(2, batch, *model.shape, device=device)
    timesteps = torch.randint(0, 1000, (batch // 2,), device=device).repeat_interleave(2)

    def step(penalty: DummyPlayerPenalty | None, regions: Regions | None, number: int = 0, noises: int = 1) -> None:
        def run(x: Tensor) -> Tensor:
            output: Tensor = network(x, timesteps, target[::noises]) if model.regions else network(x, timesteps)
            return output if isinstance(output, Tensor) else output.sample

        with torch.autocast(device.type, torch.bfloat16):
            output = run(x)
            loss = (output.float() - target).square().mean()
            if penalty is not None and regions is not None:
                loss = loss + penalty(run, x, regions, output=output, step=number, conditions="paired")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def measured(
        penalty: DummyPlayerPenalty | None, regions: Regions | None, noises: int = 1
    ) -> tuple[float, float | None]:
        step(penalty, regions, noises=noises)
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(device)
        times = [
            seconds_of(lambda turn=turn: step(penalty, regions, turn, noises), device) for turn in range(1, turns + 1)
        ]  # type: ignore[misc]
        peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
        return statistics.median(times), peak

    plain = measured(None, None)
    base = plain if model.regions is None else plain_of[model.name.removeprefix("region ")]
    plain_of[model.name] = plain
    parameters = sum(weights.numel() for weights in network.parameters())

    def row(form: str, figures: tuple[float, float | None], n_regions: int | None) -> None:
        seconds, peak = figures
        record(
            network=f"{model.name} ({parameters / 1e6:.1f} M)",
            batch=batch,
            form=form,
            n_regions=n_regions,
            seconds=seconds,
            ratio=seconds / base[0],
            peak_mb=peak,
            memory_ratio=None if peak is None or base[1] is None else peak / base[1],
        )

    row("plain" if model.regions is None else "its own step", plain, model.regions)
    if model.regions is not None:
        row("its own step, 4 noises an image", measured(None, None, 4), model.regions)
        return
    for n_regions in (2, 4, 8, 11):
        row(f"exchange, K = {n_regions}", measured(FORMS["exchange"], stripes(n_regions, x)), n_regions)
    try:
        row("published, C = 1, K = 4", measured(FORMS["published, C = 1"], stripes(4, x)), 4)
    except torch.OutOfMemoryError:
        optimizer.zero_grad(set_to_none=True)


# --- attention --------------------------------------------------------------------------------------------------------


FLEXIBLE = {True: "FlexAttention", False: "FlexAttention, forward alone"}
"""On a GPU, and on a CPU, where it has no backward pass."""


def attention(setting: Setting, record: Record, out: Path) -> None:
    """Forward and backward of one attention of a region transformer in training, bf16, in the forms there are.

    ``plain`` is a plain transformer's over the noised tokens alone. ``pairs`` are products of a query and a key, in
    those of the plain one: what a form has to compute, which its time should follow.
    """
    device = torch.device(setting.device)
    sizes = [(16, 2, 2, 16)] if setting.small else [(32, 64, 12, 64), (64, 16, 12, 64), (128, 2, 12, 64)]
    for size, batch, heads, width in sizes:
        local = _region_dit(heads * 8, 1, heads, size).to(device)
        tokens = local.network.tokens  # ordered by stage and region
        whole, context, n = tokens.whole, tokens.context, tokens.n_tokens
        mask = tokens.training_mask()[0]
        generator = torch.Generator(device).manual_seed(0)
        shape = (batch, heads, n + len(context), width)
        q, k, v = (
            torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )

        def split(q: Tensor, k: Tensor, v: Tensor, n: int = n, whole: Stage = whole) -> Tensor:
            clean = whole.filling(q[:, :, n:], k[:, :, n:], v[:, :, n:])
            return torch.cat([whole.attention(q[:, :, :n], k, v), clean], dim=2)

        def plain(q: Tensor, k: Tensor, v: Tensor, n: int = n) -> Tensor:
            return F.scaled_dot_product_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n])

        def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor = mask) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        blocks = [*whole.attention.blocks, *whole.filling.blocks]
        forms: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], float]] = {
            "plain": (plain, n * n),
            "a dense mask": (dense, mask.numel()),
            "blocks": (split, sum(block.pairs for block in blocks)),
        }
        forms[FLEXIBLE[setting.on_gpu]] = _flexible(tokens, len(mask), device)
        expected = dense(q, k, v).detach().float()
        base: float | None = None
        for form, (attend, pairs) in forms.items():

            def step(attend: Callable[[Tensor, Tensor, Tensor], Tensor] = attend) -> None:
                found = attend(q, k, v)  # noqa: B023
                if found.requires_grad:
                    found.float().square().mean().backward()  # type: ignore[no-untyped-call]

            try:
                step()
            except Exception as error:  # a form that this device or version cannot run is a figure, too
                record(size=size, tokens=n, batch=batch, form=form, error=f"{type(error).__name__}: {error}"[:200])
                continue
            seconds = statistics.median(seconds_of(step, device) for _ in range(2 if setting.small else 10))
            base = base or seconds
            difference = None if form == "plain" else float((attend(q, k, v).float() - expected).abs().max())
            record(
                size=size,
                tokens=n,
                batch=batch,
                form=form,
                seconds=seconds,
                ratio=seconds / base,
                pairs=pairs / n**2,
                difference=difference,
            )


def _flexible(
    tokens: TokenGraph, length: int, device: torch.device
) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor], float]:
    """FlexAttention over the training sequence, and the products that its blocks of 128 tokens compute."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(tokens.mask_mod(), None, None, length, length, device=device.type)
    share = 1 - mask.sparsity() / 100
    attend = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if device.type != "cuda":
            q, k, v = q.detach(), k.detach(), v.detach()
        found: Tensor = attend(q, k, v, block_mask=mask)
        return found

    return run, share * length**2


# --- generation -------------------------------------------------------------------------------------------------------


def generation(setting: Setting, record: Record, out: Path) -> None:
    """Images per second, 25 steps a stage, bf16; what an edit takes of an image; outside of it, every bit the same."""
    sizes = (
        [("DiT, 2 blocks", 32, 2, 2, 16)]
        if setting.small
        else [("DiT-B/2", 768, 12, 12, 32), ("DiT-L/2", 1024, 24, 16, 32)]
    )
    batch, steps = (4, 3) if setting.small else (128, 25)
    for name, width, depth, heads, size in sizes:
        base: float | None = None
        for kind, model in (
            ("plain", _dit(width, depth, heads, size)),
            ("region", _region_dit(width, depth, heads, size)),
        ):
            model = model.to(setting.device).eval()
            noise, other = draw_noise(model, batch, 0), draw_noise(model, batch, 1)

            def taken(call: Callable[[], Tensor]) -> float:
                def run() -> None:
                    with torch.autocast(setting.device, torch.bfloat16):
                        call()

                run()
                return min(seconds_of(run, noise.device) for _ in range(2))  # noqa: B023

            seconds = taken(lambda: generate(model, noise, steps, batch))  # noqa: B023
            base = base or seconds
            rows = {"an image": seconds}
            if isinstance(model, RegionDenoiser):
                with torch.autocast(setting.device, torch.bfloat16):
                    known = generate(model, noise, steps, batch)
                for region in model.regions.names[:-1]:
                    edited = swap(noise, other, model.regions.mask(region).to(noise))
                    rows[f"an edit of the {region}"] = taken(
                        lambda edited=edited: regenerate(model, edited, noise, known, steps, batch)  # type: ignore[misc]  # noqa: B023
                    )
            for what, took in rows.items():
                record(network=f"{name}, {kind}", batch=batch, what=what, per_second=batch / took, ratio=took / base)


def compiled(setting: Setting, record: Record, out: Path) -> None:
    """The same of one size, compiled for CUDA graphs: an image and an edit of the nose, with what compiling took."""
    name, width, depth, heads, size = ("DiT, 2 blocks", 32, 2, 2, 16) if setting.small else ("DiT-B/2", 768, 12, 12, 32)
    batch, steps = (4, 3) if setting.small else (64, 25)
    how: dict[str, Any] = {"mode": "reduce-overhead"} if setting.on_gpu else {"backend": "aot_eager"}
    region = _region_dit(width, depth, heads, size).to(setting.device).eval()
    plain = _dit(width, depth, heads, size).to(setting.device).eval()
    noise, other = draw_noise(region, batch, 0), draw_noise(region, batch, 1)
    edited = swap(noise, other, region.regions.mask("nose").to(noise))
    with torch.autocast(setting.device, torch.bfloat16):
        known = generate(region, noise, steps, batch)
    calls: dict[tuple[str, str], Callable[[], Tensor]] = {
        ("plain", "an image"): lambda: generate(plain, noise, steps, batch),
        ("region", "an image"): lambda: generate(region, noise, steps, batch),
        ("region", "an edit of the nose"): lambda: regenerate(region, edited, noise, known, steps, batch),
    }

    def taken(call: Callable[[], Tensor]) -> tuple[float, float]:
        """Seconds of a call that is the first of its kind, and of one that is not."""

        def run() -> None:
            with torch.autocast(setting.device, torch.bfloat16):
                call()

        first = seconds_of(run, noise.device)
        return first, min(seconds_of(run, noise.device) for _ in range(3))

    eager = {key: taken(call)[1] for key, call in calls.items()}
    network: Any = region.network
    network.predicted = torch.compile(network.predicted, dynamic=False, **how)
    plain.unet.forward = torch.compile(plain.unet.forward, dynamic=False, **how)
    for (kind, what), call in calls.items():
        first, seconds = taken(call)
        record(
            network=f"{name}, {kind}",
            batch=batch,
            what=what,
            per_second=batch / seconds,
            speedup=eager[kind, what] / seconds,
            compiling=first - seconds,
        )


# --- games ------------------------------------------------------------------------------------------------------------


def games(setting: Setting, record: Record, out: Path) -> None:
    """Coalitions per second of a model's game: a UNet's output for inputs with regions put in or left out."""
    size, players, count = (16, 8, 64) if setting.small else (64, 32, 8192)
    batch = 16 if setting.small else 512
    network = (Ddpm(size, (8, 8, 16), 1) if setting.small else Ddpm(size)).to(setting.device).eval()
    x = torch.randn(1, 3, size, size, device=setting.device)
    regions = stripes(min(players, size), x)
    masks = regions.masks[0]

    @torch.inference_mode()
    def value(coalitions: np.ndarray) -> np.ndarray:
        present = torch.as_tensor(coalitions).to(setting.device, x.dtype)
        inputs = x * torch.einsum("ck,khw->chw", present, masks)[:, None]
        with torch.autocast(setting.device, torch.bfloat16):
            output = network(inputs, torch.full((len(inputs),), 500, device=x.device))
        payoffs: np.ndarray = output.float().mean(dim=(1, 2, 3)).cpu().numpy()
        return payoffs

    @torch.inference_mode()
    def bare() -> None:
        inputs = x.expand(batch, -1, -1, -1).contiguous()
        for _ in range(count // batch):
            with torch.autocast(setting.device, torch.bfloat16):
                network(inputs, torch.full((batch,), 500, device=x.device))

    coalitions = np.random.default_rng(0).random((count, len(masks))) < 0.5
    value(coalitions[:batch])
    bare_seconds = min(seconds_of(bare, x.device) for _ in range(2))
    name = f"{'DDPM, small' if setting.small else 'ddpm-celebahq-256'} at {size} x {size}, bf16"
    record(model=name, path="the bare model", per_second=count / bare_seconds, share=1.0, batch=batch)
    for path, game in (
        ("Game", Game(value, len(masks), batch_size=batch)),
        ("Game with a cache", Game(value, len(masks), batch_size=batch, cache=True)),
    ):
        started = time.perf_counter()
        game(coalitions)
        seconds = time.perf_counter() - started
        record(model=name, path=path, per_second=count / seconds, share=bare_seconds / seconds, batch=batch)


# --- training ---------------------------------------------------------------------------------------------------------


def training(setting: Setting, record: Record, out: Path) -> None:
    """The study of the region transformer; its own files are in the folder ``training``."""
    words = ["--out", str(out / "training")]
    if setting.small:
        words += [
            "--steps",
            "4",
            "--images",
            "16",
            "--pairs",
            "6",
            "--faces",
            "64",
            "--seeds",
            "0",
            "--batch-size",
            "4",
        ]
        words += ["--sampling-steps", "2", "--arms", "plain", "region", "converted"]
    else:
        words += ["--steps", "4000", "--batch-size", "128", "--precision", "bf16", "--parallel"]
    command = [sys.executable, "-m", "benchmarks.locality.region_transformer", *words]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    record(command=" ".join(words), seconds=time.perf_counter() - started)


STEPS: dict[str, Callable[[Setting, Record, Path], None]] = {
    "correctness": correctness,
    "cost": cost,
    "attention": attention,
    "generation": generation,
    "games": games,
    "compiled": compiled,
    "training": training,
}
LIMITS = {
    "correctness": 90.0,
    "cost": 150.0,
    "attention": 45.0,
    "generation": 60.0,
    "games": 45.0,
    "compiled": 120.0,
    "training": 420.0,
}
"""Seconds."""
