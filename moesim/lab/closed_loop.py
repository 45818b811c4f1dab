"""Expert-parallel forward passes to time: the experiment that predictions are held against.

A pass runs the MoE blocks of a few layers (`moesim.lab.expert_parallel`) with residuals, each layer with its own
routing. The routing is given, not computed, so that it can be balanced, skewed, or what a real router chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch

from moesim.lab.expert_parallel import ExpertWeights, moe_layer
from moesim.lab.place import Call, Place, Worker
from moesim.routing.choice import draw_independent
from moesim.routing.replay import replay
from moesim.routing.trace import RouterTrace

LAYERS = 2
SKEW = 1.2  # popularity of the n-th expert is n^-SKEW: the first rank, which holds the first experts, gets most tokens
# (hidden, ffn) for many small and for few large experts, and token copies of a rank; see the sweeps of `microbench`.
_WIDTHS = {"cpu": ((128, 64), (192, 320)), "cuda": ((1024, 512), (2048, 4096))}
_COPIES = {"cpu": (64, 256, 768), "cuda": (256, 4096, 32768)}
_MANY = 32  # experts


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One forward pass. ids: [layer, token, k] experts chosen, tokens in the order of their ranks.

    model: whose router geometry it has. tokens: of each process.
    """

    model: str
    routing: str
    processes: int
    tokens: int
    hidden: int
    ffn: int
    experts: int
    ids: np.ndarray

    @property
    def key(self) -> str:
        """Name in results; a digest of the routing tells passes over different traces apart."""
        digest = crc32(np.ascontiguousarray(self.ids, dtype=np.int32).tobytes())
        shape = f"{self.processes}x{self.tokens} {self.hidden} {self.ffn} {self.experts}"
        return f"pass {self.model} {self.routing} {shape} {digest:08x}"

    def prepare(self, worker: Worker) -> Call:
        """The pass on cold weights, one set a layer and call."""
        mine = slice(worker.rank * self.tokens, (worker.rank + 1) * self.tokens)
        ids = torch.from_numpy(self.ids[:, mine].astype(np.int64)).to(worker.device)
        x, group = worker.warm(self.tokens, self.hidden), worker.groups[self.processes]
        gates = torch.full(ids.shape[1:], 1 / ids.shape[2], device=worker.device, dtype=x.dtype)
        local, hidden, ffn = self.experts // self.processes, self.hidden, self.ffn

        def run() -> torch.Tensor:
            out = x
            for chosen in ids:
                weights = ExpertWeights(worker.cold(local, hidden, 2 * ffn), worker.cold(local, ffn, hidden))
                out = out + moe_layer(out, chosen, gates, weights, group)
            return out

        return Call(run)


def passes(
    place: Place, traces: Mapping[str, RouterTrace], rng: np.random.Generator, copies: tuple[int, ...] | None = None
) -> list[Pass]:
    """Passes of every trace's geometry at several sizes: balanced, skewed and captured, on one process and on all.

    traces: by name, captured ones. copies: token copies that each process sends, by default those of the device.
    """
    made = []
    for name, trace in traces.items():
        hidden, ffn = _WIDTHS[place.device][trace.experts <= _MANY]
        for processes in sorted({1, place.processes}):
            if trace.experts % processes:
                continue
            for size in copies or _COPIES[place.device]:
                tokens = max(1, size // trace.top_k)
                for routing, ids in _routings(trace, processes, tokens, rng).items():
                    made.append(Pass(name, routing, processes, tokens, hidden, ffn, trace.experts, ids))
    return made


def _routings(trace: RouterTrace, ranks: int, tokens: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    experts, top_k = trace.experts, trace.top_k
    popularity = np.tile(np.arange(1, experts + 1.0) ** -SKEW, (LAYERS, 1))
    skewed = draw_independent(popularity, top_k, ranks * tokens, rng).transpose(1, 0, 2)
    captured = replay(
        trace, moe_layers=LAYERS, experts=experts, top_k=top_k, ranks=ranks, tokens_per_rank=tokens, phase="prefill",
        rng=rng,
    )  # fmt: skip
    return {"balanced": balanced(experts, top_k, ranks * tokens), "skewed": skewed, "captured": captured.ids}


def balanced(experts: int, top_k: int, tokens: int) -> np.ndarray:
    """Choices [layer, token, k] that load all experts, and all ranks, as evenly as can be."""
    first = np.arange(tokens)[:, None] * max(1, experts // (top_k * tokens))
    ids = (first + np.arange(top_k) * (experts // top_k)) % experts
    return np.broadcast_to(ids, (LAYERS, tokens, top_k))
