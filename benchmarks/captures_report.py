"""Skew, locality and layer dependence of the shipped captures beside those of real models, as Markdown.

    python benchmarks/captures_report.py [--reference DIR] > reports/captures.md

DIR holds public records of real routing, from which the reference columns are recomputed by the same code:
``esft_dsv2lite_*.npz`` (per-token choices of DeepSeek-V2-Lite, from deepseek-ai/ESFT), ``sglang_dsr1_*.npz`` (expert
counts of DeepSeek-R1, published by SGLang) and ``olmoe_mixtral_counts.npz`` (allenai/OLMoE). They are not part of
moesim; without them those columns are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import moesim.routing
from moesim.routing.health import Moments, load_moments, moments
from moesim.routing.load import expert_load, load_correlation
from moesim.routing.replay import select_sequences
from moesim.routing.trace import RouterTrace, open_trace

CAPTURES = Path(moesim.routing.__file__).parent / "captures"
ROWS = {
    "max/mean per expert": lambda m: m.max_over_mean,
    "Gini": lambda m: m.gini,
    "hottest rank, EP8": lambda m: m.hottest_rank.get(8),
    "hottest rank, EP32": lambda m: m.hottest_rank.get(32),
    "correlation inside groups": lambda m: m.group_correlation,
    "never chosen": lambda m: 1 - m.active,
    **{f"autocorrelation, lag {lag}": lambda m, lag=lag: (m.autocorrelation or {}).get(lag) for lag in (1, 4, 16, 64)},
    "next-layer hit": lambda m: m.next_layer_hit,
    "popularity alone": lambda m: m.next_layer_popularity,
}

MIXTURES = {
    "English": ("docstrings", "licences", "prose"),
    "legal and narrative": ("licences", "prose"),
    "code": ("cpp", "javascript", "python"),
    "all": (),
}
READING = """\
* **What is served decides the skew.** Balancing evens the load over the training mixture, which for the 256- and
  128-expert miniatures is half C++ and Python with 3 % prose and 3 % licences; every other mixture loads the experts
  unevenly, as R1's published workloads do. Pick one with `labels:` in a scenario. For the 256-expert miniature
  `[docstrings, licences, prose]` (English) is nearest to R1: Gini and EP32 in its range, EP8 a little above, max/mean
  below; rarer text is hotter, and code is what the miniature was balanced for.
* `deepseek-v3-miniature` against DeepSeek-R1, one domain at a time: max/mean, Gini, the hottest rank at EP8 and EP32
  and the correlation inside groups, as means over domains, lie in R1's range; single domains lie on both sides of it.
  {v3_dead:.1%} of the experts are never chosen in a domain, none of R1's: the cold tail is too cold. The shares of the
  training text were chosen so that skew comes out like this.
* `qwen3-miniature` has no reference of its own (no public record of Qwen3's routing was at hand). DeepSeek-V2-Lite is
  the nearest with per-token records: max/mean, Gini and autocorrelation lie in its range, next-layer hit just below;
  the hottest rank at EP8 is cooler, for experts without groups do not cluster on ranks here.
* `mixtral-miniature` against Mixtral: max/mean and Gini lie in range.
* Locality: lag-1 autocorrelation of the 256-expert miniature is below DeepSeek-V2-Lite's range, at longer lags within
  it. V2-Lite is a 64/6 model; no per-token record of a 256-expert model is public.
* Layer dependence: the 256-expert miniature's next-layer hit falls short of V2-Lite's .52 to .62, and popularity alone
  foretells about half as much as there. Its gain over popularity is about V2-Lite's.
* Not reproduced: load correlation between workloads. Text domains here are further apart than R1's request patterns,
  and share fewer experts than Mixtral's. A placement tuned on one domain is worth less here than in reality.
* Chosen, not learned: the correlation of router rows inside groups and between layers at the start, and the
  convolution that mixes neighbouring tokens. A trial with weaker rows (scale .06, groups .7, layers 0), no convolution
  and 220 steps gave lag-1 autocorrelation .03, next-layer hit .50 and correlation inside groups .09.
* Three or four layers stand for up to 61: deeper models replay blocks of this depth, with other tokens in each block.
* One seed each. In trials with other text, another seed moved max/mean and EP32 by 10 %, the correlation inside groups
  by 40 % and the rest by 2 %. Retraining on another processor or torch version gives other weights and other ids.
"""


def by_domain(trace: RouterTrace) -> dict[str, RouterTrace]:
    """The trace of each label alone."""
    labels = np.array(trace.labels)
    return {name: select_sequences(trace, np.flatnonzero(labels == name)) for name in dict.fromkeys(trace.labels)}


def mixture(trace: RouterTrace, labels: Sequence[str]) -> RouterTrace:
    """The sequences of these labels, or all."""
    return select_sequences(trace, np.flatnonzero(np.isin(trace.labels, labels))) if labels else trace


def column(parts: Sequence[Moments], row: str) -> str:
    """Mean and range of a moment over workloads."""
    values = [value for part in parts if (value := ROWS[row](part)) is not None]
    if not values:
        return "–"
    digits = 2 if max(map(abs, values)) >= 0.3 else 3
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(columns: dict[str, Sequence[Moments]]) -> str:
    """Markdown: a row a moment, a column a source."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in ROWS:
        cells = [column(parts, row) for parts in columns.values()]
        if set(cells) != {"–"}:
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def domain_correlation(loads: Sequence[np.ndarray]) -> str:
    """Load correlation between workloads: mean and range over pairs."""
    first, second = np.triu_indices(len(loads), 1)
    stack = np.stack(loads).astype(float)
    pairs = load_correlation(stack[first], stack[second]).mean(axis=-1)
    return f"{pairs.mean():.2f} [{pairs.min():.2f}, {pairs.max():.2f}]"


def read_reference(folder: Path) -> tuple[dict[str, list[Moments]], dict[str, str]]:
    """Moments of the real models by column name, and the load correlation between their workloads."""
    lite = []
    for path in sorted(folder.glob("esft_dsv2lite_*.npz")):
        with np.load(path) as data:
            ids, lengths = data["ids"].transpose(1, 0, 2), data["seq_len"]
        lite.append(RouterTrace(path.stem, np.ascontiguousarray(ids), np.concatenate(([0], np.cumsum(lengths))), 64))
    r1 = [np.load(path)["logical_count"] for path in sorted(folder.glob("sglang_dsr1_*.npz"))]
    r1 = [counts[counts.sum(1) > 0] for counts in r1]
    with np.load(folder / "olmoe_mixtral_counts.npz") as data:
        mixtral = [data[name] for name in data.files if name.startswith("mistral|expert_counts|")]
        olmoe = [data[name] for name in data.files if name.startswith("olmoe|expert_counts|")]
    columns = {
        "DeepSeek-R1 (256/8)": [load_moments(counts, groups=8) for counts in r1],
        "DeepSeek-V2-Lite (64/6)": [moments(trace) for trace in lite],
        "OLMoE (64/8)": [load_moments(counts) for counts in olmoe],
        "Mixtral (8/2)": [load_moments(counts) for counts in mixtral],
    }
    correlations = {
        "DeepSeek-R1": domain_correlation(r1),
        "DeepSeek-V2-Lite": domain_correlation([expert_load(trace) for trace in lite]),
        "OLMoE": domain_correlation(olmoe),
        "Mixtral": domain_correlation(mixtral),
    }
    return columns, correlations


def story(trace: RouterTrace) -> str:
    """One line on how a capture was made."""
    about = trace.metadata
    schedule = about["schedule"]
    tokens = schedule["steps"] * schedule["sequences"] * schedule["length"]
    return (
        f"* `{trace.name}`: {trace.source.split('of ', 1)[1]}. {trace.tokens:,} held-out tokens, "
        f"{trace.layers} MoE layers; "
        f"{schedule['steps']} steps ({tokens / 1e6:.2f} M tokens), seed {about['seed']}, {about['setting']}, held-out "
        f"cross-entropy {about['held_out_cross_entropy_nats']:.2f} nats, torch {about['torch']}"
        + (f"; training text: {shares_of(about)}" if about.get("shares") else "")
        + (f"; prior: {about['note']}" if about["note"] else "")
        + "."
    )


def shares_of(about: Mapping[str, object]) -> str:
    """The shares of the domains in the training text, largest first."""
    ordered = sorted(about["shares"].items(), key=lambda item: -item[1])
    return ", ".join(f"{share:.0%} {name}" for name, share in ordered)


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reference", type=Path, help="folder of public records of real routing")
    reference = parser.parse_args().reference
    traces = [open_trace(path) for path in sorted(CAPTURES.glob("*-miniature.safetensors"))]
    columns, correlations = {}, {}
    for trace in traces:
        parts = by_domain(trace)
        columns[trace.name] = [moments(part) for part in parts.values()]
        correlations[trace.name] = domain_correlation([expert_load(part) for part in parts.values()])
    print("# The shipped captures against real routing\n")
    print(
        "Made by `python benchmarks/captures_report.py --reference DIR` (DIR: public records of real routing, see its "
        "head). Cells are the mean over workloads [smallest, largest]; a workload is one domain of a capture, one task "
        "or one traffic pattern of a real model. Moments are taken per layer, then averaged; ranks hold contiguous "
        "experts.\n"
    )
    print("\n".join(story(trace) for trace in traces), end="\n\n")
    print("## Captures, one domain at a time\n")
    print(table(columns), end="\n\n")
    print("## Mixtures\n")
    mixed = {
        f"{trace.name.split('-')[0]}, {name}": [moments(mixture(trace, labels))]
        for trace in traces
        for name, labels in MIXTURES.items()
    }
    print(table(mixed), end="\n\n")
    if reference:
        real, real_correlations = read_reference(reference)
        correlations |= real_correlations
        print("## Real models, one workload at a time\n")
        print(table(real), end="\n\n")
    print("## Load correlation between workloads\n")
    print("\n".join(f"* {name}: {value}" for name, value in correlations.items()))
    domains = columns["deepseek-v3-miniature"]
    print("\n## Reading\n")
    print(
        READING.format(
            v3_dead=1 - np.mean([part.active for part in domains]),
        )
    )


if __name__ == "__main__":
    main()
