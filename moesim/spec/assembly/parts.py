"""The parts of a deployment that a scenario states directly, each checked by itself.

Problems name their field; `moesim.spec.assembly.step` places them in the file and tells those of all parts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from moesim.cost.calibration import machine_for
from moesim.cost.machine import Machine
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics.build import build_cluster
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.hardware.topology import Cluster
from moesim.model import shapes
from moesim.model.architecture import MoEModel, require_shapes
from moesim.model.parallelism import Parallelism, for_inference
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading.complaints import did_you_mean, one_of
from moesim.spec.step.scenario import Scenario
from moesim.spec.step.workload import encoded_tokens
from moesim.workload.deployment import DENSE_KINDS, Batch, PrecisionPolicy
from moesim.workload.overlap import OVERLAPS
from moesim.workload.stage import divide_layers

# Serving stacks that shipped profiles have measured.
STACKS = ("sglang", "trtllm", "vllm")

# Weight formats whose products run on BF16 activations unless the scenario says otherwise.
_WEIGHT_ONLY = {"mxfp4", "int4", "int8"}


def decoder(model: MoEModel) -> MoEModel:
    """The model, if a training step of it can be built."""
    if require_shapes(model).stack != "decoder":
        kind = model.stack.replace("_", "-")
        raise InvalidInput(Problem(f"{model.name} is an {kind} model; only decoders can be trained", "model"))
    return model


def cluster_of(scenario: Scenario, hardware: Hardware) -> Cluster:
    """The cluster of the profile's fabric, as the scenario's options want it."""
    return build_cluster(hardware, scenario.cluster.devices, **scenario.cluster.options.choices())


def machine_of(scenario: Scenario, hardware: Hardware) -> Machine:
    """The device under the scenario's software.

    It must be one that the profile has measured. Where a profile has measured none, any stack that a shipped profile
    knows will do (its kernels are then stated defaults, as the result says), so that devices can be compared under one.
    """
    machine = machine_for(hardware, scenario.software, load_profile)
    stacks = sorted({fit.key.get("software", "").split(" ")[0] for fit in machine.fits.get("gemm", ())})
    wanted = (scenario.software or "").split(" ")[0]
    if wanted and stacks and wanted not in stacks:
        hint = did_you_mean(wanted, stacks) or f"; {one_of(stacks)}"
        raise InvalidInput(Problem(f"{hardware.name} has no measurements of {wanted!r}{hint}", "software"))
    if wanted and not stacks and wanted not in STACKS:
        hint = did_you_mean(wanted, STACKS) or f"; {one_of(STACKS)}, or leave it out"
        raise InvalidInput(
            Problem(f"{wanted!r} is no known stack, and {hardware.name} has measured none{hint}", "software")
        )
    return machine


def parallelism_of(scenario: Scenario) -> Parallelism:
    """The degrees of one instance."""
    degrees = scenario.parallelism
    devices, rest = divmod(scenario.cluster.devices, degrees.instances)
    if rest:
        problem = f"{scenario.cluster.devices} devices do not divide into {degrees.instances} equal instances"
        raise InvalidInput(Problem(f"{problem}; change one of the two", "parallelism.instances"))
    return for_inference(
        Parallelism(
            devices=devices,
            attention_dp=degrees.attention_dp,
            tp=degrees.tp,
            ep=degrees.ep,
            expert_tp=degrees.expert_tp,
            pp=degrees.pp,
            cp=degrees.cp,
            order=degrees.order,
        )
    )


def stages_in(scenario: Scenario, model: MoEModel) -> tuple[int, ...]:
    """Layers of each pipeline stage: as listed, else equal."""
    return divide_layers(len(model.layers), scenario.parallelism.pp, scenario.stages)


def precision_of(scenario: Scenario, hardware: Hardware) -> PrecisionPolicy:
    """The formats, with activations filled in; refuses formats whose products the chip cannot run."""
    stated = scenario.precision
    finer = {kind: getattr(stated, kind) for kind in DENSE_KINDS if getattr(stated, kind)}
    missing = [kind for kind in DENSE_KINDS if kind not in finer and kind != "router"]
    if stated.dense is None and missing:
        raise InvalidInput(Problem(f"missing; write dense, or each of {', '.join(missing)}", "precision.dense"))
    dense = stated.dense or finer["attention"]
    names = {
        "experts": stated.experts,
        "dense": dense,
        "expert_activations": stated.expert_activations or activations_of(stated.experts),
        "activations": stated.activations or activations_of(dense),
        "dispatch": stated.dispatch,
        "combine": stated.combine,
        "kv": stated.kv,
    }
    kinds = {}
    for kind, weights in finer.items():
        own = activations_of(weights) if kind == "router" else stated.activations or activations_of(weights)
        kinds[kind] = (PRECISIONS[weights], PRECISIONS[own])
    policy = PrecisionPolicy(**{kind: PRECISIONS[name] for kind, name in names.items()}, kinds=kinds)
    products = {"experts": (policy.experts, policy.expert_activations), **kinds}
    if stated.dense is not None and missing:
        products["dense"] = (policy.dense, policy.activations)
    problems = [
        Problem(
            f"{weights.name} × {operand.name} runs at {matmul_peak(weights, operand)}, which {hardware.name} lacks; "
            f"it has {', '.join(sorted(hardware.device.peak))}",
            f"precision.{field}",
        )
        for field, (weights, operand) in products.items()
        if matmul_peak(weights, operand) not in hardware.device.peak
    ]
    if problems:
        raise InvalidInput(problems)
    return policy


def activations_of(weights: str) -> str:
    """What weights of a format are multiplied with unless the scenario says otherwise."""
    return "bf16" if weights in _WEIGHT_ONLY else weights


def overlap_of(scenario: Scenario) -> Callable:
    """The overlap function with the scenario's keys."""
    return partial(OVERLAPS[scenario.overlap.kind], **scenario.overlap.options())


def check_split(model: MoEModel, parallelism: Parallelism) -> None:
    """Refuse degrees that do not divide heads or widths, before anything is priced."""
    problems = {}
    for layer in dict.fromkeys(model.layers):
        for field, divide in (
            ("parallelism.tp", lambda layer=layer: shapes.attention_projections(layer, model.hidden, parallelism.tp)),
            ("parallelism.tp", lambda layer=layer: shapes.dense_ffn(layer, model.hidden, parallelism.tp)),
            (
                "parallelism.tp",
                lambda layer=layer: shapes.shared_expert(layer, model.hidden, parallelism.shared_expert_tp),
            ),
            (
                "parallelism.expert_tp",
                lambda layer=layer: shapes.routed_experts(layer, model.hidden, parallelism.expert_tp),
            ),
        ):
            try:
                divide()
            except ValueError as error:
                problems[f"{field}: {error}"] = Problem(f"{error}; choose a degree that divides them", field)
    if problems:
        raise InvalidInput(problems.values())


def batch_of(scenario: Scenario, parallelism: Parallelism, model: MoEModel | None = None) -> Batch:
    """What one step of one instance processes. model: the part that runs, of which an encoder's pass needs to know."""
    work = scenario.workload
    sequences = np.full(parallelism.attention_dp, work.sequences_per_rank)
    if work.kind == "encode":
        return Batch("prefill", sequences, encoded_tokens(model, work), 0, causal=False)
    speculative = getattr(work, "speculative", None)
    new_tokens = 1 + speculative.draft_tokens if speculative else getattr(work, "prompt", 1)
    apart = speculative is not None and speculative.cache_reads == "each_token"
    return Batch(work.kind, sequences, new_tokens, work.context, work.source or 0, apart=apart)
