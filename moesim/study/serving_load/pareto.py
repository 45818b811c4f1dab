"""Tokens/s/GPU against tokens/s/user: a serving scenario over many loads, beside measured runs and a dense twin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, Problem
from moesim.spec.model.file import TWIN
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.serving_load.serve import serve_scenario
from moesim.study.validation.serving.rows import REQUESTS_PER_SLOT, stack_of

# formats of experts -> what tables of runs call them
_PRECISIONS = {"nvfp4": "fp4", "mxfp4": "fp4", "fp8_block": "fp8", "mxfp8": "fp8"}


def pareto(
    name_or_path: str,
    concurrency: Sequence[int],
    changes: Iterable[str] = (),
    *,
    twin: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """One row a model and concurrency: closed loops of the scenario's lengths, ten requests for each in flight.

    twin: also the dense twin of equal active parameters, on the same devices. Columns: model, concurrency, ttft_s,
    tpot_s, output_tokens_per_s_per_device, tokens_per_s_per_user, efficient (no other row of the model is better in
    both). Raises InvalidInput as `serve_scenario` does.
    """
    if not concurrency or min(concurrency) < 1:
        raise InvalidInput(Problem("write numbers of requests from 1 on, e.g. 1,2,4,8", "concurrency"))
    changes = list(changes)
    model = str(read_scenario(name_or_path, changes).data.get("model"))
    models = [model, model + TWIN] if twin else [model]
    rows = []
    for number, (each, in_flight) in enumerate((m, c) for m in models for c in concurrency):
        if progress is not None:
            progress(number, len(models) * len(concurrency))
        load = [
            f"load.arrivals={{kind: closed_loop, in_flight: {in_flight}}}",
            f"load.requests={max(REQUESTS_PER_SLOT * in_flight, 20)}",
            "load.warmup=0",
        ]
        chosen = [*changes, f"model={each}", *load]
        metrics = serve_scenario(name_or_path, chosen).metrics
        rows.append(
            {
                "model": each,
                "concurrency": in_flight,
                "ttft_s": metrics["ttft_s"].get("mean"),
                "tpot_s": metrics["tpot_s"].get("mean"),
                "output_tokens_per_s_per_device": metrics["output_tokens_per_s_per_device"],
                "tokens_per_s_per_user": metrics["tokens_per_s_per_user"],
            }
        )
    if progress is not None:
        progress(len(rows), len(rows))
    table = pd.DataFrame(rows)
    table["efficient"] = np.concatenate([efficient(part) for _, part in table.groupby("model", sort=False)])
    return table


def efficient(table: pd.DataFrame) -> np.ndarray:
    """[rows] whether no other row gives a user and a device both more (or one more and the other as much)."""
    points = table[["tokens_per_s_per_user", "output_tokens_per_s_per_device"]].to_numpy(float)
    better = (points[None] >= points[:, None]).all(axis=2) & (points[None] > points[:, None]).any(axis=2)
    return ~better.any(axis=1)


def crossover(table: pd.DataFrame) -> float | None:
    """Concurrency above which the first model of the table gives more tokens/s/device than the second, interpolated on
    logarithms; None where one is better throughout."""
    models = list(dict.fromkeys(table["model"]))
    if len(models) != 2:
        return None
    rate = table.pivot(index="concurrency", columns="model", values="output_tokens_per_s_per_device")[models].dropna()
    ahead = np.log(rate[models[0]] / rate[models[1]]).to_numpy()
    load = np.log(rate.index.to_numpy(float))
    change = np.flatnonzero(np.diff(np.sign(ahead)))
    if not change.size:
        return None
    i = int(change[0])
    return float(np.exp(load[i] - ahead[i] * (load[i + 1] - load[i]) / (ahead[i + 1] - ahead[i])))


def measured_points(table: pd.DataFrame, name_or_path: str, changes: Iterable[str] = ()) -> pd.DataFrame:
    """Rows of a serving table that ran the scenario's model in its precision on its hardware, stack and devices, with
    nominal lengths within 15 % of its own: concurrency, tokens/s/device and tokens/s/user."""
    from moesim.spec.serving.assembly import assemble_serving

    assembly = assemble_serving(name_or_path, changes)
    scenario, requests = assembly.scenario, assembly.requests
    alike = (
        (table["model"] == scenario.model)
        & (table["hardware"] == scenario.cluster.hardware)
        & (table["software"].map(stack_of) == scenario.server.preset)
        & (table["gpus"] == scenario.cluster.devices)
        & (table["precision"] == _PRECISIONS.get(scenario.precision.experts, scenario.precision.experts))
    )
    for column, lengths in (("input_len", requests.input_len), ("output_len", requests.output_len)):
        alike &= (table[column] / lengths.max() - 1).abs() < 0.15
    part = table[alike]
    seconds = part["ttft_s"] + (part["output_len"] - 1) * part["tpot_s"]
    return pd.DataFrame(
        {
            "concurrency": part["concurrency"],
            "precision": part["precision"],
            "output_tokens_per_s_per_device": part["concurrency"] * part["output_len"] / seconds / part["gpus"],
            "tokens_per_s_per_user": 1 / part["tpot_s"],
        }
    ).sort_values("concurrency", ignore_index=True)
