"""Parallel degrees out of texts such as ``TP1 PP4 VP4 EP64``, ``DEP8``, ``TP8 EP8 attention-DP``, ``EP144/DP144``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.study.entries.reading.case import NotStated

_LABEL = {
    "tp": "tp", "pp": "pp", "cp": "cp", "ep": "ep", "etp": "etp", "dp": "dp", "dep": "dep",
    "vp": "vp", "vpp": "vp", "tep": "tep",
}  # fmt: skip
_DEGREE = re.compile(r"(?<![a-z])(dep|tep|etp|vpp|vp|tp|pp|cp|ep|dp)[ =:-]?(\d+)(?!\d)", re.IGNORECASE)
_TENSOR = re.compile(r"(?:ici_)?(?:tensor|tensor_parallelism)[ =:]+(\d+)", re.IGNORECASE)
_FSDP = re.compile(r"(?:ici_|dcn_)?fsdp[ =:]+(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degrees as stated; None where nothing is said.

    dep: attention data parallelism and expert parallelism of one size; tep: tensor and expert parallelism of one size.
    attention_dp: attention is data parallel, whatever its size. fsdp: weights are sharded over the data-parallel ranks.
    """

    tp: int | None = None
    pp: int | None = None
    vp: int | None = None
    cp: int | None = None
    ep: int | None = None
    etp: int | None = None
    dp: int | None = None
    dep: int | None = None
    tep: int | None = None
    attention_dp: bool = False
    fsdp: bool = False
    prefill_servers: int | None = None
    decode_servers: int | None = None

    @property
    def any_degree(self) -> bool:
        """Whether a degree of tensor, expert or data parallelism was said."""
        return any((self.tp, self.ep, self.dp, self.dep, self.tep))

    @property
    def stated(self) -> bool:
        """Whether anything was said."""
        return self != Degrees()


def degrees(text: str) -> Degrees:
    """Read the degrees that a text states; a degree named twice keeps its first value (``PP4 (8)`` is 4)."""
    found: dict[str, int] = {}
    for label, size in _DEGREE.findall(text):
        if int(size) > 0:
            found.setdefault(_LABEL[label.lower()], int(size))
    if match := _TENSOR.search(text):
        found.setdefault("tp", int(match[1]))
    if match := _FSDP.search(text):
        found.setdefault("dp", int(match[1]))
    lower = text.lower()
    attention_dp = bool(re.search(r"attention[- ]?dp|dp[- ]attention|data[- ]parallel attention", lower))
    pools = re.search(r"(\d+)\s*p\s*(\d+)\s*d\b", lower)
    prefill = re.search(r"(?<![a-z\d])(\d+)\s*prefill", lower)
    decode = re.search(r"(?<![a-z\d])(\d+)\s*(?:x\s*dep\d+\s*)?decode", lower)
    return Degrees(
        **found,
        attention_dp=attention_dp,
        fsdp="fsdp" in lower or "zero-3" in lower or "zero3" in lower,
        prefill_servers=int(pools[1]) if pools else int(prefill[1]) if prefill else None,
        decode_servers=int(pools[2]) if pools else int(decode[1]) if decode else None,
    )


def stages(layers: int, chunks: int) -> list[int]:
    """Layers of each pipeline chunk, as Megatron's layouts put them: embedding and loss count as a layer where that
    divides, else the last chunks have fewer. Raises NotStated where there are fewer layers than chunks."""
    if (layers + 2) % chunks == 0 and (layers + 2) // chunks > 1:
        each = (layers + 2) // chunks
        return [each - 1, *[each] * (chunks - 2), each - 1]
    each = -(-layers // chunks)
    found = [max(0, min(each, layers - each * chunk)) for chunk in range(chunks)]
    if 0 in found[:-1]:  # more than one empty chunk: spread evenly instead
        base, extra = divmod(layers, chunks)
        if base == 0:
            raise NotStated(f"{layers} layers are fewer than {chunks} pipeline chunks")
        return [base + (chunk < extra) for chunk in range(chunks)]
    return found
