"""From a checked training scenario to a job that can be simulated, and its draws of routing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.machine import Machine
from moesim.errors import Infeasible, InvalidInput
from moesim.hardware.topology import Cluster
from moesim.model.architecture import MoEModel
from moesim.model.parallelism import Parallelism
from moesim.network.routes import Network, build_network
from moesim.placement.placement import Placement
from moesim.placement.policies import LEARNING
from moesim.routing.relabel import block_labels, relabel_ids
from moesim.routing.replay import Routes, check_geometry, phase_tokens, replay, split
from moesim.routing.synthesis import balanced_routes
from moesim.routing.trace import RouterTrace
from moesim.spec.assembly.parts import check_split, cluster_of, decoder, machine_of
from moesim.spec.assembly.placing import Site, place_experts
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.spec.reading.loading import Document
from moesim.spec.reading.problems import Problems
from moesim.spec.training.parts import (
    check_exchange,
    check_sequences,
    degrees_of,
    formats_of,
    geometry_of,
    microbatches_of,
    schedule_of,
)
from moesim.spec.training.scenario import TrainingScenario
from moesim.workload.stage import divide_layers, even_layers
from moesim.workload.training.footprint import TrainingFootprint, check_fits
from moesim.workload.training.job import Formats, Job, Overlap
from moesim.workload.training.optimizer import OPTIMIZERS
from moesim.workload.training.recomputation import RECOMPUTATIONS
from moesim.workload.training.routed import Draws
from moesim.workload.training.schedules import Schedule

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
    assembly = _built(document)
    check_memory(document, assembly, None)  # what cannot fit whatever is routed is said before a token is
    return assembly


def with_microbatches(assembly: TrainingAssembly, microbatches: int) -> TrainingAssembly:
    """The same job with so many microbatches a step; everything else was built already."""
    schedule = schedule_of(assembly.scenario, microbatches)
    return replace(assembly, job=replace(assembly.job, microbatches=microbatches, schedule=schedule))


def check_memory(document: Document, assembly: TrainingAssembly, draws: Draws | None) -> TrainingFootprint:
    """HBM of the fullest rank under the replayed draws, or under even loads; Infeasible says what would fit."""
    try:
        return check_fits(assembly.job, draws, **assembly.scenario.memory.shares())
    except Infeasible as error:
        degrees = _larger_degrees(document, assembly)
        more = f"; or, under even loads, {' or '.join(degrees)}" if degrees else ""
        raise Infeasible(f"{error}{more}") from None


def _larger_degrees(document: Document, assembly: TrainingAssembly) -> list[str]:
    """Degrees on the same devices, each raised alone, under which the job would fit."""
    found = []
    for name in ("pp", "ep", "tp", "cp"):
        for factor in (2, 4, 8):
            degree = getattr(assembly.job.parallelism, name) * factor
            changed = document.with_value(f"parallelism.{name}", degree)
            if name == "pp":
                virtual = assembly.job.schedule.virtual_stages * factor
                changed = changed.with_value("stages", even_layers(len(assembly.job.model.layers), virtual))
            if name == "ep" and assembly.job.placement is not None:
                slots = -(-assembly.job.placement.slots_per_rank // factor)
                changed = changed.with_value("placement.slots_per_rank", slots)
            try:
                raised = _built(changed)
                check_fits(raised.job, None, **raised.scenario.memory.shares())
            except (InvalidInput, Infeasible):
                continue
            found.append(f"parallelism.{name}: {degree}")
            break
    return found


def _built(document: Document) -> TrainingAssembly:
    scenario = document.check(TrainingScenario)
    tell = Problems(document)
    model = tell.attempt(lambda: decoder(load_model(scenario.model, beside=document.file)), "")
    hardware = tell.attempt(lambda: load_profile(scenario.cluster.hardware, beside=document.file), "cluster")
    parallelism = tell.attempt(lambda: degrees_of(scenario), "")
    cluster = hardware and parallelism and tell.attempt(lambda: cluster_of(scenario, hardware), "cluster")
    formats = hardware and tell.attempt(lambda: formats_of(scenario, hardware), "")
    machine = hardware and tell.attempt(lambda: machine_of(scenario, hardware), "")
    if cluster:
        tell.attempt(lambda: check_exchange(scenario, cluster, parallelism), "network")
    tell.attempt(lambda: check_sequences(scenario), "placement")
    if model and parallelism:
        tell.attempt(lambda: check_split(model, parallelism), "")
    microbatches = parallelism and tell.attempt(lambda: microbatches_of(scenario, parallelism, model), "")
    schedule = microbatches and tell.attempt(lambda: schedule_of(scenario, microbatches), "")
    stages = None
    if model and schedule:
        stages = tell.attempt(lambda: divide_layers(len(model.layers), schedule.virtual_stages, scenario.stages), "")
    trace = None
    if model and model.moe_layers:
        rng, geometry = np.random.default_rng((scenario.seed, 1)), geometry_of(model, scenario)
        trace = tell.attempt(lambda: scenario.routing.build(geometry, _SYNTHETIC_TOKENS, rng, document.file), "routing")
    tell.raise_any()
    network = tell.now(lambda: build_network(cluster), "cluster")
    site = placement = replayed = None
    if trace is not None:
        tell.now(lambda: check_geometry(trace, geometry.experts, geometry.top_k), "routing")
        site = _site(scenario, model, cluster, network, parallelism, formats, trace)
        learned, replayed = split(trace, _LEARNED_SHARE) if scenario.placement.kind in LEARNING else (trace, trace)
        placement = tell.now(lambda: place_experts(scenario.placement, site, learned), "placement")
    known = (model, cluster, network, machine, parallelism, formats, schedule, stages, placement)
    job = _job(scenario, *known, microbatches)
    title = f"{model.title} training on {scenario.cluster.devices:,} × {hardware.title.partition(',')[0]}"
    return TrainingAssembly(document.name, title, scenario, job, site, replayed)


def _site(
    scenario: TrainingScenario,
    model: MoEModel,
    cluster: Cluster,
    network: Network,
    parallelism: Parallelism,
    formats: Formats,
    trace: RouterTrace,
) -> Site:
    """Where the experts are placed, with the model's expert numbers for those of the trace."""
    geometry, rng = geometry_of(model, scenario), np.random.default_rng((scenario.seed, 2))
    labels = block_labels(geometry.layers, trace.layers, geometry.experts, geometry.groups, rng)
    wire, kernel = (formats.dispatch, formats.combine), scenario.network.all_to_all
    return Site(model, geometry, cluster, network, parallelism, labels, kernel, wire, scenario.seed)


def _job(
    scenario: TrainingScenario,
    model: MoEModel,
    cluster: Cluster,
    network: Network,
    machine: Machine,
    parallelism: Parallelism,
    formats: Formats,
    schedule: Schedule,
    stages: tuple[int, ...],
    placement: Placement | None,
    microbatches: int,
) -> Job:
    work = scenario.workload
    return Job(
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
        capacity=scenario.capacity and scenario.capacity.limit(),
        zero=scenario.parallelism.zero,
        sequence_parallel=scenario.parallelism.sequence_parallel,
        microbatch=work.microbatch,
        microbatches=microbatches,
        sequence=work.sequence,
        mtp_layers=work.mtp_layers,
        windows=work.windows,
        fidelity=scenario.network.fidelity,
        graphs=scenario.graphs,
        grouped_gemm=scenario.grouped_gemm,
        unfused_attention=scenario.attention_kernel == "unfused",
    )
