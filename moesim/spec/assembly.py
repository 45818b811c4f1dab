"""From a checked scenario to the values that the simulator runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from moesim.cost.calibration import machine_for
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics.build import build_cluster
from moesim.hardware.precision import PRECISIONS, matmul_peak
from moesim.model.architecture import Experts, MoEModel, require_shapes
from moesim.model.parallelism import Parallelism
from moesim.network.routes import build_network
from moesim.placement.placement import Placement
from moesim.placement.policies import POLICIES
from moesim.routing.latent import Geometry
from moesim.routing.load import expert_load
from moesim.routing.relabel import block_labels, relabel_ids, relabel_load
from moesim.routing.replay import Routes, replay, split
from moesim.routing.synthesis import balanced_routes
from moesim.routing.trace import RouterTrace
from moesim.spec import library
from moesim.spec.loading import Document, read
from moesim.spec.model_file import load_model
from moesim.spec.profile import load_profile
from moesim.spec.scenario import Scenario
from moesim.workload.deployment import Batch, Deployment, PrecisionPolicy

# Weight formats whose products run on BF16 activations unless the scenario says otherwise.
_WEIGHT_ONLY = {"mxfp4", "int4", "int8", "fp32"}
# Share of a trace's sequences that a load-aware placement learns from; the rest is replayed.
_LEARNED_SHARE = 0.5
_SYNTHETIC_TOKENS = (8192, 65536)  # least and most tokens of a synthetic trace


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """A scenario ready to run. routes: of the step; None for a dense model."""

    name: str
    title: str
    scenario: Scenario
    deployment: Deployment
    batch: Batch
    trace: RouterTrace | None
    routes: Routes | None

    def provenance(self) -> dict[str, str]:
        """Where the inputs come from, in words."""
        machine = self.deployment.machine
        stack = f"{machine.device.name}, {machine.software or 'no stack named'}: {machine.origin}"
        words = {"cost models": stack}
        if self.trace is not None:
            kind = "synthetic" if self.trace.synthetic else "captured"
            words["routing"] = f"{self.trace.name} ({kind}): {self.trace.source}"
            if self.routes.reused and self.routes.tokens.size:
                share = self.routes.reused / self.routes.tokens.shape[1]
                words["routing"] += f"; the step is longer than the trace, {share:.0%} of its tokens are replayed again"
        return words


def read_scenario(name_or_path: str, changes: Iterable[str] = ()) -> Document:
    """The document of a shipped scenario or a file. changes: ``field=value`` texts, values in YAML."""
    document = read(library.find("scenario", name_or_path))
    for change in changes:
        field, equals, text = change.partition("=")
        if not equals:
            raise InvalidInput(f"--set {change}: write FIELD=VALUE, e.g. workload.context=8192")
        document = document.with_value(field.strip(), plain_value(text))
    return document


def plain_value(text: str) -> object:
    """One YAML value, as the command line gives it."""
    from moesim.spec.loading import parse

    return parse(f"value: {text}", "--set").data["value"]


def assemble(document: Document, *, model: MoEModel | None = None, trace: RouterTrace | None = None) -> Assembly:
    """Build everything a scenario names. Raises InvalidInput with every problem of the file that can be told.

    model, trace: take these instead of those that the scenario names, as studies do that vary them.
    """
    scenario = document.check(Scenario)
    tell = _Problems(document)
    model = model or tell.attempt(lambda: require_shapes(load_model(scenario.model, beside=document.file)), "")
    hardware = tell.attempt(lambda: load_profile(scenario.cluster.hardware, beside=document.file), "cluster")
    cluster = hardware and tell.attempt(
        lambda: build_cluster(hardware, scenario.cluster.devices, **scenario.cluster.options.choices()), "cluster"
    )
    parallelism = tell.attempt(lambda: _parallelism(scenario), "")
    precision = hardware and tell.attempt(lambda: _precision(scenario, hardware), "")
    if model and parallelism:
        tell.attempt(lambda: _check_split(model, parallelism), "")
    experts = model and _experts(model)
    batch = parallelism and _batch(scenario, parallelism)
    if trace is None and experts and batch:
        trace = tell.attempt(lambda: _trace(scenario, model, batch, document), "routing")
    tell.raise_any()

    placement = routes = None
    if experts:
        learned, replayed = _parts(scenario, trace)
        labels = _labels(trace, model, scenario)
        routes = tell.now(lambda: _routes(replayed, model, batch, labels, scenario), "routing")
        placement = tell.now(lambda: _placement(scenario, learned, labels, parallelism), "placement")
    deployment = Deployment(
        model=model,
        cluster=cluster,
        network=tell.now(lambda: build_network(cluster), "cluster"),
        machine=tell.now(lambda: machine_for(hardware, scenario.software, load_profile), "cluster.hardware"),
        parallelism=parallelism,
        precision=precision,
        kernel=scenario.network.all_to_all,
        placement=placement,
        fidelity=scenario.network.fidelity,
        instances=scenario.parallelism.instances,
    )
    name = Path(document.file).name.removesuffix(".yaml")
    return Assembly(name, _title(scenario, model, hardware), scenario, deployment, batch, trace, routes)


class _Problems:
    """Collects what is wrong in independent parts of a document, so that all of it is told at once."""

    def __init__(self, document: Document):
        self._document = document
        self._found: list[Problem] = []

    def attempt(self, build: Callable, under: str) -> object | None:
        """What `build` makes, or None after noting its problems, whose fields lie below `under`."""
        try:
            return build()
        except InvalidInput as error:
            self._found += self._document.locate(error, under).problems
            return None

    def now(self, build: Callable, under: str) -> object:
        """As `attempt`, raising at once."""
        made = self.attempt(build, under)
        self.raise_any()
        return made

    def raise_any(self) -> None:
        if self._found:
            raise InvalidInput(self._found)


def _title(scenario: Scenario, model: MoEModel, hardware: Hardware) -> str:
    product = hardware.title.partition(",")[0]
    return f"{model.title} {scenario.workload.kind} on {scenario.cluster.devices} × {product}"


def _parallelism(scenario: Scenario) -> Parallelism:
    degrees = scenario.parallelism
    devices, rest = divmod(scenario.cluster.devices, degrees.instances)
    if rest:
        problem = f"{scenario.cluster.devices} devices do not divide into {degrees.instances} equal instances"
        raise InvalidInput(Problem(f"{problem}; change one of the two", "parallelism.instances"))
    return Parallelism(
        devices=devices,
        attention_dp=degrees.attention_dp,
        tp=degrees.tp,
        ep=degrees.ep,
        expert_tp=degrees.expert_tp,
    )


def _precision(scenario: Scenario, hardware: Hardware) -> PrecisionPolicy:
    """The formats, with activations filled in; refuses formats whose products the chip cannot run."""
    stated = scenario.precision
    names = {
        "experts": stated.experts,
        "dense": stated.dense,
        "expert_activations": stated.expert_activations or _activations_of(stated.experts),
        "activations": stated.activations or _activations_of(stated.dense),
        "dispatch": stated.dispatch,
        "combine": stated.combine,
        "kv": stated.kv,
    }
    policy = PrecisionPolicy(**{kind: PRECISIONS[name] for kind, name in names.items()})
    problems = [
        Problem(
            f"{weights.name} × {operand.name} runs at {matmul_peak(weights, operand)}, which {hardware.name} lacks; "
            f"it has {', '.join(sorted(hardware.device.peak))}",
            f"precision.{field}",
        )
        for field, weights, operand in (
            ("experts", policy.experts, policy.expert_activations),
            ("dense", policy.dense, policy.activations),
        )
        if matmul_peak(weights, operand) not in hardware.device.peak
    ]
    if problems:
        raise InvalidInput(problems)
    return policy


def _activations_of(weights: str) -> str:
    return "bf16" if weights in _WEIGHT_ONLY else weights


def _experts(model: MoEModel) -> Experts | None:
    """The expert geometry of the model's MoE layers; None for a dense model."""
    return model.layers[model.moe_layers[0]].experts if model.moe_layers else None


def _check_split(model: MoEModel, parallelism: Parallelism) -> None:
    """Refuse degrees that do not divide heads or widths, before anything is priced."""
    from moesim.model import shapes

    problems = {}
    for layer in dict.fromkeys(model.layers):
        for field, divide in (
            ("parallelism.tp", lambda layer=layer: shapes.attention_projections(layer, model.hidden, parallelism.tp)),
            ("parallelism.tp", lambda layer=layer: shapes.dense_ffn(layer, model.hidden, parallelism.tp)),
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


def _trace(scenario: Scenario, model: MoEModel, batch: Batch, document: Document) -> RouterTrace:
    # Enough that a step draws different tokens than the placement learned from, but not without end.
    step = int(batch.tokens.sum()) * scenario.parallelism.instances
    tokens = min(max(_SYNTHETIC_TOKENS[0], 2 * step), _SYNTHETIC_TOKENS[1])
    rng = np.random.default_rng((scenario.seed, 1))
    return scenario.routing.build(_geometry(model), tokens, rng, document.file)


def _geometry(model: MoEModel) -> Geometry:
    experts = _experts(model)
    return Geometry(len(model.moe_layers), experts.routed, experts.top_k, experts.groups, experts.kept_groups)


def _parts(scenario: Scenario, trace: RouterTrace) -> tuple[RouterTrace, RouterTrace]:
    """What the placement learns from, and what is replayed: never the same sequences when the placement uses loads."""
    if scenario.placement.kind == "replicate_hot":
        return split(trace, _LEARNED_SHARE)
    return trace, trace


def _labels(trace: RouterTrace, model: MoEModel, scenario: Scenario) -> np.ndarray:
    """Expert numbers [layer, expert] of the model's MoE layers, for those of the trace."""
    geometry = _geometry(model)
    rng = np.random.default_rng((scenario.seed, 2))
    return block_labels(geometry.layers, trace.layers, geometry.experts, geometry.groups, rng)


def _placement(scenario: Scenario, learned: RouterTrace, labels: np.ndarray, parallelism: Parallelism) -> Placement:
    load = relabel_load(expert_load(learned), labels)
    try:
        return POLICIES[scenario.placement.kind](load, parallelism.ep, **scenario.placement.options())
    except ValueError as error:
        raise InvalidInput(Problem(str(error), "slots_per_rank")) from None


def _routes(trace: RouterTrace, model: MoEModel, batch: Batch, labels: np.ndarray, scenario: Scenario) -> Routes:
    """One long window for all instances, so that no two of them replay the same tokens."""
    geometry = _geometry(model)
    tokens = np.tile(batch.tokens, scenario.parallelism.instances)
    rng = np.random.default_rng(scenario.seed)
    if scenario.routing.kind == "balanced":  # exactly so in this step, not only over the trace
        return balanced_routes(geometry, tokens_per_rank=tokens, rng=rng)
    routes = replay(
        trace,
        moe_layers=geometry.layers,
        experts=geometry.experts,
        top_k=geometry.top_k,
        ranks=tokens.size,
        tokens_per_rank=tokens,
        phase=batch.phase,
        rng=rng,
    )
    return replace(routes, ids=relabel_ids(routes.ids, labels))


def _batch(scenario: Scenario, parallelism: Parallelism) -> Batch:
    work = scenario.workload
    sequences = np.full(parallelism.attention_dp, work.sequences_per_rank)
    return Batch(work.kind, sequences, getattr(work, "prompt", 1), work.context)
