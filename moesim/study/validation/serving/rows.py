"""From a row of a serving table to a server: what is recorded, and what has to be assumed, stated in one place.

Recorded: model, hardware, software, precision, lengths, concurrency, GPUs, expert and attention parallelism, client.
Not recorded, and assumed by stack (`moesim.serving.policy.PRESETS`) or by these rules for all rows:

- formats: see `_FORMATS`; KV cache in FP8 on chips with FP4 units unless everything is BF16, else BF16;
- vLLM under InferenceX has a token budget of twice the prompt, at least 2048, as its newer scripts set;
- SGLang under InferenceX looks for requests every 10 decode steps (under 16 in flight) or 30, as its scripts set;
- TensorRT-LLM takes prompts whole, so that its token budget holds at least one prompt and all decoding requests;
- InferenceX draws lengths evenly from 0.8-1.0 of the nominal one, other clients send nearly fixed ones; 10 requests for
  each in flight; prefix caching off, as the prompts are random;
- routing without a trace: lognormal popularity of experts (`moesim.serving.loads`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from moesim.cost.calibration import machine_for
from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.hardware.fabrics.build import build_cluster
from moesim.hardware.precision import PRECISIONS
from moesim.model.architecture import MoEModel, require_shapes
from moesim.model.parallelism import Parallelism
from moesim.network.routes import build_network
from moesim.placement.policies import POLICIES
from moesim.serving.policy import PRESETS, Policy
from moesim.serving.requests import Requests, closed_loop
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.workload.deployment import Deployment, PrecisionPolicy

COLUMNS = (
    "hardware", "model", "software", "precision", "input_len", "output_len", "concurrency", "gpus", "ep",
    "attention_dp", "client",
)  # fmt: skip
REQUESTS_PER_SLOT = 10  # InferenceX sends ten times as many requests as are in flight
_INFERENCEX_SPREAD, _OTHER_SPREAD = 0.8, 0.98
_SEED = 1
_REFERENCE = pd.Timestamp("2026-04-01", tz="UTC")  # most runs that constants are fitted to are from around then

# precision of a run -> (experts, dense). Published FP4 checkpoints quantise the experts alone (nvidia/DeepSeek-R1-FP4,
# MiniMax and gpt-oss likewise); FP8 ones have 128x128 blocks in all matrices; INT4 ones (Kimi-K2) the experts.
_FORMATS = {
    "bf16": ("bf16", "bf16"),
    "fp8": ("fp8_block", "fp8_block"),
    "fp4": ("nvfp4", "bf16"),
    "int4": ("int4", "bf16"),
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The part of a row that decides a deployment."""

    hardware: str
    model: str
    software: str
    precision: str
    gpus: int
    ep: int
    attention_dp: int


@dataclass(frozen=True, slots=True)
class ServingRow:
    """One row: a configuration and its load. client: ``inferencex`` or another. age: years from the day of the run to
    2026-04, 0 where the day is not recorded. image: of the server's container, empty where it is not recorded."""

    configuration: Configuration
    input_len: int
    output_len: int
    concurrency: int
    client: str
    age: float = 0.0
    image: str = ""


def read_row(row: Mapping[str, object]) -> ServingRow:
    """A row of a table. Raises InvalidInput naming every column that cannot be used."""
    problems: list[Problem] = []

    def count(column: str, missing: int | None = None) -> int:
        value = row.get(column)
        number = np.nan if value is None else float(value)
        if np.isnan(number) and missing is not None:
            return missing
        if not (np.isfinite(number) and number >= 1 and number == int(number)):
            problems.append(Problem(f"{value} is no whole number from 1 on", column))
            return 1
        return int(number)

    precision = str(row.get("precision"))
    if precision not in _FORMATS:
        problems.append(Problem(f"{precision!r} is unknown; write one of {', '.join(_FORMATS)}", "precision"))
    sizes = {c: count(c) for c in ("input_len", "output_len", "concurrency", "gpus")}
    sizes |= {c: count(c, missing=1) for c in ("ep", "attention_dp")}
    if problems:
        raise InvalidInput(problems)
    names = [str(row.get(c)) for c in ("hardware", "model", "software")]
    configuration = Configuration(*names, precision, sizes["gpus"], sizes["ep"], sizes["attention_dp"])
    client = str(row.get("client") or "other")
    lengths = (sizes["input_len"], sizes["output_len"], sizes["concurrency"])
    image = row.get("image")
    return ServingRow(
        configuration, *lengths, client, age(row.get("measured")), image if isinstance(image, str) else ""
    )


def age(measured: object) -> float:
    """Years from a date to `_REFERENCE`, within -0.5 … 1; 0 where it is no date."""
    date = pd.to_datetime(str(measured), errors="coerce", utc=True)
    years = (_REFERENCE - date).days / 365.25 if date is not pd.NaT else 0.0
    return float(np.clip(years, -0.5, 1.0))


def stack_of(software: str) -> str:
    """The preset of a stack's name: ``vllm``, ``sglang`` or ``trtllm``; vLLM's for an unknown one."""
    name = software.lower().replace("-", "").replace("_", "")
    if "sglang" in name:
        return "sglang"
    return "trtllm" if "trt" in name or "tensorrt" in name else "vllm"


@lru_cache(maxsize=64)
def profile(name: str) -> Hardware:
    """A hardware profile, read once."""
    return load_profile(name)


@lru_cache(maxsize=64)
def model(name: str) -> MoEModel:
    """A model whose shapes are known, read once."""
    return require_shapes(load_model(name))


def deployment(configuration: Configuration) -> Deployment:
    """The server of a row. Raises InvalidInput where its degrees do not fit each other or the model."""
    c = configuration
    hardware, architecture = profile(c.hardware), model(c.model)
    if c.gpus % c.attention_dp:
        raise InvalidInput(Problem(f"{c.attention_dp} does not divide {c.gpus} GPUs", "attention_dp"))
    # With data-parallel attention experts are spread over all GPUs; a table that says ep 1 then means "not stated".
    ep = c.gpus if c.attention_dp > 1 else c.ep
    if c.gpus % ep:
        raise InvalidInput(Problem(f"{ep} does not divide {c.gpus} GPUs", "ep"))
    parallelism = Parallelism(c.gpus, c.attention_dp, c.gpus // c.attention_dp, ep, c.gpus // ep)
    cluster = build_cluster(hardware, c.gpus)
    experts = architecture.layers[architecture.moe_layers[0]].experts if architecture.moe_layers else None
    placement = None
    if experts is not None:
        if experts.routed % ep:
            raise InvalidInput(Problem(f"{ep} does not divide {experts.routed} experts", "ep"))
        even = np.ones((len(architecture.moe_layers), experts.routed))
        placement = POLICIES["contiguous"](even, ep, slots_per_rank=experts.routed // ep)
    return Deployment(
        model=architecture,
        cluster=cluster,
        network=build_network(cluster),
        machine=machine_for(hardware, c.software, profile),
        parallelism=parallelism,
        precision=formats(c.precision, architecture, hardware),
        kernel="nccl",
        placement=placement,
        fidelity="bound",
    )


def formats(precision: str, architecture: MoEModel, hardware: Hardware) -> PrecisionPolicy:
    """The formats of a run, by the rules at the top."""
    experts, dense = _FORMATS[precision]
    fp4_units = "fp4" in hardware.device.peak
    activations = "bf16" if experts in ("int4", "bf16") else experts
    if precision == "fp4" and architecture.native_experts.startswith("mxfp4"):
        experts, activations = "mxfp4", "mxfp8" if fp4_units else "bf16"
    elif precision == "fp4" and not fp4_units:
        activations = "bf16"  # weight-only kernels where the chip cannot multiply FP4
    kv = "fp8" if fp4_units and precision != "bf16" else "bf16"
    names = (experts, dense, activations, dense, "bf16", "bf16", kv)
    return PrecisionPolicy(*(PRECISIONS[name] for name in names))


def policy(row: ServingRow) -> Policy:
    """The server's limits, by the rules at the top."""
    stack = stack_of(row.configuration.software)
    rules = replace(PRESETS[stack], prefix_caching=False)
    if stack == "vllm" and row.client == "inferencex":
        return replace(rules, token_budget=max(2048, 2 * row.input_len))
    if stack == "sglang" and row.client == "inferencex":
        return replace(rules, poll_interval=10 if row.concurrency < 16 else 30)
    if stack == "trtllm":
        whole = -(-(row.concurrency + row.input_len + 64) // 64) * 64
        return replace(rules, token_budget=max(rules.token_budget, whole))
    return rules


def load(row: ServingRow) -> Requests:
    """The client's requests: ten for each in flight, all first ones at once."""
    rng = np.random.default_rng(_SEED)
    count = REQUESTS_PER_SLOT * row.concurrency
    spread = _INFERENCEX_SPREAD if row.client == "inferencex" else _OTHER_SPREAD
    lengths = [
        rng.integers(max(1, int(spread * nominal)), nominal, size=count, endpoint=True)
        for nominal in (row.input_len, row.output_len)
    ]
    return closed_loop(*lengths, row.concurrency)
