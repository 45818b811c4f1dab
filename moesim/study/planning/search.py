"""The search of a plan: drop by bounds, serve the rest from the cheapest bound up, stop when nothing can be cheaper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.model.architecture import MoEModel
from moesim.serving.lengths import LENGTHS
from moesim.spec.serving.constants import load_fitted
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.bounds import Floor, Lengths, floor_of, least_servers, touched_experts
from moesim.study.planning.candidates import Candidate, Layout, candidates, layouts
from moesim.study.planning.economics import device_usd_per_hour
from moesim.study.planning.serve_candidate import Evaluation, Group, look_at

_WAVE = 12  # layouts that are served before the best cost so far is looked at; one number, whatever the processes
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found. evaluations: of what was served, cheapest first, those that miss last. dropped: why others
    were not served, and how many. considered: all candidates."""

    evaluations: tuple[Evaluation, ...]
    dropped: dict[str, int]
    considered: int

    def meeting(self) -> list[Evaluation]:
        """Those that meet the objectives, cheapest first, one a layout: its largest batch limit of equal cost."""
        best: dict[tuple, Evaluation] = {}
        for evaluation in self.evaluations:
            if evaluation.servers:
                best.setdefault((evaluation.candidate.layout, evaluation.candidate.prefill), evaluation)
        return list(best.values())

    def closest(self) -> Evaluation | None:
        """The one that misses the objectives by least, where none meets them."""
        looked = [each for each in self.evaluations if each.look is not None and each.miss < math.inf]
        return min(looked, key=lambda each: each.miss, default=None)


@dataclass(frozen=True, slots=True, eq=False)
class _Bounded:
    """A candidate and what it costs at least."""

    candidate: Candidate
    least: tuple[int, int]
    server_usd_per_hour: float
    usd_per_hour: float


def mean_lengths(plan: Plan) -> Lengths:
    """Mean tokens of the plan's requests."""
    rng = np.random.default_rng((plan.seed, 6))
    means = []
    for name in ("input", "output"):
        chosen = getattr(plan.load, name)
        means.append(float(np.mean(LENGTHS[chosen.kind](10_000, rng, **chosen.options()))))
    return Lengths(*means)


def search(
    plan: Plan,
    model: MoEModel,
    products: dict[str, Hardware],
    file: str,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Found:
    """Find the cheapest candidates that meet the plan's objectives: at least `runners_up` + 1 of them, if there are.

    The result does not depend on `jobs`: candidates are served in waves of a fixed size, by rising bound of their cost,
    and a wave drops those whose bound is above the cost of the last wanted one.
    """
    dropped: Counter[str] = Counter()
    bounded, considered = _bounded(plan, model, products, dropped)
    groups = _groups(bounded)
    evaluations: list[Evaluation] = []
    costs: list[float] = []
    done = 0
    from joblib import Parallel, delayed

    with Parallel(n_jobs=jobs) as parallel:
        while done < len(groups):
            ceiling = sorted(costs)[plan.runners_up] if len(costs) > plan.runners_up else math.inf
            wave: list[Group] = []
            while done < len(groups) and len(wave) < _WAVE:
                worth = [one for one in groups[done] if one.usd_per_hour <= ceiling]
                dropped["cost more than the best even at their bounds"] += len(groups[done]) - len(worth)
                if worth:
                    wave.append([(one.candidate, one.least, _affordable(one, ceiling)) for one in worth])
                done += 1
            found = parallel(delayed(look_at)(plan, model, group, file) for group in wave)
            for evaluation in (each for group in found for each in group):
                evaluations.append(evaluation)
                if evaluation.servers:
                    costs.append(usd_per_hour(plan, products, evaluation))
            if progress is not None:
                progress(done, len(groups))
    refused = [each for each in evaluations if each.note]
    for each in refused:
        dropped[_short(each.note)] += 1
    kept = [each for each in evaluations if not each.note]

    def rank(each: Evaluation) -> tuple:
        return (
            not each.servers,
            usd_per_hour(plan, products, each),
            -each.candidate.max_sequences,
            each.candidate.label(),
        )

    order = sorted(kept, key=rank)
    return Found(tuple(order), {reason: count for reason, count in dropped.most_common() if count}, considered)


def usd_per_hour(plan: Plan, products: dict[str, Hardware], evaluation: Evaluation) -> float:
    """Dollars an hour of all devices of an evaluation."""
    return evaluation.devices * device_usd_per_hour(products[evaluation.candidate.layout.hardware], plan.economics)


def _bounded(
    plan: Plan, model: MoEModel, products: dict[str, Hardware], dropped: Counter[str]
) -> tuple[list[_Bounded], int]:
    lengths, stacks, touched = mean_lengths(plan), load_fitted().stacks, touched_experts(model)
    floors: dict[Layout, Floor] = {}
    by_space: dict[int, list[Layout]] = {}
    refused: dict[Layout, str] = {}
    every: dict[int, list[Layout]] = {}
    for layout in layouts(plan, model):
        every.setdefault(layout.space, []).append(layout)
        constants = stacks[plan.search[layout.space].software]
        found = floor_of(plan, model, products[layout.hardware], layout, lengths, constants, touched)
        if isinstance(found, str):
            refused[layout] = found
        elif found.step_s[0] > plan.slo.tpot:
            refused[layout] = "a decode step takes longer than the TPOT allowed, by bytes and FLOPs"
        elif found.prompt_s > plan.slo.ttft:
            refused[layout] = "a prompt takes longer than the TTFT allowed, by FLOPs"
        else:
            floors[layout] = found
            by_space.setdefault(layout.space, []).append(layout)
    bounded, considered = [], 0
    for candidate in candidates(plan, every):
        considered += 1
        fewest = min(plan.search[candidate.layout.space].spare_slots)
        if candidate.layout.routed and candidate.layout.spare_slots != fewest:
            dropped["more spare slots, which the finalists try"] += 1
            continue
        parts = [part for part in (candidate.layout, candidate.prefill) if part is not None]
        if reasons := [refused[part] for part in parts if part in refused]:
            dropped[reasons[0]] += 1
            continue
        least = least_servers(plan, candidate, floors, lengths)
        price = device_usd_per_hour(products[candidate.layout.hardware], plan.economics)
        apart = candidate.prefill.devices if candidate.prefill else 0
        cost = price * (least[0] * candidate.layout.devices + least[1] * apart)
        bounded.append(_Bounded(candidate, least, price * candidate.layout.devices, cost))
    if not considered:
        told = "no degree divides the model on so many devices; write other devices or parallelism"
        raise InvalidInput(Problem(told, "search"))
    return bounded, considered


def _groups(bounded: Sequence[_Bounded]) -> list[list[_Bounded]]:
    """Candidates that differ in batch limits alone together, cheapest bounds first."""
    by_layout: dict[tuple, list[_Bounded]] = {}
    for one in bounded:
        by_layout.setdefault((one.candidate.layout, one.candidate.prefill), []).append(one)
    return sorted(
        by_layout.values(), key=lambda group: (min(one.usd_per_hour for one in group), group[0].candidate.label())
    )


def _affordable(one: _Bounded, ceiling: float) -> int:
    """Most servers worth a look: beyond, the candidate costs more than the last one wanted."""
    return 10**6 if math.isinf(ceiling) else max(one.least[0] + one.least[1], int(ceiling / one.server_usd_per_hour))


def _short(note: str) -> str:
    """The first line of an error, without what differs from candidate to candidate."""
    first = note.splitlines()[0]
    return first.split(": ", 2)[-1].split(",")[0] if ": " in first else first
