"""How a job is cut over its ranks: degrees, and which rank has which part.

Ranks are numbered as Megatron numbers them by default: tensor parallelism runs fastest, then context parallelism, then
(attention) data parallelism, then pipeline stages, so that rank ``r`` is tensor-parallel part ``r mod tp`` of
context-parallel part ``r div tp mod cp`` of replica ``r div (tp·cp) mod attention_dp`` of stage
``r div (tp·cp·attention_dp)``. `Parallelism.order` states another order. The experts of a stage are spread over the
same ranks, in rising order: expert tensor parallelism runs fastest, then expert parallelism, then the replicas of the
experts (expert data parallelism).

Inference without pipelines is the case pp = cp = expert_dp = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem

AXES = ("tp", "cp", "dp", "pp")


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees of one job on `devices` ranks.

    attention_dp: replicas of attention, each with its own sequences. tp: ranks that split attention, dense FFNs and the
    head. ep: groups that the experts of a stage are spread over. expert_tp: ranks that split each expert. pp: pipeline
    stages. cp: ranks that split each sequence. expert_dp: replicas of a stage's experts (in training; an inference step
    has one). order: axes from the fastest-running to the slowest.
    Raises InvalidInput naming every degree to change unless
    attention_dp · tp · cp · pp == ep · expert_tp · expert_dp · pp == devices.
    """

    devices: int
    attention_dp: int = 1
    tp: int = 1
    ep: int = 1
    expert_tp: int = 1
    pp: int = 1
    cp: int = 1
    expert_dp: int = 1
    order: tuple[str, ...] = AXES

    def __post_init__(self):
        if sorted(self.order) != sorted(AXES):
            raise InvalidInput(
                Problem(f"{'-'.join(self.order)} must name each of tp, cp, dp and pp once", "parallelism.order")
            )
        problems = [self._product(*names) for names in (("attention_dp", "tp", "cp"), ("ep", "expert_tp", "expert_dp"))]
        problems = [problem for problem in problems if problem]
        if problems:
            raise InvalidInput(problems)

    def _product(self, *names: str) -> Problem | None:
        """What is wrong with degrees whose product, stages included, must be the devices; the first is to change."""
        degrees = {name: getattr(self, name) for name in (*names, "pp")}
        total = math.prod(degrees.values())
        if total == self.devices:
            return None
        shown = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1 or name in names[:2]]
        others = total // degrees[names[0]]
        return Problem(
            f"{' × '.join(shown)} = {total} ranks, but there are {self.devices} devices; {_mend(others, self.devices)}",
            f"parallelism.{names[0]}",
        )

    @property
    def stage_devices(self) -> int:
        """Ranks of one pipeline stage."""
        return self.devices // self.pp

    @property
    def grid(self) -> np.ndarray:
        """[pp, attention_dp, cp, tp] the rank of each part."""
        sizes = {"tp": self.tp, "cp": self.cp, "dp": self.attention_dp, "pp": self.pp}
        slowest_first = self.order[::-1]
        numbered = np.arange(self.devices).reshape([sizes[axis] for axis in slowest_first])
        return numbered.transpose([slowest_first.index(axis) for axis in ("pp", "dp", "cp", "tp")])

    @property
    def expert_grid(self) -> np.ndarray:
        """[pp, expert_dp, ep, expert_tp] the rank of each part of the experts."""
        return np.sort(self.grid.reshape(self.pp, -1), axis=1).reshape(self.pp, self.expert_dp, self.ep, self.expert_tp)

    @property
    def tp_groups(self) -> np.ndarray:
        """[pp · attention_dp · cp, tp] ranks of each tensor-parallel group."""
        return self.grid.reshape(-1, self.tp)

    @property
    def cp_groups(self) -> np.ndarray:
        """[pp · attention_dp · tp, cp] ranks that split the same sequences."""
        return self.grid.transpose(0, 1, 3, 2).reshape(-1, self.cp)

    @property
    def dp_groups(self) -> np.ndarray:
        """[pp · cp · tp, attention_dp] ranks with the same part of attention and other sequences."""
        return self.grid.transpose(0, 2, 3, 1).reshape(-1, self.attention_dp)

    @property
    def gradient_groups(self) -> np.ndarray:
        """[pp · tp, attention_dp · cp] ranks that hold the same weights outside the experts, whose gradients add up."""
        return self.grid.transpose(0, 3, 1, 2).reshape(-1, self.attention_dp * self.cp)

    @property
    def pp_groups(self) -> np.ndarray:
        """[ranks of a stage, pp] ranks that hand microbatches to each other, stage after stage."""
        return self.grid.reshape(self.pp, -1).T

    @property
    def ep_groups(self) -> np.ndarray:
        """[pp · expert_dp · expert_tp, ep] ranks that exchange tokens for experts."""
        return self.expert_grid.transpose(0, 1, 3, 2).reshape(-1, self.ep)

    @property
    def expert_tp_groups(self) -> np.ndarray:
        """[pp · expert_dp · ep, expert_tp] ranks that split the same experts."""
        return self.expert_grid.reshape(-1, self.expert_tp)

    @property
    def expert_dp_groups(self) -> np.ndarray:
        """[pp · ep · expert_tp, expert_dp] ranks with the same experts, whose gradients add up."""
        return self.expert_grid.transpose(0, 2, 3, 1).reshape(-1, self.expert_dp)

    @property
    def stage_index(self) -> np.ndarray:
        """[ranks] pipeline stage of each rank."""
        return self._coordinate(self.grid, 0)

    @property
    def dp_index(self) -> np.ndarray:
        """[ranks] attention replica of each rank."""
        return self._coordinate(self.grid, 1)

    @property
    def ep_index(self) -> np.ndarray:
        """[ranks] expert-parallel part of each rank."""
        return self._coordinate(self.expert_grid, 2)

    def _coordinate(self, grid: np.ndarray, axis: int) -> np.ndarray:
        index = np.empty(self.devices, dtype=np.int64)
        index[grid.ravel()] = np.indices(grid.shape)[axis].ravel()
        return index

    @property
    def shared_expert_tp(self) -> int:
        """Ranks that split the shared experts: those of tensor parallelism, unless ranks have tokens of their own (data
        or context parallelism), where each runs them whole on these (as SGLang and TensorRT-LLM do)."""
        return self.tp if self.attention_dp * self.cp == 1 else 1


def for_inference(parallelism: Parallelism) -> Parallelism:
    """The degrees themselves, if an inference step can run on them; InvalidInput says what to change."""
    if parallelism.expert_dp > 1:
        stage = parallelism.stage_devices
        problem = f"a step of inference holds its experts once; write ep × expert_tp = {stage}"
        raise InvalidInput(Problem(problem, "parallelism.ep"))
    return parallelism


def training_parallelism(
    devices: int,
    *,
    tp: int = 1,
    cp: int = 1,
    pp: int = 1,
    ep: int = 1,
    expert_tp: int = 1,
    dp: int | None = None,
    order: tuple[str, ...] = AXES,
) -> Parallelism:
    """The degrees of a training job; data parallelism and expert data parallelism follow from the others.

    dp: stated only to be checked. Raises InvalidInput naming each degree to change.
    """
    problems = []
    if devices % (tp * cp * pp):
        message = f"tp {tp} × cp {cp} × pp {pp} = {tp * cp * pp} does not divide {devices} devices; choose others"
        problems += [Problem(message, f"parallelism.{name}") for name in _at_fault(devices, tp=tp, cp=cp, pp=pp)]
    elif dp is not None and dp != devices // (tp * cp * pp):
        whole = devices // (tp * cp * pp)
        problems.append(
            Problem(f"dp {dp} is not {devices} devices / (tp·cp·pp) = {whole}; write {whole}", "parallelism.dp")
        )
    if devices % pp == 0 and devices // pp % (ep * expert_tp):
        stage = devices // pp
        problems.append(
            Problem(
                f"ep {ep} × expert_tp {expert_tp} = {ep * expert_tp} does not divide the {stage} devices of a stage; "
                f"write an ep that divides {stage // expert_tp if stage % expert_tp == 0 else stage}",
                "parallelism.ep",
            )
        )
    if problems:
        raise InvalidInput(problems)
    return Parallelism(
        devices=devices,
        attention_dp=devices // (tp * cp * pp),
        tp=tp,
        ep=ep,
        expert_tp=expert_tp,
        pp=pp,
        cp=cp,
        expert_dp=devices // (pp * ep * expert_tp),
        order=order,
    )


def _at_fault(devices: int, **degrees: int) -> list[str]:
    """Degrees that divide the devices in no company, or else the largest."""
    alone = [name for name, degree in degrees.items() if devices % degree]
    return alone or [max(degrees, key=degrees.__getitem__)]


def _mend(factor: int, devices: int) -> str:
    """What to write instead, given the other degrees."""
    if devices % factor == 0:
        return f"write {devices // factor}"
    return f"no degree times {factor} gives that; change both"
