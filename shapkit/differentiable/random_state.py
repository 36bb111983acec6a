"""What a network's random layers draw next: kept, so that runs that are compared draw the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RandomState:
    """The state of torch's own generators, that of the CPU and that of one device.

    Dropout and its like draw from these. Networks that draw from generators of their own are not covered.

    >>> state = RandomState.of("cpu")
    >>> first = torch.rand(3)
    >>> state.is_current()
    False
    >>> state.restore()
    >>> bool((torch.rand(3) == first).all())
    True
    """

    device: torch.device
    cpu: Tensor
    on_device: Tensor | None

    @classmethod
    def of(cls, device: torch.device | str) -> RandomState:
        """The present state; on a GPU it is kept by the host, so that nothing waits."""
        device = torch.device(device)
        return cls(device, torch.get_rng_state(), _state_on(device))

    def restore(self) -> None:
        """Let the generators draw again what they drew from here on."""
        torch.set_rng_state(self.cpu)
        if self.on_device is not None:
            module, where = _module(self.device)
            module.set_rng_state(self.on_device, *where)

    def is_current(self) -> bool:
        """Whether nothing was drawn since."""
        return _equal(self.cpu, torch.get_rng_state()) and (
            self.on_device is None or _equal(self.on_device, _state_on(self.device))
        )


def _state_on(device: torch.device) -> Tensor | None:
    if device.type not in ("cuda", "xpu", "mps"):
        return None
    module, where = _module(device)
    state: Tensor = module.get_rng_state(*where)
    return state


def _module(device: torch.device) -> tuple[Any, tuple[torch.device, ...]]:
    """The device's part of torch, and what its functions have to be told; there is one device of Apple's only."""
    return torch.get_device_module(device.type), () if device.type == "mps" else (device,)


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and bytes(one.numpy()) == bytes(other.numpy())
