"""Where the ranks of a job stand, and the groups that each of its degrees makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.engine.program import Program
from moesim.hardware.topology import Cluster
from moesim.model.parallelism import Parallelism

# As scenarios call a degree, where that differs.
NAMES = {"dp": "attention_dp"}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Ranks of a job. parallelism: of one of `instances` copies on consecutive ranks. programs: of one step, which they
    run `rounds` times."""

    title: str
    what: str
    cluster: Cluster
    parallelism: Parallelism
    instances: int
    programs: tuple[Program, ...]
    rounds: int = 1

    def axes(self) -> dict[str, np.ndarray]:
        """{degree above 1: [group, member] ranks of all instances}."""
        p = self.parallelism
        groups = {
            "tp": p.tp_groups, "cp": p.cp_groups, "dp": p.dp_groups, "pp": p.pp_groups, "ep": p.ep_groups,
            "expert_tp": p.expert_tp_groups, "expert_dp": p.expert_dp_groups,
        }  # fmt: skip
        first = np.arange(self.instances)[:, None, None] * p.devices
        return {
            axis: (first + ranks).reshape(-1, ranks.shape[1]) for axis, ranks in groups.items() if ranks.shape[1] > 1
        }
