"""Pipeline stages: which ranks hold which layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.model.parallelism import Parallelism
from moesim.workload.deployment import Deployment


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One pipeline stage of all instances.

    layers: of the model. parallelism: degrees of one stage (pp 1); its ranks are positions among the stage's own,
    counted in rising order. ranks: [instance, position] ranks on the cluster. last: whether the head follows.
    """

    index: int
    layers: range
    parallelism: Parallelism
    ranks: np.ndarray
    last: bool

    @property
    def alone(self) -> bool:
        """Whether every rank holds all tokens, so that nothing is dispatched."""
        return self.parallelism.attention_dp * self.parallelism.cp == 1

    @property
    def sharded(self) -> bool:
        """Whether the tokens of a tensor-parallel group are split over its ranks around the experts."""
        return not self.alone and self.parallelism.tp > 1


def stages_of(deployment: Deployment) -> tuple[Stage, ...]:
    """All pipeline stages, first to last."""
    whole = deployment.parallelism
    counts = deployment.stage_layers or (len(deployment.model.layers),)
    ends = np.cumsum(counts)
    first_rank = np.arange(deployment.instances)[:, None] * whole.devices
    own = one_stage(whole)
    return tuple(
        Stage(
            index,
            range(int(end) - count, int(end)),
            own,
            first_rank + np.sort(whole.grid[index].ravel()),
            index == whole.pp - 1,
        )
        for index, (count, end) in enumerate(zip(counts, ends, strict=True))
    )


def one_stage(parallelism: Parallelism) -> Parallelism:
    """The degrees of each pipeline stage by itself."""
    return replace(parallelism, devices=parallelism.stage_devices, pp=1)


def even_layers(layers: int, stages: int) -> list[int]:
    """Layers of each stage as equal as can be, the first ones longer: the last also holds the head."""
    size, more = divmod(layers, stages)
    return [size + 1] * more + [size] * (stages - more)


def divide_layers(layers: int, stages: int, stated: Sequence[int] | None) -> tuple[int, ...]:
    """Layers of each stage (in training: of each virtual stage of the schedule): as stated, else equal. Raises
    InvalidInput naming what to write."""
    if stated is None:
        listed = even_layers(layers, stages)
        if listed[0] != listed[-1]:
            problem = f"{layers} layers do not divide into {stages} equal stages; write e.g. stages: {listed}"
            raise InvalidInput(Problem(problem, "parallelism.pp"))
        return tuple(listed)
    if len(stated) != stages or sum(stated) != layers:
        problem = (
            f"{len(stated)} stages with {sum(stated)} layers are listed; there are {stages} stages and the model has "
        )
        raise InvalidInput(Problem(f"{problem}{layers} layers", "stages"))
    return tuple(stated)
