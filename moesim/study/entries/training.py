"""From a published training figure to a training scenario: one step of the job, whatever the figure counts.

Rules that hold for all entries alike, where a text does not say:

- a job without degrees runs as its model's public recipe does (`RECIPES`), or, in MaxText, fully sharded (FSDP);
- 8 sequences of a step a device, microbatches of one sequence; 4,096 tokens a sequence;
- layers of uneven stages as Megatron's layouts put them: embedding and loss count as a layer where that divides, else
  the last stages have fewer;
- recomputation, where what recipes do does not fit: norms, activations and MLA's up-projections, then experts, then
  all;
- routing is balanced in figures of benchmark recipes (`recipes.BENCHMARKED`), where a note says so (forced balance,
  random routing) or tokens are dropped; else from a capture;
- dispatch and combine in BF16: NCCL's where recipes take its all-to-all, else the fastest kernel that reaches:
  one-sided NVLink inside a domain, beyond it what the stack has (`recipes.exchange`);
- graphs, grouped products, overlap of exchanges with the other microbatch (``pairs``) and recomputation to begin with:
  as `launches` has them of the stack's recipes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS
from moesim.model.architecture import MoEModel
from moesim.study.entries import words
from moesim.study.entries.calibration import age, years_ago
from moesim.study.entries.case import Assumptions, Case, NotStated
from moesim.study.entries.degrees import Degrees, degrees, stages
from moesim.study.entries.deployment import domain, hardware_named, measured_stack, model_named, occurs, routing
from moesim.study.entries.entry import Entry
from moesim.study.entries.formats import formats
from moesim.study.entries.launches import Launch, Recipe, launch_of
from moesim.study.entries.quantity import Quantity
from moesim.study.entries.recipes import BENCHMARKED, FORMATS, LAST_STEP, RECIPES, drops, exchange, released

SEQUENCE, PER_DEVICE = 4096, 8
PER_DEVICE_OF = {"grok-1": 2}  # NVIDIA/dgxc-benchmarking, grok1: 1,024 sequences on 512 devices
LARGEST = 2048  # devices of a job that is simulated whole


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A training job as an entry states it."""

    model: MoEModel
    hardware: Hardware
    stack: str
    devices: int
    degrees: Degrees
    format: str
    global_batch: int
    microbatch: int
    sequence: int
    balanced: bool
    dropped: bool
    mtp: bool
    released: float | None


def training_case(entry: Entry, quantity: Quantity) -> Case:
    """The case of an entry. Raises NotStated."""
    assume = Assumptions()
    job = job_of(entry, assume)
    document = document_of_job(job, assume)
    family = "balanced" if job.balanced else "routed"
    years = age(software_of(entry))
    if step := re.search(r"optimi[sz]ation step (\d+)", entry.metric.lower()):
        years = _years_of_step(job, int(step[1]), assume)
    return Case(
        entry.id,
        document,
        quantity,
        f"{job.stack} {recipe_group(job.format)}",
        (*assume.texts, f"{family} routing"),
        age=years,
        devices=job.devices if quantity.per == "system" else None,
    )


def _years_of_step(job: Job, step: int, assume: Assumptions) -> float | None:
    """Age of the software at a step of a series of optimisations: they came one by one between the day that the product
    began to ship and the publication."""
    if job.released is None:
        return None
    begun = min(words.SHIPPED.get(job.hardware.name, job.released), job.released)
    assume.note(f"step {step} of {LAST_STEP} between the product's first shipping and the publication")
    return years_ago(job.released - (job.released - begun) * max(LAST_STEP - step, 0) / LAST_STEP)


def software_of(entry: Entry) -> str:
    """The software with its release, which may be that of the page's launch scripts."""
    return entry.software if words.version(entry.software) else released(entry.software, entry.source)


def recipe_group(name: str) -> str:
    """Formats that share a calibration: all of eight bits, all of four."""
    return PRECISIONS[name].compute


def job_of(entry: Entry, assume: Assumptions) -> Job:
    """Read the job. Raises NotStated."""
    model, hardware = model_named(entry.model), hardware_named(entry.hardware)
    stack = words.stack(entry.software, entry.source)
    stack = stack or ("deepseek" if hardware.name == "h800" else "unknown")
    text = f"{entry.parallelism} {entry.batch}"
    recipe = RECIPES.get((model.name, hardware.name)) if not entry.parallelism else None
    if recipe:
        assume.note(f"as its public recipe: {recipe}")
    said = degrees(recipe or entry.parallelism)
    devices = entry.devices or (words.labelled(recipe, "gpus") if recipe else None)
    if devices is None:
        raise NotStated("states no number of devices")
    known = RECIPES.get((model.name, hardware.name), "") if recipe or stack == "deepseek" else ""
    recipe_batch = words.labelled(known, "gbs") if devices == words.labelled(known, "gpus") else None
    per_device = words.labelled(text, "per_device_batch(?:_size)?", "batch per device", "pdbs")
    batch = words.labelled(entry.batch, "gbs", "global batch(?: size)?")
    batch = batch or (per_device * devices if per_device else None) or recipe_batch
    each = PER_DEVICE_OF.get(model.name, PER_DEVICE)
    batch = int(assume.take(batch, each * devices, "sequences a step:"))
    sequence = words.count(entry.input_len)
    lower = f"{entry.model} {entry.note} {entry.parallelism} {entry.metric}".lower()
    return Job(
        model=model,
        hardware=hardware,
        stack=stack,
        devices=devices,
        degrees=said,
        format=format_of(entry, hardware, stack, assume),
        global_batch=batch,
        microbatch=words.labelled(entry.batch, "mbs", "micro ?batch(?: size)?") or 1,
        sequence=int(assume.take(sequence, SEQUENCE, "tokens a sequence:")),
        dropped=drops(stack, words.version(software_of(entry)), lower),
        balanced=stack in BENCHMARKED
        or occurs(r"\bbalanced|random|token-?drop|capacity|dropped", lower.replace("dropless", "")),
        mtp=not occurs(r"w/o mtp|without mtp|no mtp", lower) and stack in ("megatron", "deepseek"),
        released=words.version(software_of(entry)),
    )


def format_of(entry: Entry, hardware: Hardware, stack: str, assume: Assumptions) -> str:
    """The format of the products. FP8 of no granularity: 128x128 blocks at DeepSeek, one scale a tensor elsewhere."""
    stated = formats(entry.precision).weights
    found = str(assume.take(stated, FORMATS.get(stack, "bf16"), "products in"))
    found = {"fp8_any": "fp8_block" if stack == "deepseek" else "fp8", "fp4": "nvfp4"}.get(found, found)
    if PRECISIONS[found].compute not in hardware.device.peak:
        assume.note(f"{hardware.name} has no {found} units: products in BF16")
        return "bf16"
    return found


def document_of_job(job: Job, assume: Assumptions) -> dict[str, object]:
    """The scenario of a job. Raises NotStated where the degrees cannot be."""
    said, model = job.degrees, job.model
    tp, pp, cp = said.tp or 1, said.pp or 1, said.cp or 1
    if job.devices % (tp * pp * cp):
        raise NotStated(f"TP{tp} × PP{pp} × CP{cp} does not divide {job.devices} devices")
    job = _fewer_replicas(job, tp * pp * cp, assume)
    stage = job.devices // pp
    experts = model.layers[model.moe_layers[0]].experts if model.moe_layers else None
    expert_tp = said.etp or 1
    tpu = job.hardware.device.kind == "tpu"
    sharded = said.fsdp or job.stack == "maxtext" or tpu
    ep = said.ep or 1
    if said.ep is None and experts and not said.fsdp and job.stack != "maxtext":
        limit = stage if tpu else domain(job.hardware)
        ep = int(assume.take(None, _widest(experts.routed, stage // expert_tp, limit), "EP"))
    if sharded:
        assume.note("weights sharded over all data-parallel ranks (FSDP)")
    launch = _launch(job, pp, ep)
    parallelism = {"tp": tp, "cp": cp, "pp": pp, "ep": ep, "expert_tp": expert_tp, "zero": 3 if sharded else 1}
    document: dict[str, object] = {
        "model": model.name,
        "cluster": {"hardware": job.hardware.name, "devices": job.devices},
        "parallelism": parallelism,
        "precision": _precision(job),
        "workload": {
            "kind": "training",
            "global_batch": job.global_batch,
            "microbatch": _microbatch(job, tp * pp * cp, sharded),
            "sequence": job.sequence,
            "mtp_layers": min(model.mtp_layers, 1) if job.mtp else 0,
            "windows": 1 if job.balanced else 2,
        },
        "schedule": _schedule(job, pp, launch),
        "recomputation": launch.recomputation,
        "optimizer": {"kind": "adam"},
        "routing": routing(model, balanced=job.balanced),
        "placement": {"kind": "contiguous", "slots_per_rank": -(-(experts.routed if experts else 1) // ep)},
        "network": {"fidelity": "bound", "all_to_all": _kernel(job, ep * expert_tp, launch)},
        "memory": {"reserve": 0.03},
        "graphs": launch.graphs,
        "grouped_gemm": launch.grouped_gemm,
    }
    if launch.unfused_attention:
        document["attention_kernel"] = "unfused"
    chunks = pp * (said.vp or 1)
    if len(model.layers) % chunks:
        document["stages"] = stages(len(model.layers), chunks)
    if stack := measured_stack(job.hardware, "trtllm"):
        document["software"] = stack
    return document


def _launch(job: Job, pp: int, ep: int) -> Launch:
    hybrid = any(layer.attention and layer.attention.kind == "linear" for layer in job.model.layers)
    return launch_of(
        Recipe(
            stack=job.stack,
            model=job.model.name,
            hardware=job.hardware.name,
            form=job.format,
            released=job.released,
            microbatch=job.microbatch,
            ep=ep,
            interleaved=pp > 1 and (job.degrees.vp or 1) > 1,
            hybrid=hybrid,
            dropped=job.dropped,
        )
    )


def _fewer_replicas(job: Job, model_parallel: int, assume: Assumptions) -> Job:
    """The job on at most `LARGEST` devices: replicas of one model differ in nothing but the length of their rings."""
    devices, batch = job.devices, job.global_batch
    while devices > LARGEST and devices % 2 == 0 and batch % 2 == 0 and devices // 2 >= 8 * model_parallel:
        devices, batch = devices // 2, batch // 2
    if devices < job.devices:
        assume.note(f"simulated on {devices} of {job.devices} devices, with as many fewer sequences")
    return replace(job, devices=devices, global_batch=batch)


def _precision(job: Job) -> dict[str, str]:
    found = {"experts": job.format, "dense": job.format, "dispatch": "bf16", "combine": "bf16"}
    if job.stack == "deepseek":
        found |= {"dispatch": "fp8_block", "weights": "fp8_block"}
    if job.stack == "megatron":  # grad_reduce_in_fp32 is false in all performance recipes
        found |= {"gradients": "bf16"}
    return found | {"optimizer_states": "bf16"}


def _microbatch(job: Job, model_parallel: int, sharded: bool) -> int:
    """Sequences of a microbatch; all of a device's at once under FSDP."""
    mine = job.global_batch * model_parallel // job.devices
    if sharded:
        return max(1, mine)
    return job.microbatch


def _schedule(job: Job, pp: int, launch: Launch) -> dict[str, object]:
    if job.stack == "deepseek" and pp > 1:
        return {"kind": "dualpipe"}
    virtual = job.degrees.vp or 1
    interleaved = virtual > 1 and pp > 1
    found = {"kind": "interleaved", "virtual_stages": virtual} if interleaved else {"kind": "1f1b"}
    # Megatron-Core hides exchanges in an interleaved pipeline, or in none.
    return found | ({"pairs": True} if launch.pairs and (interleaved or pp == 1) else {})


def _widest(experts: int, ranks: int, limit: int) -> int:
    """The widest expert parallelism inside a scale-up domain that divides experts and ranks."""
    return max(d for d in range(1, min(ranks, experts, limit) + 1) if experts % d == 0 and ranks % d == 0)


def _kernel(job: Job, ranks: int, launch: Launch) -> str:
    """The all-to-all kernel that a stage's experts exchange tokens by."""
    if job.hardware.device.kind == "tpu":
        return "ragged_all_to_all"
    if launch.library:
        return "nccl"
    return exchange(job.stack, job.released) if ranks > domain(job.hardware) else "nvlink_one_sided"
