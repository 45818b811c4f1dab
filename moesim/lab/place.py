"""The machine that things are timed on: what it is, its processes, and how they see a task."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from moesim.errors import InvalidInput

# Weights that a worker cycles through, unless the cache asks for more: several times the largest matrices to be timed.
_COLD_BYTES = {"cpu": 96 * 2**20, "cuda": 2 * 2**30}


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are timed. device: ``cpu`` or ``cuda``. processes: one a GPU, or CPU processes of one thread each.

    cache_bytes: last-level cache, None where unknown.
    """

    device: str
    processes: int
    cache_bytes: float | None = None

    @property
    def backend(self) -> str:
        """Backend of torch.distributed."""
        return "nccl" if self.device == "cuda" else "gloo"

    @property
    def dtype(self) -> torch.dtype:
        """What is multiplied and sent: BF16 on GPUs, FP32 on CPUs (not all CPUs have BF16 units)."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def pool_bytes(self) -> int:
        """Memory that a worker takes its weights from, more than any cache holds."""
        return int(max(_COLD_BYTES[self.device], 3 * (self.cache_bytes or 0)))

    @property
    def calls(self) -> int:
        """Calls timed as one sample: GPU kernels run behind the host, so a single call would time the host."""
        return 10 if self.device == "cuda" else 1


@dataclass(slots=True, eq=False)
class Worker:
    """One process of a `Place`, as tasks see it. pool: memory that no cache holds as a whole."""

    place: Place
    rank: int
    device: torch.device
    pool: Tensor
    groups: dict[int, dist.ProcessGroup | None] = field(default_factory=dict)
    _next: int = 0

    def cold(self, *shape: int) -> Tensor:
        """A tensor of a shape whose elements have long left the cache, as weights of a deep model have."""
        size = torch.Size(shape).numel()
        if size > len(self.pool):
            raise InvalidInput(f"a task needs {size} elements of cold memory; a worker holds {len(self.pool)}")
        if self._next + size > len(self.pool):
            self._next = 0
        part = self.pool[self._next : self._next + size]
        self._next += -(-size // 64) * 64
        return part.view(shape)

    def warm(self, *shape: int) -> Tensor:
        """A tensor of its own, which calls share, as the outputs of a kernel just before."""
        return torch.rand(shape, device=self.device).to(self.place.dtype)


@dataclass(frozen=True, slots=True)
class Call:
    """run: what is timed. approach: what a rank does just before, untimed."""

    run: Callable[[], object]
    approach: Callable[[], object] = lambda: None


class Task(Protocol):
    """Something to time. key: names it in results and files. processes: ranks that run it, the first ones."""

    key: str
    processes: int

    def prepare(self, worker: Worker) -> Call:
        """What is timed, with everything else already done."""


def this_machine(device: str | None = None, processes: int | None = None) -> Place:
    """GPUs where there are any, else two CPU processes. Raises InvalidInput for a device that torch does not see."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput("torch sees no CUDA device here; write cpu")
    if device not in ("cpu", "cuda"):
        raise InvalidInput(f"device {device!r} is unknown; write cpu or cuda")
    if device == "cuda":
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", None)
        return Place(device, processes or torch.cuda.device_count(), float(cache) if cache else None)
    return Place(device, processes or 2, cpu_cache_bytes())


def cpu_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> float | None:
    """Last-level cache as Linux tells it, None elsewhere."""
    sizes = [path.read_text().strip() for path in root.glob("index*/size")]
    scale = {"K": 2**10, "M": 2**20}
    return max((float(size[:-1]) * scale[size[-1]] for size in sizes if size[-1:] in scale), default=None)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine says about itself. title: in words; memory_bytes: of one process; cores: SMs, or threads."""

    title: str
    memory_bytes: float
    cores: int


def facts(place: Place) -> Facts:
    """Facts of one process of a place."""
    if place.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        return Facts(f"{found.name}, {place.processes} in one host", found.total_memory, found.multi_processor_count)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Facts(f"{_cpu_name()}, {place.processes} processes of one thread", memory / place.processes, 1)


def _cpu_name(listing: Path = Path("/proc/cpuinfo")) -> str:
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
