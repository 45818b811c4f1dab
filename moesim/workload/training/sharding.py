"""Data parallelism: reducing gradients, gathering weights, and the optimizer's update of what a rank owns.

ZeRO (Rajbhandari et al. 2020): level 0 keeps everything on every replica and all-reduces gradients; 1 shards the
optimizer's states, so that gradients are reduce-scattered and updated weights gathered; 2 also shards gradients, which
are therefore reduced after every microbatch; 3 also shards weights, which are gathered for every pass of every layer,
one layer ahead. Routed experts are sharded over their own replicas, everything else over data and context parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.cost.memory import memory_bound
from moesim.network.transfer import Transfer
from moesim.workload.emitter import Emitter
from moesim.workload.training.chains import After, Chain
from moesim.workload.training.exchanges import Exchanges
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import Span, moving
from moesim.workload.training.parts import newton_schulz
from moesim.workload.training.weights import (
    Held,
    dense_matrices,
    end_weights,
    expert_matrices,
    layer_weights,
    stage_weights,
)


@dataclass(slots=True, eq=False)
class Sharding:
    """What data parallelism adds to the chains and programs of one pipeline rank."""

    job: Job
    rank: int
    exchanges: Exchanges
    spans: dict[str, Span]

    def prologue(self, emit: Emitter) -> dict[str, int]:
        """Gather the weights that the shards have updated, beside the first forwards; returns operations by label."""
        job = self.job
        if job.zero not in (1, 2) or not job.overlap.parameters:
            return {}
        return {
            label: emit.write("parameters", index, "parameters", (), None, transfer, self._share)
            for label, index, transfer in self._all("parameters", "all_gather")
        }

    def before_forward(self, chain: Chain, layers: Sequence[int], position: int, first: bool) -> tuple[str, ...]:
        """Labels that a layer's forward waits for, after issuing what the next layer will need."""
        if self.job.zero == 3:
            return self._ahead(chain, layers, position)
        return self._labels("parameters", layers[position]) if first else ()

    def before_backward(self, chain: Chain, layers: Sequence[int], position: int) -> tuple[str, ...]:
        """As `before_forward`: only sharded weights must come again."""
        return self._ahead(chain, layers, position) if self.job.zero == 3 else ()

    def after_weights(self, chain: Chain, index: int, last: bool) -> None:
        """Reduce a layer's gradients, in the last microbatch or (sharded gradients) in each."""
        if self.job.zero >= 2 or (last and self.job.overlap.gradients):
            self._reduce(chain, index, self._stage_of(index), layer_weights(self.job, index))

    def after_ends(self, chain: Chain, stage: int, last: bool) -> None:
        """Likewise for embedding and head."""
        if self.job.zero >= 2 or (last and self.job.overlap.gradients):
            self._reduce(chain, -1 - stage, stage, end_weights(self.job, stage))

    def finish(self, emit: Emitter, ended: After, labels: Mapping[str, int]) -> None:
        """The end of the step: what is still to be reduced, the update, and (not overlapped) the gathering."""
        job = self.job
        reduced = tuple(index for label, index in labels.items() if label.startswith("gradients"))
        if job.zero < 2 and not job.overlap.gradients:
            for _, index, transfer in self._all("gradients", self._reduction):
                reduced += (emit.write("gradients", index, "gradients", ended, None, transfer),)
        update = self.update()
        self.spans["optimizer"] = update
        seconds = np.full(emit.ranks.size, float(update.seconds))
        done = emit.write("optimizer", -1, "compute", (*ended, *reduced), seconds)
        if job.zero in (1, 2) and not job.overlap.parameters:
            for _, index, transfer in self._all("parameters", "all_gather"):
                emit.write("parameters", index, "parameters", (done,), None, transfer)

    def shards(self) -> tuple[int, int]:
        """Ranks over which dense weights and experts are sharded, DualPipe's two holders included."""
        parallelism = self.job.parallelism
        holders = len(self.job.holders(self.job.held(self.rank)[0]))
        return parallelism.attention_dp * parallelism.cp * holders, parallelism.expert_dp * holders

    def update(self) -> Span:
        """The optimizer's step on this rank: gradients read for their norm and again for the update, master weights and
        states read and written, weights written; under Muon also its products."""
        job, formats, optimizer = self.job, self.job.formats, self.job.optimizer
        dense, experts = self.shards() if job.zero else (1, 1)
        held = sum((stage_weights(job, stage) for stage in job.held(self.rank)), Held())
        master = 2 * formats.master_weights.bytes if formats.master_weights else formats.weights.bytes
        states = max(optimizer.states, optimizer.matrix_states) if not optimizer.newton_schulz_steps else 1
        each = (
            2 * formats.gradients.bytes + master + 2 * states * formats.optimizer_states.bytes + formats.weights.bytes
        )
        update = moving(memory_bound(job.machine, (held.dense / dense + held.experts / experts) * each, kernels=4))
        if not optimizer.newton_schulz_steps:
            return update
        for stage in job.held(self.rank):
            for index in job.layers(stage):
                layer = job.layer(index)
                for matrix in dense_matrices(job, layer):
                    update = update + newton_schulz(job, matrix.n, matrix.k, matrix.stored / dense)
                for matrix in expert_matrices(job, layer) if layer.experts else ():
                    update = update + newton_schulz(job, matrix.n, matrix.k, job.placement.slots_per_rank / experts)
        return update

    @property
    def _reduction(self) -> str:
        return "reduce_scatter" if self.job.zero else "all_reduce"

    @property
    def _share(self) -> float:
        """Ranks of two programs that reduce together must not wait for each other inside their computing."""
        return 0.0 if len(self.job.schedule.paths) > 1 else self.exchanges.library_share

    def _stage_of(self, index: int) -> int:
        return next(stage for stage in self.job.held(self.rank) if index in self.job.layers(stage))

    def _labels(self, name: str, index: int) -> tuple[str, ...]:
        return tuple(f"{name} {what} {index}" for what in ("dense", "experts"))

    def _reduce(self, chain: Chain, index: int, stage: int, held: Held) -> None:
        stream = f"gradients {index}" if len(self.job.schedule.paths) > 1 else "gradients"
        for label, transfer in self._of("gradients", self._reduction, index, stage, held):
            chain.communicate(
                "gradients", index, transfer, self._share, aside=True, label=label, lasting=True, stream=stream
            )

    def _ahead(self, chain: Chain, layers: Sequence[int], position: int) -> tuple[str, ...]:
        wanted = layers[position : position + 2] if position == 0 else layers[position + 1 : position + 2]
        for index in wanted:
            held = layer_weights(self.job, index)
            for label, transfer in self._of("parameters", "all_gather", index, self._stage_of(index), held):
                chain.communicate(
                    "parameters", index, transfer, self._share, aside=True, label=label, stream="parameters"
                )
        return self._labels("parameters", layers[position])

    def _all(self, name: str, kind: str) -> Iterator[tuple[str, int, Transfer]]:
        """Every layer's collectives (label, layer, transfer), stage by stage as both holders of a stage order them."""
        for stage in sorted(self.job.held(self.rank)):
            for index in self.job.layers(stage):
                for label, transfer in self._of(name, kind, index, stage, layer_weights(self.job, index)):
                    yield label, index, transfer
            for label, transfer in self._of(name, kind, -1 - stage, stage, end_weights(self.job, stage)):
                yield label, -1, transfer

    def _of(self, name: str, kind: str, index: int, stage: int, held: Held) -> Iterator[tuple[str, Transfer]]:
        formats = self.job.formats
        precision = formats.gradients if name == "gradients" else formats.weights
        for what, elements in (("dense", held.dense), ("experts", held.experts)):
            transfer = self.exchanges.replicas(kind, what, stage, elements, precision)
            if transfer is not None:
                yield f"{name} {what} {index}", transfer
