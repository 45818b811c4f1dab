"""From a published training figure to a training scenario: one step of the job, whatever the figure counts.

Rules that hold for all entries alike, where a text does not say:

- a job without degrees runs as its model's public recipe does (`RECIPES`), or, in MaxText, fully sharded (FSDP);
- 8 sequences of a step a device, microbatches of one sequence; 4,096 tokens a sequence;
- routing is balanced in figures of benchmark recipes (`recipes.BENCHMARKED`), where a note says so (forced balance,
  random routing) or tokens are dropped; else from a capture;
- everything else: `moesim.study.entries.training.document`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS
from moesim.study.entries.calibration.factors import years_ago
from moesim.study.entries.deployment.server import hardware_named, model_named, occurs
from moesim.study.entries.reading import words
from moesim.study.entries.reading.case import Assumptions, Case, NotStated
from moesim.study.entries.reading.degrees import degrees
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.reading.formats import formats
from moesim.study.entries.reading.quantity import Quantity
from moesim.study.entries.training.document import Job, document_of_job
from moesim.study.entries.training.recipes import BENCHMARKED, FORMATS, LAST_STEP, RECIPES, drops, released

SEQUENCE, PER_DEVICE = 4096, 8  # NVIDIA/dgxc-benchmarking, deepseek_v3/pretraining/launch.sh
PER_DEVICE_OF = {"grok-1": 2}  # the same, grok1: 1,024 sequences on 512 devices


def training_case(entry: Entry, quantity: Quantity) -> Case:
    """The case of an entry. Raises NotStated."""
    assume = Assumptions()
    job = job_of(entry, assume)
    if step := re.search(r"optimi[sz]ation step (\d+)", entry.metric.lower()):
        job = replace(job, released=_date_of_step(job, int(step[1]), assume))
    document = document_of_job(job, assume)
    family = "balanced" if job.balanced else "routed"
    return Case(
        entry.id,
        document,
        quantity,
        f"{job.stack} {recipe_group(job.format)}",
        (*assume.texts, f"{family} routing"),
        age=years_ago(job.released),
        devices=job.devices if quantity.per == "system" else None,
    )


def _date_of_step(job: Job, step: int, assume: Assumptions) -> float | None:
    """Date of the software at a step of a series of optimisations, which came one by one between the day that the
    product began to ship and the publication."""
    if job.released is None:
        return None
    begun = min(words.SHIPPED.get(job.hardware.name, job.released), job.released)
    assume.note(f"step {step} of {LAST_STEP} between the product's first shipping and the publication")
    return job.released - (job.released - begun) * max(LAST_STEP - step, 0) / LAST_STEP


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
