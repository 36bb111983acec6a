"""Losses that call the network by themselves: what they called it with is remembered, and the penalty runs it again.

Most training code hides the call: the loss draws noise and timestep, calls the network, and returns a number. The
penalty needs the network's input, its output and everything else that the network was given. Two lines get it:

    with watching(network) as call:
        loss = anybodys_loss(network, images)
    loss = loss + weight * call.penalty(DummyPlayerPenalty(), regions, step=step)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shapkit.differentiable.penalty.coalition_runs import Network
from shapkit.differentiable.penalty.comparisons import Comparisons
from shapkit.differentiable.penalty.penalty import DummyPlayerPenalty
from shapkit.differentiable.random_state import RandomState
from shapkit.differentiable.regions import Regions

Pick = int | str | Callable[[Any], Tensor] | None
"""What of a result is meant: its part of that number or name, or what a function makes of it."""


@contextmanager
def watching(
    network: nn.Module,
    *,
    input: int | str = 0,
    output: Pick = None,
    number: int = -1,
    along: Callable[[Tensor], bool] | None = None,
) -> Iterator[WatchedCall]:
    """A context in which a call of ``network`` is remembered: arguments, output, random numbers, autocast.

    Works for any module, and for those that wrap one: ``DistributedDataParallel``, accelerate's, ``torch.compile``.
    Watch the one that the loss calls; of a wrapper that has a ``module``, calls of that are seen, too. Outside the
    context there is nothing left of it: no hook, and after the backward pass no tensor.

    Args:
        network: the module that the loss calls.
        input: which argument is the input whose regions are the players, by position or by name.
        output: what of the result is compared: None for a tensor, or for the first tensor of a tuple or an output
            object (``.sample``); a number or a name for another part; or a function of the result, such as
            ``lambda result: result[:, :3]`` to leave a learned variance out.
        number: which call, if there are several: 0 for the first, -1 for the last. With self-conditioning the last is
            the one that is trained.
        along: whether a tensor among the arguments goes along with the samples, so that rows of it are taken where
            several coalitions share a pass (``batch_runs``). By default, those with as many rows as the input.

    Raises:
        ValueError: if ``network`` is no module.

    >>> network = nn.Conv2d(3, 3, 3, padding=1)
    >>> def loss_of(images: Tensor) -> Tensor:
    ...     noise = torch.randn_like(images)
    ...     return (network(images + noise) - noise).square().mean()
    >>> images, regions = torch.randn(4, 3, 8, 8), Regions.grid(1, 2, 8, 8)
    >>> with watching(network) as call:
    ...     loss = loss_of(images)
    >>> loss = loss + 10 * call.penalty(DummyPlayerPenalty(), regions, step=0)
    >>> loss.backward()
    """
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"watching needs the module that the loss calls, got {type(network).__name__}: calls of a function cannot "
            "be seen; give it to the penalty itself, with its input"
        )
    call = WatchedCall(input, output, number, along)
    with ExitStack() as hooks:
        for module in _wrapped(network):
            hooks.callback(module.register_forward_pre_hook(call._before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(call._after, with_kwargs=True, always_call=True).remove)
        yield call
    call._done()


@dataclass(frozen=True, eq=False)
class _Seen:
    """One call of a module, and the circumstances in which it was made."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    random_state: RandomState
    autocast: dict[str, Any]


class WatchedCall:
    """The call of a network that ``watching`` remembers."""

    def __init__(
        self, input: int | str = 0, output: Pick = None, number: int = -1, along: Callable[[Tensor], bool] | None = None
    ) -> None:
        self._input, self._output, self._number, self._along = input, output, number, along
        self._kept: deque[_Seen] = deque(maxlen=max(1, -number))
        self._calls = 0
        self._open: list[RandomState | None] = []
        """Of each module that is being called the state before it; None within another, whose call it is."""

    @property
    def x(self) -> Tensor:
        """The input, whose regions are the players."""
        return self._x_of(self._remembered())

    @property
    def output(self) -> Tensor:
        """What is compared of the network's result, with its graph."""
        return self._picked(self._remembered().result)

    @property
    def random_state(self) -> RandomState:
        """The state of torch's generators when the network was called."""
        return self._remembered().random_state

    def network(self) -> Network:
        """The network as the penalty takes it: called again as it was, on another input."""
        seen = self._remembered()
        batch = len(self._x_of(seen))

        def run(x: Tensor, rows: Tensor | None = None) -> Tensor:
            def of_rows(value: Any) -> Any:
                if rows is None:
                    return value
                if isinstance(value, Tensor):
                    goes = self._along(value) if self._along else value.ndim > 0 and len(value) == batch
                    return value[rows] if goes else value
                if isinstance(value, tuple) and hasattr(value, "_fields"):
                    return type(value)(*map(of_rows, value))
                if isinstance(value, list | tuple):
                    return type(value)(map(of_rows, value))
                if isinstance(value, Mapping):
                    return {key: of_rows(inner) for key, inner in value.items()}
                return value

            args, kwargs = [of_rows(value) for value in seen.args], of_rows(seen.kwargs)
            if isinstance(self._input, int):
                args[self._input] = x
            else:
                kwargs[self._input] = x
            with torch.autocast(**seen.autocast):
                return self._picked(seen.module(*args, **kwargs))

        return run

    def penalty(
        self,
        penalty: DummyPlayerPenalty,
        regions: Regions,
        *,
        step: int = 0,
        first_index: int = 0,
        noise_level: float | Tensor = 1.0,
        sample_weights: Tensor | None = None,
        conditions: Any = None,
        channels: int | tuple[int, int] = 1,
        output_regions: Regions | None = None,
        drawn: Comparisons | None = None,
    ) -> Tensor:
        """The penalty of the call, a scalar with gradients; arguments and errors are the penalty's own.

        It runs the network once more for every coalition, and not for the call that was watched.
        """
        return penalty(
            self.network(),
            self.x,
            regions,
            output=self.output,
            random_state=self.random_state,
            step=step,
            first_index=first_index,
            noise_level=noise_level,
            sample_weights=sample_weights,
            conditions=conditions,
            channels=channels,
            output_regions=output_regions,
            drawn=drawn,
        )

    def release(self) -> None:
        """Forget the call, so that nothing of it stays in memory; the backward pass through its output does it, too."""
        self._kept.clear()

    def _remembered(self) -> _Seen:
        if not -self._calls <= self._number < self._calls:
            if self._calls:
                raise ValueError(f"number={self._number} asks for a call that was not made: there were {self._calls}")
            raise ValueError(
                "the network was not called within watching(...): watch the module that the loss calls. If that is a "
                "copy (an EMA, say) or the compiled one, watch this one"
            )
        if not self._kept:
            raise ValueError("the call was released, by the backward pass or release(): take its penalty before")
        return self._kept[0]

    def _x_of(self, seen: _Seen) -> Tensor:
        try:
            x = seen.args[self._input] if isinstance(self._input, int) else seen.kwargs[self._input]
        except (IndexError, KeyError):
            given = ", ".join([*map(str, range(len(seen.args))), *seen.kwargs])
            raise ValueError(
                f"the network was called without an argument {self._input!r}: pass input=, one of {given}"
            ) from None
        if not isinstance(x, Tensor):
            raise ValueError(
                f"the input must be a tensor, and argument {self._input!r} is {type(x).__name__}: pass input="
            )
        return x

    def _picked(self, result: Any) -> Tensor:
        """What is compared of a result."""
        pick = self._output
        if callable(pick):
            result = pick(result)
        elif isinstance(pick, int):
            result = result[pick]
        elif isinstance(pick, str):
            result = result[pick] if isinstance(result, Mapping) else getattr(result, pick)
        elif isinstance(result, Mapping):
            result = next(iter(result.values()), None)
        elif isinstance(result, list | tuple):
            result = result[0] if result else None
        elif not isinstance(result, Tensor) and hasattr(result, "sample"):
            result = result.sample
        if not isinstance(result, Tensor):
            raise ValueError(f"output={pick!r} picks no tensor of the network's result but {type(result).__name__}")
        return result

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._open.append(None if self._open else RandomState.of(_device_of(args, kwargs)))

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        state = self._open.pop()
        if state is None or result is None:  # the call of what a wrapper wraps, or one that failed
            return
        if self._number < 0 or self._number == self._calls:
            self._kept.append(_Seen(module, args, dict(kwargs), result, state, _autocast_of(state.device)))
        self._calls += 1

    def _done(self) -> None:
        """After the loss: forget the call when the backward pass comes to its output."""
        for tensor in _tensors(self._kept[0].result) if self._kept else []:
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self.release())


def _wrapped(network: nn.Module) -> list[nn.Module]:
    """A module and those that it is a wrapper of, by the name that torch's own wrappers have for them."""
    inner = getattr(network, "module", None)
    wraps = isinstance(inner, nn.Module) and sum(1 for _ in network.children()) == 1
    return [network, *_wrapped(inner)] if wraps and isinstance(inner, nn.Module) else [network]


def _tensors(result: Any) -> list[Tensor]:
    """The tensors of a result, however it is packed."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        result = list(result.values())
    elif not isinstance(result, list | tuple):
        result = list(getattr(result, "__dict__", {}).values())
    return [tensor for part in result for tensor in _tensors(part)] if result else []


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """Where the first tensor of a call is."""
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    found = next(tensors, None)
    return torch.device("cpu") if found is None else found.device


def _autocast_of(device: torch.device) -> dict[str, Any]:
    """The arguments of ``torch.autocast`` that hold at present."""
    return {
        "device_type": device.type,
        "dtype": torch.get_autocast_dtype(device.type),
        "enabled": torch.is_autocast_enabled(device.type),
        "cache_enabled": torch.is_autocast_cache_enabled(),
    }
