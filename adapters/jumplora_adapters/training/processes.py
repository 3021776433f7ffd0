"""The processes that train together, one a device, as `accelerate launch` starts them.

Every process holds the whole adapter and computes a share of each step's rows. What is added up is
one flat vector of gradients: A, B and thresholds are small, so no wrapper of the model is needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

_Item = TypeVar("_Item")


def is_main_process() -> bool:
    """Whether this process speaks to the terminal: the first of its launcher, or one alone."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """One process alone; `Processes.launched()` gives those of a launcher."""

    index = 0
    count = 1

    @staticmethod
    def launched(device: str | None = None) -> Processes:
        """The launcher's processes where there are several, else one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        return _Launched(device)

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and talks."""
        return self.index == 0

    @property
    def device(self) -> torch.device | None:
        """The device of this process; None: no launcher has chosen one."""
        return None

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """Every count-th item, from this process's index on."""
        return items[self.index :: self.count] if self.count > 1 else items

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Replace every gradient by its sum over the processes; the sum of `loss`."""
        del parameters
        return loss

    def gather(self, shares: Sequence[_Item]) -> list[_Item]:
        """Undo `share`: the items of all processes in their first order, in every process."""
        return list(shares)

    def wait(self) -> None:
        """Return when all processes are here."""

    def part(self) -> None:
        """Wait for all and let go of them; nothing is shared after it."""


class _Launched(Processes):
    def __init__(self, device: str | None) -> None:
        from accelerate import PartialState

        self._state: Any = PartialState(cpu=device == "cpu")
        self.index = self._state.process_index
        self.count = self._state.num_processes

    @property
    def device(self) -> torch.device | None:
        found: torch.device = self._state.device
        return found

    @torch.no_grad()
    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        from accelerate.utils import reduce

        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters
        ]  # a process without rows has no gradients
        last = torch.tensor([loss], dtype=torch.float32, device=parts[0].device)
        total: Any = reduce(torch.cat([*parts, last]), "sum")
        offset = 0
        for parameter in parameters:
            size = parameter.numel()
            parameter.grad = total[offset : offset + size].view_as(parameter).clone()
            offset += size
        return float(total[-1])

    def gather(self, shares: Sequence[_Item]) -> list[_Item]:
        from accelerate.utils import gather_object

        mine = [(self.index + n * self.count, item) for n, item in enumerate(shares)]
        return [item for _, item in sorted(gather_object(mine), key=lambda pair: pair[0])]

    def wait(self) -> None:
        self._state.wait_for_everyone()

    def part(self) -> None:
        self.wait()  # one that went first would break the others' connections
        self._state.destroy_process_group()
