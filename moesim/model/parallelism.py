"""How a job is cut over its ranks: degrees, and which rank has which part.

Rank order, as engines number them: tensor parallelism runs fastest, then attention data parallelism, so that rank
``r`` has tensor-parallel part ``r mod tp`` of attention replica ``r div tp``; for the experts, expert tensor
parallelism runs fastest, then expert parallelism: rank ``r`` has part ``r mod expert_tp`` of expert group
``r div expert_tp``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees of one job on `devices` ranks.

    attention_dp: replicas of attention, each with its own sequences. tp: ranks that split attention, dense FFNs and the
    head. ep: groups that the experts are spread over. expert_tp: ranks that split each expert.
    Raises InvalidInput naming every degree to change unless attention_dp · tp == ep · expert_tp == devices.
    """

    devices: int
    attention_dp: int = 1
    tp: int = 1
    ep: int = 1
    expert_tp: int = 1

    def __post_init__(self):
        problems = [
            Problem(
                f"{first} {a} × {second} {b} = {a * b} ranks, but there are {self.devices} devices; {_mend(b, self)}",
                f"parallelism.{first}",
            )
            for first, a, second, b in (
                ("attention_dp", self.attention_dp, "tp", self.tp),
                ("ep", self.ep, "expert_tp", self.expert_tp),
            )
            if a * b != self.devices
        ]
        if not problems and self.attention_dp > 1 and self.expert_tp > 1:
            problems = [
                Problem(
                    f"experts split over expert_tp {self.expert_tp} ranks need attention_dp 1; write expert_tp: 1 and "
                    f"ep: {self.devices}",
                    "parallelism.expert_tp",
                )
            ]
        if problems:
            raise InvalidInput(problems)

    @property
    def tp_groups(self) -> np.ndarray:
        """[attention_dp, tp] ranks of each tensor-parallel group."""
        return np.arange(self.devices).reshape(self.attention_dp, self.tp)

    @property
    def dp_index(self) -> np.ndarray:
        """[ranks] attention replica of each rank."""
        return np.arange(self.devices) // self.tp

    @property
    def ep_index(self) -> np.ndarray:
        """[ranks] expert-parallel group of each rank."""
        return np.arange(self.devices) // self.expert_tp

    @property
    def shared_expert_tp(self) -> int:
        """Ranks that split the shared experts: those of tensor parallelism unless attention is data-parallel, where
        every rank runs them whole on its own tokens (as SGLang and TensorRT-LLM do)."""
        return self.tp if self.attention_dp == 1 else 1


def _mend(factor: int, parallelism: Parallelism) -> str:
    """What to write instead, given the other degree."""
    if parallelism.devices % factor == 0:
        return f"write {parallelism.devices // factor}"
    return f"no degree times {factor} gives that; change both"
