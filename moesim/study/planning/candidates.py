"""The candidates of a plan: every legal way to serve the model that the search space names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from moesim.errors import InvalidInput
from moesim.model import shapes
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism, for_inference
from moesim.spec.step.scenario import Precision
from moesim.spec.studies.plan_file import Plan, SearchSpace


@dataclass(frozen=True, slots=True)
class Layout:
    """One server: what the memory of a device holds and what its kernels compute.

    space: index into the plan's search. precision: index into the space's. spare_slots: a rank.
    routed: the model has routed experts.
    """

    space: int
    hardware: str
    devices: int
    attention_dp: int
    tp: int
    ep: int
    expert_tp: int
    precision: int
    spare_slots: int
    routed: bool = True

    def label(self) -> str:
        """Short, in the field's words."""
        degrees = [f"DP{self.attention_dp}"] if self.attention_dp > 1 else []
        degrees += [f"TP{self.tp}"] if self.tp > 1 else []
        degrees += [f"EP{self.ep}"] if self.ep > 1 and self.routed else []
        degrees += [f"ETP{self.expert_tp}"] if self.expert_tp > 1 else []
        return f"{self.devices} × {self.hardware} {' '.join(degrees) or 'alone'}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Servers of one layout with one batch limit. prefill: layout of the prefill pool's servers, None without one."""

    layout: Layout
    max_sequences: int
    prefill: Layout | None = None

    def label(self) -> str:
        """Short, in the field's words."""
        apart = f" + prefill on {self.prefill.label()}" if self.prefill else ""
        return f"{self.layout.label()}{apart}, ≤ {self.max_sequences} sequences"


def layouts(plan: Plan, model: MoEModel) -> Iterator[Layout]:
    """All servers of the search space whose degrees divide the model."""
    for index, space in enumerate(plan.search):
        for devices in dict.fromkeys(space.devices):
            for degrees in _degrees(space, model, devices):
                choices = itertools.product(range(len(space.precision)), dict.fromkeys(space.spare_slots))
                for precision, spare in choices:
                    routed = bool(model.moe_layers)
                    yield Layout(index, space.hardware, devices, *degrees, precision, spare if routed else 0, routed)


def candidates(plan: Plan, by_space: dict[int, list[Layout]]) -> Iterator[Candidate]:
    """All candidates over layouts that are worth a look.

    A prefill pool takes the same product and precision; its servers are those of fewest devices.
    """
    for index, space in enumerate(plan.search):
        found = by_space.get(index, [])
        for layout, limit in itertools.product(found, dict.fromkeys(space.max_sequences)):
            for apart in dict.fromkeys(space.disaggregate):
                if not apart:
                    yield Candidate(layout, limit)
                    continue
                fewest_spare = min(space.spare_slots) if layout.routed else 0
                alike = [o for o in found if o.precision == layout.precision and o.spare_slots == fewest_spare]
                fewest = min((other.devices for other in alike), default=0)
                for other in alike:
                    if other.devices == fewest:
                        yield Candidate(layout, limit, other)


def precision_of(plan: Plan, layout: Layout) -> Precision:
    """The formats of a layout."""
    return plan.search[layout.space].precision[layout.precision]


def slots_per_rank(layout: Layout, model: MoEModel) -> int:
    """Expert slots of a rank: what the experts need, and the spare ones."""
    if not model.moe_layers:
        return 1
    routed = model.layers[model.moe_layers[0]].experts.routed
    return min(-(-routed // layout.ep) + layout.spare_slots, routed)


def _degrees(space: SearchSpace, model: MoEModel, devices: int) -> Iterator[tuple[int, int, int, int]]:
    """(attention_dp, tp, ep, expert_tp) on so many devices."""
    if space.parallelism:
        tried = ((p.attention_dp, p.tp, p.ep, p.expert_tp) for p in space.parallelism)
    else:
        tried = (
            (devices // tp, tp, ep, devices // ep)
            for tp in _divisors(devices)
            for ep in (_divisors(devices) if tp == devices else (devices,))
        )
    for degrees in tried:
        if _legal(model, devices, *degrees):
            yield degrees


def _legal(model: MoEModel, devices: int, attention_dp: int, tp: int, ep: int, expert_tp: int) -> bool:
    if not model.moe_layers and (ep, expert_tp) != (devices, 1):
        return False  # the degrees of experts mean nothing to a dense model: one of them is enough
    experts = model.layers[model.moe_layers[0]].experts if model.moe_layers else None
    if experts is not None and ep > experts.routed:
        return False
    try:
        for_inference(Parallelism(devices=devices, attention_dp=attention_dp, tp=tp, ep=ep, expert_tp=expert_tp))
        for layer in dict.fromkeys(model.layers):
            shapes.attention_projections(layer, model.hidden, tp)
            shapes.dense_ffn(layer, model.hidden, tp)
            shapes.routed_experts(layer, model.hidden, expert_tp)
    except (InvalidInput, ValueError):
        return False
    return True


def _divisors(number: int) -> tuple[int, ...]:
    return tuple(divisor for divisor in range(1, number + 1) if number % divisor == 0)
