"""Decode steps with drafted tokens: what a step takes, and what it is worth."""

from __future__ import annotations

from moesim import units
from moesim.engine.timeline import Timeline
from moesim.workload.inference import Step
from moesim.workload.speculative import Draft


def speculative_metrics(
    metrics: dict[str, object], draft: Draft, step: Step, timeline: Timeline, drafting: int
) -> dict:
    """Metrics of a step with drafts: tokens are those that are kept, TPOT is the time between them.

    metrics: of the step as one of k + 1 tokens a sequence. drafting: operations of the drafts.
    """
    tokens = draft.tokens + 1
    kept = draft.accepted / tokens
    draft_s = float(units.seconds(timeline.tracks[0].end[:drafting].max())) if drafting else 0.0
    touched = [int((layer.tokens > 0).sum()) for part in step.traffic for layer in part]
    return metrics | {
        "tpot_s": metrics["step_time_s"] / draft.accepted,
        "tokens_per_s": metrics["tokens_per_s"] * kept,
        "tokens_per_s_per_device": metrics["tokens_per_s_per_device"] * kept,
        "speculative": {
            "draft_tokens": draft.tokens,
            "acceptance": draft.acceptance,
            "accepted_tokens": draft.accepted,
            "draft_s": draft_s,
            "check_s": metrics["step_time_s"] - draft_s,
            "experts_touched_per_layer": sum(touched) / len(touched) if touched else None,
        },
    }
