"""What each router costs: the same model with each router's own routing, on several clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from moesim.model.architecture import Layer, MoEModel
from moesim.spec.assembly.step import assemble
from moesim.spec.model.file import load_model
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.step.run import run_assembly

if TYPE_CHECKING:
    from moesim.lab.compare import RouterRun

SCENARIOS = ("routers-h100", "routers-gb200", "routers-tpu-v5p")


def compare_routers(
    runs: Sequence[RouterRun],
    scenarios: Sequence[str] = SCENARIOS,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> pd.DataFrame:
    """One row a router, in the order of runs.

    Columns: router, held_out_loss (nats a token), max_over_mean and gini (of expert loads, mean over layers), dropped
    (share of choices), choices (mean number of experts that a token really reaches), and for each scenario
    ``SCENARIO_step_s`` and ``SCENARIO_hottest_rank`` (over the mean, mean over layers).
    """
    rows = []
    for run in runs:
        row = {
            "router": run.router,
            "held_out_loss": run.held_out_loss,
            "max_over_mean": run.moments.max_over_mean,
            "gini": run.moments.gini,
            "dropped": run.dropped,
            "choices": run.passes * (run.top_k if run.trace.count is None else float(run.trace.count.mean())),
        }
        for name in scenarios:
            progress(f"{run.router} on {name}", len(rows), len(runs))
            document = read_scenario(name)
            # Fewer, wider experts need fewer slots; spare ones would hold copies, whose weights are read in vain.
            slots = -(-run.experts // document.data["parallelism"]["ep"])
            document = document.with_value("placement.slots_per_rank", slots)
            model = with_router(load_model(document.data["model"]), run)
            metrics = run_assembly(document, assemble(document, model=model, trace=run.trace)).metrics
            row[f"{name}_step_s"] = metrics["step_time_s"]
            row[f"{name}_hottest_rank"] = metrics["hottest_rank"]["per_layer_over_mean"]
        rows.append(row)
    progress("routers", len(runs), len(runs))
    return pd.DataFrame(rows)


def with_router(model: MoEModel, run: RouterRun) -> MoEModel:
    """The model with the expert geometry of a router's run, at equal expert parameters and equal active ones.

    A router that takes fewer experts gets fewer and wider ones. Each further pass of a chain of experts is a block
    without attention: it routes, dispatches, computes and combines again.
    """
    layers: list[Layer] = []
    for layer in model.layers:
        if layer.experts is None:
            layers.append(layer)
            continue
        experts = replace(
            layer.experts,
            routed=run.experts,
            top_k=run.top_k,
            ffn=layer.experts.ffn * run.width,
            groups=1,
            kept_groups=1,
        )
        layers.append(replace(layer, experts=experts))
        layers += [Layer(attention=None, experts=experts)] * (run.passes - 1)
    return replace(model, name=f"{model.name} with {run.router}", layers=tuple(layers))
