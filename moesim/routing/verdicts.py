"""What the health of a trace means, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moesim.routing.health import Health
from moesim.routing.load import max_over_mean

# Where words change. Random-weight routers show 0.09 at every lag and a hit of 0.06 over popularity; trained ones
# 0.06-0.18 at lag 1, fading, and a lift of 0.2-0.4 (DeepSeek-V2-Lite, OLMoE, and miniatures of ours).
PERSISTENT = 0.03
FLAT = 0.7
FORETOLD = 0.1
STEADY = 0.8
SAME_WORKLOAD = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement. level: ``good``, ``notice`` or ``bad``."""

    topic: str
    level: str
    text: str


def verdicts(health: Health) -> tuple[Verdict, ...]:
    """Every judgement that the figures allow, in the order of a report."""
    judges = (_origin, _collapse, _balance, _ranks, _capacity, _persistence, _layers, _training, _drift, _confidence)
    return tuple(verdict for judge in judges for verdict in judge(health))


def collapsed_layers(health: Health) -> list[int]:
    """Layers where one expert has over half of the tokens, or under half of the experts are active."""
    return np.flatnonzero(_overrun(health) | (health.active < 0.5)).tolist()


def _overrun(health: Health) -> np.ndarray:
    """[layer] whether one expert has over half of the tokens, where even loads would not."""
    return (health.top_share > 0.5) & (health.top_k / health.experts < 0.5)


def _origin(health: Health) -> Iterator[Verdict]:
    if health.synthetic:
        yield Verdict("origin", "notice", "synthetic: its ids did not come out of a forward pass")


def _collapse(health: Health) -> Iterator[Verdict]:
    overrun, idle = _overrun(health), health.active < 0.5
    if overrun.any():
        text = (
            f"one expert has over half of the tokens at layer {_listed(overrun)} ({health.top_share.max():.0%} at most)"
        )
        yield Verdict("collapse", "bad", text)
    if idle.any():
        text = f"under half of the experts are active at layer {_listed(idle)} ({health.active.min():.0%} at least)"
        yield Verdict("collapse", "bad", text)
    if not (overrun | idle).any():
        yield Verdict("collapse", "good", f"no collapse: {health.moments.active:.1%} of the experts are active")


def _listed(layers: np.ndarray) -> str:
    """Some layers of a mask, as text."""
    numbers = np.flatnonzero(layers).tolist()
    return ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")


def _balance(health: Health) -> Iterator[Verdict]:
    ratio = health.moments.max_over_mean
    level = "good" if ratio < 1.5 else "notice" if ratio < 10 else "bad"
    yield Verdict(
        "balance",
        level,
        f"the hottest expert gets {ratio:.2f}x the mean (Gini {health.moments.gini:.2f}): if all wait for it, experts "
        f"work {health.moments.utilisation:.0%} of the time",
    )


def _ranks(health: Health) -> Iterator[Verdict]:
    told = {ranks: ratio for ranks, ratio in health.moments.hottest_rank.items() if ranks >= min(8, health.experts)}
    words = ", ".join(f"{ratio:.2f}x on {ranks}" for ranks, ratio in told.items())
    level = "good" if max(told.values()) < 1.5 else "notice"
    yield Verdict("ranks", level, f"with contiguous experts the hottest rank gets {words} ranks, against the mean")


def _capacity(health: Health) -> Iterator[Verdict]:
    words = ", ".join(f"{share:.1%} at {factor:g}" for factor, share in health.drops.items())
    level = "good" if health.drops[1.25] < 0.01 else "notice"
    yield Verdict("capacity", level, f"choices beyond capacity, by capacity factor: {words}")


def _persistence(health: Health) -> Iterator[Verdict]:
    lags = health.moments.autocorrelation
    if not lags:
        return
    words = ", ".join(f"{value:.3f} at {lag}" for lag, value in lags.items())
    first, last = next(iter(lags.values())), list(lags.values())[-1]
    if first < PERSISTENT:
        yield Verdict("persistence", "notice", f"tokens choose almost independently of those before (lags: {words})")
    elif len(lags) > 1 and last > FLAT * first:
        text = f"choices are as alike far apart as near (lags: {words}): sequences differ, but nothing is local in time"
        yield Verdict("persistence", "notice", text)
    else:
        yield Verdict("persistence", "good", f"choices persist from token to token and fade (lags: {words})")


def _layers(health: Health) -> Iterator[Verdict]:
    hit, popular = health.moments.next_layer_hit, health.moments.next_layer_popularity
    if hit is None:
        return
    words = f"a layer foretells {hit:.0%} of the next layer's choices, popularity alone {popular:.0%}"
    if hit - popular > FORETOLD:
        yield Verdict("layers", "good", f"{words}: experts can be fetched ahead")
    else:
        yield Verdict("layers", "notice", f"{words}: layers choose almost independently")


def _training(health: Health) -> Iterator[Verdict]:
    lags, hit = health.moments.autocorrelation, health.moments.next_layer_hit
    if health.synthetic or not lags or len(lags) < 2 or hit is None:
        return
    first, last = next(iter(lags.values())), list(lags.values())[-1]
    if (first < PERSISTENT or last > FLAT * first) and hit - health.moments.next_layer_popularity < FORETOLD:
        text = "skewed, but neither local in time nor across layers, like routers with random weights: not realistic"
        yield Verdict("training", "bad", text)


def _drift(health: Health) -> Iterator[Verdict]:
    if health.drift is not None:
        level = "good" if health.drift > STEADY else "notice"
        text = f"loads of the first and the last quarter correlate {health.drift:.2f}"
        yield Verdict("drift", level, text + ("" if level == "good" else ": a placement must follow"))
    if health.label_correlation is not None:
        level = "good" if health.label_correlation > SAME_WORKLOAD else "notice"
        inside = np.mean([max_over_mean(load).mean() for load in health.label_load.values()])
        text = (
            f"loads of the {len(health.label_load)} labels correlate {health.label_correlation:.2f}; inside a label "
            f"the hottest expert gets {inside:.2f}x the mean"
        )
        yield Verdict("labels", level, text + ("" if level == "good" else ": a placement for one is wrong for another"))


def _confidence(health: Health) -> Iterator[Verdict]:
    if health.confidence is not None:
        even = 1 / health.top_k
        yield Verdict(
            "confidence",
            "good",
            f"the first choice carries {health.confidence:.0%} of a token's gate weight (even gates: {even:.0%})",
        )
