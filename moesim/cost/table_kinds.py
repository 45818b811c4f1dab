"""The kinds of measured tables, and the cost model that explains each."""

from __future__ import annotations

from collections.abc import Collection

from moesim.cost import attention, mla
from moesim.cost.collective_kernels import COLLECTIVE
from moesim.cost.exchange_kernels import EXCHANGE
from moesim.cost.experts_table import EXPERTS
from moesim.cost.family import Family
from moesim.cost.gemm import GEMM
from moesim.errors import InvalidInput

# kind of table -> {phase of its rows: family}; "" stands for tables whose rows all have one family
KINDS: dict[str, dict[str, Family]] = {
    "gemm": {"": GEMM},
    "moe": {"": EXPERTS},
    "attention": {"decode": attention.DECODE, "prefill": attention.PREFILL},
    "mla": {"decode": mla.DECODE, "prefill": mla.PREFILL},
    "collective": {"": COLLECTIVE},
    "all_to_all": {"": EXCHANGE},
}
FAMILIES: dict[str, Family] = {family.name: family for phases in KINDS.values() for family in phases.values()}


def kind_of(columns: Collection[str]) -> str:
    """The kind of a table by its columns: the most specific one whose columns it all has.

    Raises InvalidInput that says what is missing from the kind that comes closest.
    """
    needed = {kind: set(next(iter(phases.values())).columns) for kind, phases in KINDS.items()}
    matching = [kind for kind, names in needed.items() if names <= set(columns)]
    if matching:
        return max(matching, key=lambda kind: len(needed[kind]))
    closest = min(needed, key=lambda kind: (len(needed[kind] - set(columns)), len(needed[kind])))
    missing = ", ".join(sorted(needed[closest] - set(columns)))
    kinds = ", ".join(KINDS)
    raise InvalidInput(
        f"the columns match no kind of table ({kinds}); closest is {closest}, which also needs {missing}"
    )
