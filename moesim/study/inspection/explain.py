"""How a job's ranks lie on the topology: groups of each degree, what they span, and what their collectives carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from moesim.errors import InvalidInput
from moesim.routing.replay import Routes
from moesim.spec.assembly.parts import overlap_of
from moesim.spec.assembly.step import Assembly, assemble
from moesim.spec.reading.loading import Document
from moesim.spec.serving.assembly import serving_assembly
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.training.assembly import assemble_training, is_training
from moesim.study.inspection.group_traffic import collectives
from moesim.study.inspection.layout import NAMES, Layout
from moesim.study.inspection.span import span
from moesim.study.results.record import SCHEMA_VERSION, rounded
from moesim.workload.deployment import Batch
from moesim.workload.inference import inference_step


def explain(name_or_path: str, changes: Iterable[str] = (), pool: str = "decode") -> tuple[Layout, dict[str, object]]:
    """The layout of a scenario of any kind that runs on ranks, and the same as plain data.

    pool: of a serving scenario, the servers that decode (and prefill, where they do both) or those of ``prefill``.
    Raises InvalidInput as the scenario does.
    """
    document = read_scenario(name_or_path, changes)
    if is_training(document):
        layout = _of_training(document)
    elif _kind(document) == "load":
        layout = _of_serving(document, pool)
    else:
        layout = _of_step(document)
    return layout, rounded(_data(layout))


def _kind(document: Document) -> str:
    """The key that says what kind of scenario a file is; InvalidInput for those without ranks of their own."""
    kind = next((key for key in ("load", "workload") if key in document.data), None)
    if kind is None:
        raise InvalidInput(f"{document.file} is no scenario of a step, of serving or of training, which have ranks")
    return kind


def _of_training(document: Document) -> Layout:
    """One training step."""
    from moesim.workload.training.step import training_step

    assembly = assemble_training(document)
    job = assembly.job
    step = training_step(job, assembly.line())
    return Layout(assembly.title, "one training step", job.cluster, job.parallelism, 1, step.programs)


def _of_step(document: Document) -> Layout:
    """One step of inference, as `moesim run` simulates it."""
    assembly = assemble(document)
    return _inference(assembly, assembly.routes, "one step")


def _of_serving(document: Document, pool: str = "decode") -> Layout:
    """A step of a serving scenario's servers: decode with as many sequences a rank as they run at once, or of the pool
    that only computes prompts one prompt a rank as long as its token budget."""
    serving = serving_assembly(document)
    if pool == "decode":
        assembly, policy = serving.decode, serving.scenario.server.policy()
        tokens = min(policy.max_sequences, int(assembly.batch.sequences[0]))
        batch = replace(assembly.batch, sequences=np.full_like(assembly.batch.sequences, tokens))
        what = f"a decode step of {tokens} sequences a rank"
    elif serving.prefill is None:
        raise InvalidInput(f"{document.file} has no pool of servers for prefill; leave --pool out")
    else:
        assembly, policy = serving.prefill, serving.scenario.prefill.server.policy()
        tokens = min(policy.token_budget, int(assembly.batch.sequences[0]))
        batch = Batch("prefill", np.ones_like(assembly.batch.sequences), tokens, 0)
        what = f"a prefill step of {tokens} tokens a rank"
    return _inference(replace(assembly, batch=batch), _first(assembly.routes, tokens), what)


def _first(routes: Routes | None, tokens: int) -> Routes | None:
    """The first tokens of each rank of a pool."""
    if routes is None:
        return None
    chosen = (routes.offsets[:-1, None] + np.arange(tokens)).ravel()
    count = None if routes.count is None else routes.count[:, chosen]
    return replace(routes, ids=routes.ids[:, chosen], count=count)


def _inference(assembly: Assembly, routes: Routes | None, what: str) -> Layout:
    deployment = assembly.deployment
    step = inference_step(deployment, assembly.batch, routes, overlap_of(assembly.scenario))
    return Layout(
        assembly.title,
        what,
        deployment.cluster,
        deployment.parallelism,
        deployment.instances,
        step.programs,
        step.rounds,
    )


def _data(layout: Layout) -> dict[str, object]:
    axes, p = layout.axes(), layout.parallelism
    sizes = {"tp": p.tp, "cp": p.cp, "dp": p.attention_dp, "pp": p.pp}
    return {
        "schema_version": SCHEMA_VERSION,
        "title": layout.title,
        "what": layout.what,
        "devices": layout.cluster.ranks,
        "instances": layout.instances,
        "order": [NAMES.get(axis, axis) for axis in p.order if sizes[axis] > 1],
        "groups": [
            {
                "axis": NAMES.get(axis, axis),
                "degree": groups.shape[1],
                "groups": groups.shape[0],
                "span": span(layout.cluster, groups),
                "first": groups[0].tolist(),
            }
            for axis, groups in axes.items()
        ],
        "collectives": collectives(layout, axes),
    }
