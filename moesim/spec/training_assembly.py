"""From a checked training scenario to a job that can be simulated, and its draws of routing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moesim.cost.exchange import check_kernel
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism, training_parallelism
from moesim.network.routes import build_network
from moesim.placement.policies import LEARNING
from moesim.routing.latent import Geometry
from moesim.routing.relabel import block_labels, relabel_ids
from moesim.routing.replay import Routes, check_geometry, phase_tokens, replay, split
from moesim.routing.synthesis import balanced_routes
from moesim.routing.trace import RouterTrace
from moesim.spec.assembly import Problems
from moesim.spec.loading import Document
from moesim.spec.model_file import load_model
from moesim.spec.parts import activations_of, check_split, cluster_of, decoder, machine_of
from moesim.spec.placing import Site, place_experts
from moesim.spec.profile import load_profile
from moesim.spec.training_scenario import TrainingScenario
from moesim.workload.training.footprint import check_fits
from moesim.workload.training.job import Formats, Job, Overlap, divide_layers
from moesim.workload.training.optimizer import OPTIMIZERS
from moesim.workload.training.recomputation import RECOMPUTATIONS
from moesim.workload.training.schedules import SCHEDULES, Schedule

_LEARNED_SHARE = 0.5  # of a trace's sequences, for placements that look at loads
_SYNTHETIC_TOKENS = 65536  # of a synthetic trace


@dataclass(frozen=True, slots=True, eq=False)
class TrainingAssembly:
    """A training scenario ready to run. site, replayed: where experts are placed, and the part of the trace that is
    replayed; None for a dense model."""

    name: str
    title: str
    scenario: TrainingScenario
    job: Job
    site: Site | None
    replayed: RouterTrace | None

    def line(self) -> Routes | None:
        """Routes of the tokens that ranks read on and on: the whole trace in shuffled order, or a round of forced
        balance; None for a dense model."""
        if self.site is None:
            return None
        geometry, rng = self.site.geometry, np.random.default_rng(self.scenario.seed)
        if self.scenario.routing.kind == "balanced":  # dealt out in turn, so that a round of all experts repeats
            return balanced_routes(geometry, tokens_per_rank=np.array([geometry.experts]), rng=rng)
        every = phase_tokens(self.replayed, "prefill")
        routes = replay(
            self.replayed,
            moe_layers=geometry.layers,
            experts=geometry.experts,
            top_k=geometry.top_k,
            ranks=1,
            tokens_per_rank=every,
            phase="prefill",
            rng=rng,
        )
        return replace(routes, ids=relabel_ids(routes.ids, self.site.labels))

    def provenance(self) -> dict[str, str]:
        """Where the inputs come from, and what stands for what, in words."""
        job, machine = self.job, self.job.machine
        words = {"cost models": f"{machine.device.name}, {machine.software or 'no stack named'}: {machine.origin}"}
        if self.replayed is not None:
            kind = "synthetic" if self.replayed.synthetic else "captured"
            words["routing"] = f"{self.replayed.name} ({kind}): {self.replayed.source}"
            tokens = job.windows * job.parallelism.ep * job.owned_tokens
            words["symmetry"] = (
                f"{job.windows} draws of {job.parallelism.ep * job.owned_tokens:,} tokens stand for the "
                f"{job.microbatches} microbatches of {job.parallelism.expert_dp * job.parallelism.expert_tp} "
                "expert-parallel groups a stage; every rank, microbatch and collective is simulated"
            )
            if tokens > self.replayed.tokens:
                words["symmetry"] += f"; the trace has {self.replayed.tokens:,} tokens"
        if job.model.context and job.sequence > job.model.context:
            words["context"] = f"{job.sequence:,} tokens are beyond {job.model.name}'s own {job.model.context:,}"
        return words


def is_training(document: Document) -> bool:
    """Whether a scenario file describes training."""
    workload = document.data.get("workload")
    return isinstance(workload, dict) and workload.get("kind") == "training"


def assemble_training(document: Document) -> TrainingAssembly:
    """Build everything a training scenario names. Raises InvalidInput with every problem of the file that can be told,
    or Infeasible when the job would not fit in HBM even under even loads."""
    scenario = document.check(TrainingScenario)
    tell = Problems(document)
    model = tell.attempt(lambda: decoder(load_model(scenario.model, beside=document.file)), "")
    hardware = tell.attempt(lambda: load_profile(scenario.cluster.hardware, beside=document.file), "cluster")
    parallelism = tell.attempt(lambda: _parallelism(scenario), "")
    cluster = hardware and parallelism and tell.attempt(lambda: cluster_of(scenario, hardware), "cluster")
    formats = hardware and tell.attempt(lambda: formats_of(scenario, hardware), "")
    machine = hardware and tell.attempt(lambda: machine_of(scenario, hardware), "")
    if cluster:
        tell.attempt(lambda: _check_kernel(scenario, cluster, parallelism), "network")
    tell.attempt(lambda: _check_sequences(scenario), "placement")
    if model and parallelism:
        tell.attempt(lambda: check_split(model, parallelism), "")
    microbatches = parallelism and tell.attempt(lambda: _microbatches(scenario, parallelism, model), "")
    schedule = microbatches and tell.attempt(lambda: _schedule(scenario, microbatches), "")
    stages = None
    if model and schedule:
        stages = tell.attempt(lambda: divide_layers(len(model.layers), schedule.virtual_stages, scenario.stages), "")
    experts = model.layers[model.moe_layers[0]].experts if model and model.moe_layers else None
    trace = None
    if experts:
        geometry = _geometry(model, scenario)
        rng = np.random.default_rng((scenario.seed, 1))
        trace = tell.attempt(lambda: scenario.routing.build(geometry, _SYNTHETIC_TOKENS, rng, document.file), "routing")
    tell.raise_any()

    network = tell.now(lambda: build_network(cluster), "cluster")
    placement = site = replayed = None
    if experts:
        learned, replayed = split(trace, _LEARNED_SHARE) if scenario.placement.kind in LEARNING else (trace, trace)
        tell.now(lambda: check_geometry(trace, experts.routed, experts.top_k), "routing")
        rng = np.random.default_rng((scenario.seed, 2))
        labels = block_labels(geometry.layers, trace.layers, geometry.experts, geometry.groups, rng)
        wire, kernel = (formats.dispatch, formats.combine), scenario.network.all_to_all
        site = Site(model, geometry, cluster, network, parallelism, labels, kernel, wire, scenario.seed)
        placement = tell.now(lambda: place_experts(scenario.placement, site, learned), "placement")
    work = scenario.workload
    job = Job(
        model=model,
        cluster=cluster,
        network=network,
        machine=machine,
        parallelism=parallelism,
        formats=formats,
        schedule=schedule,
        stages=stages,
        recompute=RECOMPUTATIONS[scenario.recomputation.kind](**scenario.recomputation.options()),
        optimizer=OPTIMIZERS[scenario.optimizer.kind](**scenario.optimizer.options()),
        overlap=Overlap(**scenario.overlap.model_dump()),
        kernel=scenario.network.all_to_all,
        placement=placement,
        zero=scenario.parallelism.zero,
        sequence_parallel=scenario.parallelism.sequence_parallel,
        microbatch=work.microbatch,
        microbatches=microbatches,
        sequence=work.sequence,
        mtp_layers=work.mtp_layers,
        windows=work.windows,
        fidelity=scenario.network.fidelity,
    )
    check_fits(job, None, **scenario.memory.shares())  # what cannot fit whatever is routed is said before a token is
    name = Path(document.file).name.removesuffix(".yaml")
    title = f"{model.title} training on {scenario.cluster.devices:,} × {hardware.title.partition(',')[0]}"
    return TrainingAssembly(name, title, scenario, job, site, replayed)


def formats_of(scenario: TrainingScenario, hardware: Hardware) -> Formats:
    """The formats, with activations filled in; refuses formats whose products the chip cannot run."""
    stated = scenario.precision
    names = stated.model_dump() | {
        "expert_activations": stated.expert_activations or activations_of(stated.experts),
        "activations": stated.activations or activations_of(stated.dense),
    }
    formats = Formats(**{kind: None if name == "none" else PRECISIONS[name] for kind, name in names.items()})
    problems = []
    for field, weights, operand in (
        ("experts", formats.experts, formats.expert_activations),
        ("dense", formats.dense, formats.activations),
    ):
        wanted = matmul_peak(weights, operand)
        if wanted not in hardware.device.peak:
            has = ", ".join(sorted(hardware.device.peak))
            message = f"{weights.name} × {operand.name} runs at {wanted}, which {hardware.name} lacks; it has {has}"
            problems.append(Problem(message, f"precision.{field}"))
    if problems:
        raise InvalidInput(problems)
    return formats


def _parallelism(scenario: TrainingScenario) -> Parallelism:
    stated = scenario.parallelism
    degrees = {name: getattr(stated, name) for name in ("tp", "cp", "pp", "ep", "expert_tp", "dp", "order")}
    return training_parallelism(scenario.cluster.devices, **degrees)


def _microbatches(scenario: TrainingScenario, parallelism: Parallelism, model: MoEModel | None) -> int:
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


def _check_sequences(scenario: TrainingScenario) -> None:
    """Training batches are shuffled: no sequence is sent to where its experts are."""
    if scenario.placement.sequences != "as_drawn":
        raise InvalidInput(Problem("training takes sequences as they are drawn; write as_drawn", "sequences"))
    if scenario.placement.replica_choice == "nearest":
        message = "training counts routes before it knows who reads them; write round_robin, random or least_loaded"
        raise InvalidInput(Problem(message, "replica_choice"))


def _schedule(scenario: TrainingScenario, microbatches: int) -> Schedule:
    return SCHEDULES[scenario.schedule.kind](scenario.parallelism.pp, microbatches, **scenario.schedule.options())


def _geometry(model: MoEModel, scenario: TrainingScenario) -> Geometry:
    experts = model.layers[model.moe_layers[0]].experts
    extra = scenario.workload.mtp_layers if model.layers[-1].experts is not None else 0
    return Geometry(len(model.moe_layers) + extra, experts.routed, experts.top_k, experts.groups, experts.kept_groups)


def _check_kernel(scenario: TrainingScenario, cluster: Cluster, parallelism: Parallelism) -> None:
    """Refuse an expert-parallel kernel that cannot run here, before anything is priced."""
    if parallelism.ep == 1:
        return
    domains = cluster.domain[parallelism.ep_groups]
    try:
        check_kernel(scenario.network.all_to_all, cluster.hardware.device, bool((domains != domains[:, :1]).any()))
    except InvalidInput as error:
        raise InvalidInput(Problem(str(error), "all_to_all")) from None
