"""The environment of a run, which decides whether a resumed run is bit-equal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.training.devices import describe


@dataclass(frozen=True)
class Environment:
    """What a run's numbers depend on in their last bits, besides configuration, data and code."""

    device: str
    precision: str
    version: str  # of torch
    threads: int
    instructions: str  # the CPU's widest vector instructions, by which torch chooses its kernels
    ranks: int = 1  # processes that train the run together

    @classmethod
    def here(cls, device: torch.device, precision: str, ranks: int = 1) -> Environment:
        """The environment of this process."""
        instructions = torch.backends.cpu.get_cpu_capability()
        return cls(describe(device), precision, torch.__version__, torch.get_num_threads(), instructions, ranks)

    def changes(self, before: Environment) -> str:
        """`resumed with 2 threads, was 1: not bit-equal`; empty if nothing that changes numbers is different."""
        words = {"device": "on", "precision": "in", "version": "with torch", "ranks": "with"}
        if self.device == before.device == "cpu":
            words |= {"threads": "with", "instructions": "on a CPU with"}
        changed = []
        for name, word in words.items():
            now, was = getattr(self, name), getattr(before, name)
            unit = f" {name.removesuffix('s') if now == 1 else name}" if name in ("threads", "ranks") else ""
            if now != was:
                changed.append(f"{word} {now}{unit}, was {was}")
        return f"resumed {' and '.join(changed)}: not bit-equal" if changed else ""
