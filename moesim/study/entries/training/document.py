"""The scenario of a training job that a published figure states.

Rules that hold for all entries alike, where a text does not say:

- layers of uneven stages as Megatron's layouts put them: embedding and loss count as a layer where that divides, else
  the last stages have fewer;
- graphs, grouped products, overlap of exchanges with the other microbatch (``pairs``) and recomputation: as `launches`
  has them of the stack's recipes; where that does not fit, norms, activations and MLA's up-projections are computed
  again, then experts, then all (`lighter`);
- dispatch and combine in BF16: NCCL's where recipes take its all-to-all, else the fastest kernel that reaches:
  one-sided NVLink inside a domain, beyond it what the stack has (`recipes.exchange`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.hardware.device import Hardware
from moesim.model.architecture import MoEModel
from moesim.study.entries.deployment.server import domain, measured_stack, routing
from moesim.study.entries.reading.case import Assumptions, NotStated
from moesim.study.entries.reading.degrees import Degrees, stages
from moesim.study.entries.training.launches import Launch, Recipe, launch_of
from moesim.study.entries.training.recipes import exchange

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
