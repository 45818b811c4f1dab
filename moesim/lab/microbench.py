"""What a machine's profile is made of, timed: matrix products, routed experts, memory, collectives.

The tables have the columns of the published ones (`moesim.cost.table_kinds`), so that the same equations are fitted to
them. Weights come from memory, not from a cache, and inputs from the cache, as in a model of many layers. All processes
run a kernel at once, because in expert parallelism they do, and what they share slows them all down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist

from moesim.cost.experts_loads import load_columns
from moesim.lab.expert_parallel import ExpertWeights, routed_rows, sort_by_expert, weigh
from moesim.lab.place import Call, Place, Task, Worker

if TYPE_CHECKING:
    import pandas as pd

_WORK = (64, 512)  # rows and width of the product before a collective, some 0.4 ms on a core


@dataclass(frozen=True, slots=True)
class Product:
    """out[m, n] = a[m, k] · b[k, n]: warm a, cold b."""

    m: int
    n: int
    k: int
    processes: int

    @property
    def key(self) -> str:
        """Name in results."""
        return f"gemm {self.m} {self.n} {self.k}"

    def row(self, place: Place) -> dict[str, object]:
        """Its line of the table, without the time; of every task here."""
        return names(place, "matmul") | {"m": self.m, "n": self.n, "k": self.k}

    def prepare(self, worker: Worker) -> Call:
        """As of every task."""
        a = worker.warm(self.m, self.k)
        return Call(lambda: a @ worker.cold(self.k, self.n))


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """All that one rank does by itself in a MoE layer (`moesim.lab.expert_parallel`) whose exchanges take no time.

    loads: token copies that reach each of its experts. tokens, top_k: its own tokens, which it sends out and weighs.
    """

    hidden: int
    ffn: int
    loads: tuple[int, ...]
    tokens: int
    top_k: int
    processes: int

    @property
    def key(self) -> str:
        """Name in results."""
        digest = crc32(repr(self.loads).encode())
        return f"experts {self.hidden} {self.ffn} {len(self.loads)} {self.tokens} {self.top_k} {digest:08x}"

    def row(self, place: Place) -> dict[str, object]:
        """As of every task; the loads as the equation reads them."""
        experts = float(len(self.loads))
        loads = {name: float(value) for name, value in load_columns(np.array(self.loads)).items()}
        return names(place, "grouped_mm") | loads | {
            "hidden_size": float(self.hidden), "width": float(self.ffn), "expert_ffn": self.ffn, "gated": 1.0,
            "tokens": float(self.tokens), "num_tokens": self.tokens, "top_k": float(self.top_k),
            "local_experts": experts, "experts": experts,
        }  # fmt: skip

    def prepare(self, worker: Worker) -> Call:
        """As of every task."""
        experts, hidden, ffn = len(self.loads), self.hidden, self.ffn
        counts = torch.tensor([self.loads], device=worker.device)
        x, arrived = worker.warm(self.tokens, hidden), worker.warm(sum(self.loads), hidden)
        ids = torch.rand(self.tokens, experts, device=worker.device).topk(self.top_k).indices
        gates = worker.warm(self.tokens, self.top_k)

        def run() -> torch.Tensor:
            sending = sort_by_expert(ids, experts)
            rows = x[sending.order // self.top_k]
            weights = ExpertWeights(worker.cold(experts, hidden, 2 * ffn), worker.cold(experts, ffn, hidden))
            routed_rows(arrived, counts, weights)
            return weigh(rows, sending, gates)

        return Call(run)


@dataclass(frozen=True, slots=True)
class Memory:
    """``copy`` (reads and writes) or ``read`` (a sum) of all cold memory."""

    operation: str
    processes: int

    @property
    def key(self) -> str:
        """Name in results."""
        return f"memory {self.operation}"

    def row(self, place: Place) -> dict[str, object]:
        """As of every task."""
        return {"operation": self.operation, "moved_bytes": float(place.pool_bytes)}

    def prepare(self, worker: Worker) -> Call:
        """As of every task. Half of the pool is copied onto the other half."""
        if self.operation == "read":
            return Call(worker.pool.sum)
        half = len(worker.pool) // 2
        return Call(lambda: worker.pool[half : 2 * half].copy_(worker.pool[:half]))


@dataclass(frozen=True, slots=True)
class Collective:
    """``all_reduce`` or ``alltoall`` (even) over all processes. elements: of a rank's whole buffer."""

    operation: str
    elements: int
    processes: int

    @property
    def key(self) -> str:
        """Name in results."""
        return f"{self.operation} {self.elements}"

    def row(self, place: Place) -> dict[str, object]:
        """As of every task."""
        shape = {"op": self.operation, "ranks": self.processes, "message_elements": self.elements}
        return names(place, place.backend) | shape

    def prepare(self, worker: Worker) -> Call:
        """As of every task. Ranks come from work that is not equally long, as in a model, so that some have to wait."""
        group = worker.groups[self.processes]
        ours, theirs = worker.warm(self.elements), worker.warm(self.elements)
        rows = worker.warm(_WORK[0], _WORK[1])

        def approach() -> None:
            for _ in range(1 + worker.rank):
                rows @ worker.cold(_WORK[1], _WORK[1])

        if self.operation == "all_reduce":
            ours.zero_()  # summed again and again
            return Call(lambda: dist.all_reduce(ours, group=group), approach)
        splits = [self.elements // self.processes] * self.processes  # stated, for uneven exchanges run other code
        return Call(lambda: dist.all_to_all_single(theirs, ours, splits, splits, group=group), approach)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Sizes to time. Products: every m with every (n, k). Experts: (hidden, ffn, experts, top_k) with every number of
    token copies, balanced and skewed. Collectives: elements of a buffer."""

    rows: tuple[int, ...]
    matrices: tuple[tuple[int, int], ...]
    experts: tuple[tuple[int, int, int, int], ...]
    copies: tuple[int, ...]
    elements: tuple[int, ...]


# A CPU core does some 0.1 TFLOP/s, a GPU a thousand times as much: sizes follow, so that each call takes 0.1-10 ms on
# one and 10 µs-10 ms on the other. No shape of experts is one of the closed loop's.
CPU_SWEEP = Sweep(
    rows=(1, 4, 16, 48, 128, 256),
    matrices=((256, 256), (512, 256), (256, 768), (512, 512), (1024, 512), (768, 1024)),
    experts=(
        (96, 96, 64, 4), (192, 64, 128, 8), (128, 96, 192, 6), (256, 256, 8, 2), (320, 384, 4, 2), (160, 160, 32, 4),
    ),
    copies=(16, 64, 256, 768),
    elements=tuple(2**exponent for exponent in range(6, 21)),
)  # fmt: skip
CUDA_SWEEP = Sweep(
    rows=(1, 8, 32, 128, 512, 2048, 8192),
    matrices=((1024, 1024), (4096, 1024), (1536, 7168), (4096, 4096), (7168, 2048), (8192, 8192)),
    experts=((2048, 768, 32, 8), (4096, 1536, 16, 8), (7168, 2048, 8, 8), (4096, 14336, 2, 2), (2880, 2880, 16, 4)),
    copies=(16, 128, 1024, 8192, 32768),
    elements=tuple(2**exponent for exponent in range(8, 29, 2)),
)
SWEEPS: Mapping[str, Sweep] = {"cpu": CPU_SWEEP, "cuda": CUDA_SWEEP}


def sweep_tasks(place: Place, sweep: Sweep | None = None) -> list[Task]:
    """Everything that a profile of the place is made of. Collectives only where there are several processes."""
    sweep, everyone = sweep or SWEEPS[place.device], place.processes
    tasks: list[Task] = [Memory("read", everyone), Memory("copy", everyone)]
    tasks += [Product(m, n, k, everyone) for (n, k), m in product(sweep.matrices, sweep.rows)]
    rng = np.random.default_rng(0)
    for (hidden, ffn, experts, top_k), copies in product(sweep.experts, sweep.copies):
        for skew in (0.0, 1.0):
            popularity = np.arange(1, experts + 1.0) ** -skew
            loads = tuple(rng.multinomial(copies, popularity / popularity.sum()).tolist())
            # A rank takes more or fewer copies than it sends, as under uneven routing.
            tokens = max(1, round(copies / top_k * rng.choice([0.5, 1.0, 2.0])))
            tasks.append(RoutedExperts(hidden, ffn, loads, tokens, top_k, everyone))
    if everyone > 1:
        tasks += [
            Collective(op, n * everyone, everyone) for op, n in product(("alltoall", "all_reduce"), sweep.elements)
        ]
    return tasks


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Timings as tables, each with ``latency_s``.

    gemm: software, kernel, dtype, m, n, k. experts: the same names, and what `moesim.cost.experts_kernel` reads.
    collective: software, kernel, dtype, op, ranks, message_elements; empty for one process. memory: operation and
    moved_bytes.
    """

    gemm: pd.DataFrame
    experts: pd.DataFrame
    collective: pd.DataFrame
    memory: pd.DataFrame


def tables(place: Place, tasks: Sequence[Task], seconds: Mapping[str, float]) -> Tables:
    """Sort timings by kind; tasks of other kinds are passed over. seconds: by key."""
    import pandas as pd  # not at the top: every worker imports this module, and needs no tables

    kinds = (Product, RoutedExperts, Collective, Memory)
    chosen = {kind: [task for task in tasks if isinstance(task, kind)] for kind in kinds}
    rows = {
        kind: pd.DataFrame([task.row(place) | {"latency_s": seconds[task.key]} for task in some])
        for kind, some in chosen.items()
    }
    return Tables(*(rows[kind] for kind in kinds))


def names(place: Place, kernel: str) -> dict[str, str]:
    """The columns that name a kernel, as in the published tables."""
    return {
        "software": f"torch {torch.__version__.partition('+')[0]}",
        "kernel": kernel,
        "dtype": str(place.dtype).removeprefix("torch."),
    }
