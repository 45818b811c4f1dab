"""The collectives of a pipeline rank: tensor, context, expert and data parallelism, and messages between stages.

Every collective is built once and runs for every microbatch that needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from moesim.cost.communication import collective, library, message
from moesim.cost.exchange import KERNELS, exchange
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model.architecture import Attention
from moesim.model.per_token import cached_elements
from moesim.network.transfer import Transfer
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import Span
from moesim.workload.training.routed import Draws, draw_of
from moesim.workload.training.schedules import BACKWARD, FORWARD

BF16 = PRECISIONS["bf16"].bytes


@dataclass(slots=True, eq=False)
class Exchanges:
    """Collectives of one pipeline rank.

    spans: seconds with their interval by kind, for reports. common: those that pipeline ranks run together, because
    both hold the same weights (DualPipe).
    """

    job: Job
    rank: int
    draws: Draws | None
    spans: dict[str, Span]
    common: dict[tuple, tuple[Transfer, float]]
    _built: dict[tuple, tuple[Transfer, float] | None] = field(default_factory=dict)

    def tensor(self, kind: str) -> Transfer | None:
        """all_gather, reduce_scatter or all_reduce of a microbatch's hidden states over tensor-parallel ranks; an
        all-reduce stands for either half where sequences are not split."""
        job = self.job
        if job.parallelism.tp == 1:
            return None
        size = job.tokens * job.model.hidden * BF16
        return self._collective(kind, kind, self._groups(job.parallelism.tp_groups), size)

    def keys_and_values(self, attention: Attention, passes: int) -> Transfer | None:
        """Everybody's keys and values round the context-parallel ring, `passes` times as many bytes."""
        job = self.job
        if job.parallelism.cp == 1 or attention.kind == "linear":
            return None
        width = cached_elements(attention, job.parallelism.tp)
        if attention.kind == "mla":  # training exchanges expanded heads
            width = (
                attention.heads
                // job.parallelism.tp
                * (attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim)
            )
        size = passes * job.tokens * job.parallelism.cp * width * BF16
        return self._collective("context", "all_gather", self._groups(job.parallelism.cp_groups), size)

    def routed(self, phase: str, row: int, variant: int) -> tuple[Transfer | None, float]:
        """(dispatch or combine of a MoE layer in microbatches of a variant, share that it takes from compute).

        The gradients of combine's inputs travel as dispatch sends tokens, and back as combine does.
        """
        job = self.job
        if job.parallelism.ep == 1:
            return None, 0.0
        key = (phase, row, variant)
        if key not in self._built:
            copies = self.draws.copies[
                draw_of(job, variant).ravel(), row
            ]  # [expert_dp · expert_tp, source, destination]
            groups = self._groups(job.parallelism.ep_groups)
            priced = exchange(
                job.machine,
                job.network,
                groups,
                copies if phase == "dispatch" else copies.swapaxes(1, 2),
                kernel=job.kernel,
                phase=phase,
                tokens=np.full(groups.size, job.owned_tokens),
                hidden=job.model.expert_hidden,
                experts=job.model.layers[job.model.moe_layers[0]].experts.routed,
                precision=job.formats.dispatch if phase == "dispatch" else job.formats.combine,
                fidelity=job.fidelity,
            )
            self._count(phase, priced.transfer, priced.interval)
            self._built[key] = priced.transfer, priced.compute_share(job.machine)
        return self._built[key]

    def expert_slices(self, kind: str, row: int, variant: int) -> Transfer | None:
        """Tokens gathered by (or outputs scattered to) the ranks that split the same experts."""
        job = self.job
        if job.parallelism.expert_tp == 1:
            return None
        arrived = self.draws.entering[draw_of(job, variant), row]  # [expert_dp, expert_tp, ep]
        size = float(arrived.sum(axis=1).max()) * job.model.expert_hidden * BF16
        key = f"expert_{kind}"
        return self._collective(key, kind, self._groups(job.parallelism.expert_tp_groups), size)

    def replicas(
        self, kind: str, what: str, virtual_stage: int, elements: float, precision: Precision
    ) -> Transfer | None:
        """Gradients or weights of a virtual stage over the ranks that hold them: `dense` or `experts`."""
        parallelism = self.job.parallelism
        groups = parallelism.gradient_groups if what == "dense" else parallelism.expert_dp_groups
        holders = self.job.holders(virtual_stage)
        members = np.concatenate([self._groups(groups, holder) for holder in holders], axis=1)
        if members.shape[1] == 1 or not elements:
            return None
        return self._collective(f"{what}_{kind}", kind, members, elements * precision.bytes, self.common)

    @property
    def library_share(self) -> float:
        """What a collective of the library takes from compute beside it: its SMs; a TPU's DMA engines take none."""
        device = self.job.machine.device
        return KERNELS["nccl"].sms / device.cores if device.kind == "gpu" else 0.0

    def _groups(self, groups: np.ndarray, rank: int | None = None) -> np.ndarray:
        """Those of this pipeline rank: groups are listed stage by stage."""
        stages = groups.reshape(self.job.parallelism.pp, -1, groups.shape[-1])
        return stages[self.rank if rank is None else rank]

    def _collective(
        self, name: str, kind: str, groups: np.ndarray, size: float, built: dict[tuple, tuple] | None = None
    ) -> Transfer:
        built, key = self._built if built is None else built, (kind, groups.tobytes(), size)
        if key not in built:
            job = self.job
            transfer = collective(job.machine, job.network, kind, groups, size, fidelity=job.fidelity)
            self._count(name, transfer, library(job.machine, kind).interval)
            built[key] = transfer, 0.0
        return built[key][0]

    def _count(self, name: str, transfer: Transfer, interval: tuple[float, float]) -> None:
        seconds = float(transfer.alone_s.max(initial=0.0))
        found = Span(seconds, seconds * interval[0], seconds * interval[1])
        self.spans[name] = self.spans.get(name, Span()) + found


def stage_messages(job: Job, spans: dict[str, Span]) -> dict[tuple[int, int, str], Transfer]:
    """Hand-overs between neighbours on every path: (path, position of the sender, phase) → message.

    Each rank sends its share of the hidden states (or their gradients) to the rank with the same coordinates.
    """
    size = np.full(job.parallelism.stage_devices, job.owned_tokens * job.model.hidden * BF16)
    grid = job.parallelism.grid.reshape(job.parallelism.pp, -1)
    interval = library(job.machine, "point_to_point").interval
    built: dict[tuple[int, int], Transfer] = {}
    found = {}
    for path, places in enumerate(job.schedule.paths):
        for position, (rank, _) in enumerate(places):
            for phase, neighbour in ((FORWARD, position + 1), (BACKWARD, position - 1)):
                if not 0 <= neighbour < len(places) or places[neighbour][0] == rank:
                    continue
                ends = rank, places[neighbour][0]
                if ends not in built:
                    built[ends] = message(
                        job.machine, job.network, grid[ends[0]], grid[ends[1]], size, fidelity=job.fidelity
                    )
                    seconds = float(built[ends].alone_s.max())
                    for side in ("send", "receive"):
                        spans[f"{side}_{phase}"] = Span(seconds, seconds * interval[0], seconds * interval[1])
                # A value of its own for each place: messages of one place match in the order of microbatches.
                found[path, position, phase] = replace(built[ends])
    return found
