"""The parts of a training job that a scenario states directly, each checked by itself.

Problems name their field; `moesim.spec.training.assembly` places them in the file and tells those of all parts at once.
"""

from __future__ import annotations

from moesim.cost.exchange import check_kernel
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism, training_parallelism
from moesim.routing.latent import Geometry
from moesim.spec.assembly.parts import activations_of
from moesim.spec.training.scenario import TrainingScenario
from moesim.workload.training.job import Formats
from moesim.workload.training.schedules import SCHEDULES, Schedule


def formats_of(scenario: TrainingScenario, hardware: Hardware) -> Formats:
    """The formats, with activations filled in; refuses formats whose products the chip cannot run."""
    stated = scenario.precision
    attention, shared = stated.attention or stated.dense, stated.shared_expert or stated.dense
    products = {
        "experts": (stated.experts, stated.expert_activations or activations_of(stated.experts)),
        "dense": (stated.dense, stated.activations or activations_of(stated.dense)),
        "attention": (attention, stated.activations or activations_of(attention)),
        "shared_expert": (shared, stated.activations or activations_of(shared)),
        "router": (stated.router, activations_of(stated.router)),
    }
    problems = []
    for field, (weights, operand) in products.items():
        wanted = matmul_peak(PRECISIONS[weights], PRECISIONS[operand])
        if wanted not in hardware.device.peak and getattr(stated, field) is not None:
            has = ", ".join(sorted(hardware.device.peak))
            message = f"{weights} × {operand} runs at {wanted}, which {hardware.name} lacks; it has {has}"
            problems.append(Problem(message, f"precision.{field}"))
    if problems:
        raise InvalidInput(problems)
    kinds = ("dispatch", "combine", "weights", "gradients", "optimizer_states")
    master = None if stated.master_weights == "none" else PRECISIONS[stated.master_weights]
    return Formats(
        **{kind: (PRECISIONS[weights], PRECISIONS[operand]) for kind, (weights, operand) in products.items()},
        **{kind: PRECISIONS[getattr(stated, kind)] for kind in kinds},
        master_weights=master,
    )


def degrees_of(scenario: TrainingScenario) -> Parallelism:
    """The degrees, with data parallelism derived."""
    stated = scenario.parallelism
    degrees = {name: getattr(stated, name) for name in ("tp", "cp", "pp", "ep", "expert_tp", "dp", "order")}
    return training_parallelism(scenario.cluster.devices, **degrees)


def microbatches_of(scenario: TrainingScenario, parallelism: Parallelism, model: MoEModel | None) -> int:
    """Microbatches of each replica in a step; also refuses sequences that cannot be cut."""
    work, problems = scenario.workload, []
    at_once = work.microbatch * parallelism.attention_dp
    if work.global_batch % at_once:
        message = f"{work.global_batch} sequences do not divide by microbatch {work.microbatch} × dp"
        message += f" {parallelism.attention_dp} = {at_once}; write a multiple of it"
        problems.append(Problem(message, "workload.global_batch"))
    pieces = parallelism.cp * (2 if parallelism.cp > 1 else 1)  # each rank takes a piece from both ends
    if work.sequence % pieces:
        message = f"{work.sequence} tokens do not divide into {pieces} pieces for cp {parallelism.cp}"
        problems.append(Problem(message, "workload.sequence"))
    split_tokens = parallelism.tp > 1 and scenario.parallelism.sequence_parallel
    if split_tokens and work.microbatch * work.sequence // parallelism.cp % parallelism.tp:
        message = f"{work.microbatch * work.sequence // parallelism.cp} tokens do not divide by tp {parallelism.tp}"
        problems.append(Problem(message, "workload.sequence"))
    if parallelism.tp > 1 and not scenario.parallelism.sequence_parallel and model and model.moe_layers:
        message = "experts under tensor parallelism need each rank's own tokens; write true, or tp: 1"
        problems.append(Problem(message, "parallelism.sequence_parallel"))
    if problems:
        raise InvalidInput(problems)
    return work.global_batch // at_once


def check_sequences(scenario: TrainingScenario) -> None:
    """Training batches are shuffled: no sequence is sent to where its experts are."""
    if scenario.placement.sequences != "as_drawn":
        raise InvalidInput(Problem("training takes sequences as they are drawn; write as_drawn", "sequences"))
    if scenario.placement.replica_choice == "nearest":
        message = "training counts routes before it knows who reads them; write round_robin, random or least_loaded"
        raise InvalidInput(Problem(message, "replica_choice"))


def schedule_of(scenario: TrainingScenario, microbatches: int) -> Schedule:
    """The order of work of every pipeline rank."""
    return SCHEDULES[scenario.schedule.kind](scenario.parallelism.pp, microbatches, **scenario.schedule.options())


def geometry_of(model: MoEModel, scenario: TrainingScenario) -> Geometry:
    """Router geometry of all MoE layers, multi-token-prediction modules included."""
    experts = model.layers[model.moe_layers[0]].experts
    extra = scenario.workload.mtp_layers if model.layers[-1].experts is not None else 0
    return Geometry(len(model.moe_layers) + extra, experts.routed, experts.top_k, experts.groups, experts.kept_groups)


def check_exchange(scenario: TrainingScenario, cluster: Cluster, parallelism: Parallelism) -> None:
    """Refuse an expert-parallel kernel that cannot run here, before anything is priced."""
    if parallelism.ep == 1:
        return
    domains = cluster.domain[parallelism.ep_groups]
    try:
        check_kernel(scenario.network.all_to_all, cluster.hardware.device, bool((domains != domains[:, :1]).any()))
    except InvalidInput as error:
        raise InvalidInput(Problem(str(error), "all_to_all")) from None
