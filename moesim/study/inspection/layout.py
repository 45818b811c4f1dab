"""How a job's ranks lie on the topology: groups of each degree, what they span, and what their collectives carry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moesim.engine.program import Program
from moesim.errors import InvalidInput
from moesim.hardware.topology import Cluster
from moesim.model.parallelism import Parallelism
from moesim.routing.replay import Routes
from moesim.spec.assembly import Assembly, assemble, read_scenario
from moesim.spec.loading import Document
from moesim.spec.parts import overlap_of
from moesim.spec.serving_scenario import serving_assembly
from moesim.spec.training_assembly import assemble_training, is_training
from moesim.study.results.record import SCHEMA_VERSION, rounded
from moesim.workload.deployment import Batch
from moesim.workload.inference import inference_step

# The degree that each kind of collective belongs to, where its members could be those of several.
_OWNER = {
    "dispatch": "ep", "combine": "ep", "gradient_dispatch": "ep", "gradient_combine": "ep",
    "expert_gather": "expert_tp", "expert_scatter": "expert_tp", "context_exchange": "cp",
    "send": "pp", "send_forward": "pp", "send_backward": "pp",
    "all_reduce": "tp", "reduce_scatter": "tp", "all_gather": "tp",
}  # fmt: skip
_NAMES = {"dp": "attention_dp"}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Ranks of a job. parallelism: of one of `instances` copies on consecutive ranks. programs: of one step, which they
    run `rounds` times."""

    title: str
    what: str
    cluster: Cluster
    parallelism: Parallelism
    instances: int
    programs: tuple[Program, ...]
    rounds: int = 1

    def axes(self) -> dict[str, np.ndarray]:
        """{degree above 1: [group, member] ranks of all instances}."""
        p = self.parallelism
        groups = {
            "tp": p.tp_groups, "cp": p.cp_groups, "dp": p.dp_groups, "pp": p.pp_groups, "ep": p.ep_groups,
            "expert_tp": p.expert_tp_groups, "expert_dp": p.expert_dp_groups,
        }  # fmt: skip
        first = np.arange(self.instances)[:, None, None] * p.devices
        return {
            axis: (first + ranks).reshape(-1, ranks.shape[1]) for axis, ranks in groups.items() if ranks.shape[1] > 1
        }


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
        "order": [_NAMES.get(axis, axis) for axis in p.order if sizes[axis] > 1],
        "groups": [
            {
                "axis": _NAMES.get(axis, axis),
                "degree": groups.shape[1],
                "groups": groups.shape[0],
                "span": span(layout.cluster, groups),
                "first": groups[0].tolist(),
            }
            for axis, groups in axes.items()
        ],
        "collectives": collectives(layout, axes),
    }


def span(cluster: Cluster, groups: np.ndarray) -> str:
    """What the groups [group, member] stay inside, in words: a node, a scale-up domain, axes of a torus, or neither."""
    if "shape" in cluster.options:
        return _axes_of_torus(cluster, groups)
    nodes, domains = cluster.node[groups], cluster.domain[groups]
    if (nodes == nodes[:, :1]).all():
        return "inside a node"
    local = local_index(cluster.node)
    if (domains == domains[:, :1]).all():
        return f"inside a scale-up domain of {np.bincount(cluster.domain).max()}, over {_count(nodes, 'node')}"
    rails = ", one local rank each (a rail)" if _one_each(nodes) and _alike(local[groups]) else ""
    if (np.bincount(cluster.domain) > np.bincount(cluster.node).max()).any():
        return f"over {_count(domains, 'scale-up domain')}, {_count(nodes, 'node')}{rails}"
    return f"over {_count(nodes, 'node')}{rails}"


def local_index(node: np.ndarray) -> np.ndarray:
    """[rank] place of each rank among those of its node."""
    order = np.argsort(node, kind="stable")
    first, size = np.unique(node[order], return_index=True, return_counts=True)[1:]
    place = np.empty(node.size, dtype=int)
    place[order] = np.arange(node.size) - np.repeat(first, size)
    return place


def _axes_of_torus(cluster: Cluster, groups: np.ndarray) -> str:
    shape = cluster.options["shape"]
    chips = int(np.prod(shape))
    places = np.stack(np.unravel_index(groups % chips, shape), axis=-1)  # [group, member, axis]
    varying = [axis for axis in range(len(shape)) if (places[..., axis] != places[:, :1, axis]).any()]
    names = " and ".join(f"axis {axis} ({shape[axis]})" for axis in varying) or "one chip"
    slices = np.unique(groups // chips, axis=None).size if (groups // chips != (groups // chips)[:, :1]).any() else 0
    nodes = cluster.node[groups]
    words = f"along {names} of the torus {' × '.join(map(str, shape))}"
    words += ", inside a node" if (nodes == nodes[:, :1]).all() else ""
    return words + (f", over {slices} slices" if slices else "")


def _count(labels: np.ndarray, noun: str) -> str:
    """How many distinct labels the rows have: a number or a range."""
    counts = sorted({np.unique(row).size for row in labels})
    text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} {noun}{'' if text == '1' else 's'}"


def _one_each(nodes: np.ndarray) -> bool:
    return all(np.unique(row).size == row.size for row in nodes)


def _alike(local: np.ndarray) -> bool:
    return bool((local == local[:, :1]).all())


def collectives(layout: Layout, axes: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """One row a degree and kind of collective: calls and bytes of the mean group in one step, and the fullest call.

    Bytes are those that members send each other; what stays on a rank does not count.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for program in layout.programs:
        here = set(program.ranks.tolist())
        for op in program.ops:
            transfer = op.transfer
            # A message counts where it is sent, a collective of several programs in that of its first member.
            if transfer is None or op.kind.startswith("receive"):
                continue
            if not op.kind.startswith("send") and int(transfer.ranks[0]) not in here:
                continue
            axis = _axis_of(op.kind, transfer.ranks[transfer.group == 0], axes)
            by_group = np.bincount(transfer.group, weights=transfer.sent)
            row = found.setdefault((axis, op.kind), [0.0, 0.0, 0.0])
            row[0] += by_group.size
            row[1] += float(by_group.sum())
            row[2] = max(row[2], float(by_group.max(initial=0.0)))
    rows = []
    for (axis, kind), (calls, sent, largest) in found.items():
        name, _, times = axis.partition(" × ")
        groups = axes[name].shape[0] / int(times or 1) if name in axes else 1
        rows.append(
            {
                "axis": axis.replace(name, _NAMES.get(name, name), 1),
                "collective": kind,
                "calls_per_step": calls / groups / layout.rounds,
                "bytes_per_call": sent / calls if calls else 0.0,
                "bytes_per_step": sent / groups / layout.rounds,
                "largest_call_bytes": largest,
            }
        )
    return sorted(rows, key=lambda row: -row["bytes_per_step"])


def _axis_of(kind: str, members: Sequence[int], axes: dict[str, np.ndarray]) -> str:
    """The degree whose groups these members are, the collective's own first; a message joins two members of one.

    Under DualPipe two stages hold the same weights: their groups together are ``dp × 2``.
    """
    wanted = set(np.asarray(members).tolist())
    own = _OWNER.get(kind)
    several = ""
    for axis in sorted(axes, key=lambda axis: axis != own):
        row = set(axes[axis][(axes[axis] == next(iter(wanted))).any(axis=1)][0].tolist())
        if wanted == row or (axis == own and axis in ("pp", "cp") and wanted <= row):
            return axis
        if row < wanted and len(wanted) % len(row) == 0 and axis in ("dp", "expert_dp"):
            several = several or f"{axis} × {len(wanted) // len(row)}"
    return several or own or "other"
