"""Expert-parallel dispatch and combine kernels: what they add to the bytes on the links.

R ranks hold T tokens each of h elements, b bytes an element on the wire. A token is copied to d ranks, S SMs do the
work, and NV is the device's scale-up rate (bytes/s, one way):

    copies = d·T              d: ``random`` ranks hit by k of E experts spread evenly, R·(1 − C(E−E/R, k)/C(E, k));
                              ``balanced`` min(R, k); ``experts`` k
    link   = copies·h·b·(R−1)/R / (NV·e_L)
    send   = copies·(h·b/r_s + m) / S                        one warp group a message: fixed work m, then its bytes
    take   = (T·h·b/r_w + 0.4·copies·(h·b/r_s + m)) / S       token by token: cast or reduce it, and handle its copies
    t      = t0 + t_1·size + (link^4 + max-like(send, take)^4)^(1/4)

    size: ``hidden`` h/4096, one token's way through one warp; ``experts`` E/256, counters to exchange; ``ranks``
    log2(R)/3, rounds of synchronisation. max-like(x, y) = (x^8 + y^8)^(1/8).

S is what the table says; else one SM an expert for low-latency kernels (so 8 experts keep 8 SMs busy), every SM for
one-sided NVLink writes, and 20 (the default of DeepEP's normal kernels) for the rest. ``prepare`` moves 8 bytes a copy.

Source: the form follows DeepEP's and TensorRT-LLM's kernels (their sources and READMEs); fitted to times measured by
NVIDIA, published with AIConfigurator 0.12.0 (Apache-2.0): 23,436 rows, 2 to 64 ranks, 1 to 131,072 tokens a rank. Known
error with (ranks, shape) groups held out: median 5.3 %, P90 14 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moesim.cost.family import Family, Parameter, Rows
from moesim.errors import InvalidInput
from moesim.hardware.device import Device

NORMAL_SMS = 20  # DeepEP README: Buffer.num_sms of normal kernels
TAKE_SHARE = 0.4  # work per copy on the taking side relative to the sending side; fitted once on DeepEP's SM sweeps
PREPARE_BYTES = 8.0  # index and weight of a copy
LINK_POWER, ROLE_POWER = 4.0, 8.0

# Bytes an element takes on the wire. FP8 carries an FP32 scale for 128 elements, NVFP4 an FP8 scale for 16. ``default``
# of vLLM's tables is what the stack sends, which its source gives as FP8 for dispatch.
_DISPATCH_BYTES = {"bfloat16": 2.0, "fp8": 1.03125, "fp8_block": 1.03125, "nvfp4": 0.5625, "fp4": 0.5625}
_NARROW_COMBINE_BYTES = {"fp4": 0.5625}


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What a kernel adds on one rank, all in seconds [rows]: floor, and work of its SMs. link: reached link share."""

    floor_s: np.ndarray
    work_s: np.ndarray
    link: float


def wire_bytes(phase: str, dtype: str) -> float:
    """Bytes an element of a token takes on the wire. dtype: as in the tables. Combine is BF16 unless it says narrow."""
    if phase == "combine_low_precision":
        return 1.0
    if phase == "combine":
        return _NARROW_COMBINE_BYTES.get(dtype, 2.0)
    return _DISPATCH_BYTES.get(dtype, 1.03125)


def random_copies(ranks: np.ndarray, top_k: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """Expected number of ranks that hold one of k experts drawn without repetition; experts spread evenly."""
    from scipy.special import gammaln

    def log_choose(n: np.ndarray) -> np.ndarray:
        return gammaln(n + 1) - gammaln(np.maximum(n - top_k, 0) + 1)

    elsewhere = experts - experts / ranks
    missed = np.where(elsewhere >= top_k, np.exp(log_choose(elsewhere) - log_choose(experts)), 0.0)
    return ranks * (1 - missed)


def share(
    device: Device,
    rows: Rows,
    parameters: Mapping[str, float],
    choices: Mapping[str, object],
    *,
    sent: np.ndarray,
    taken: np.ndarray,
    message: np.ndarray,
) -> Share:
    """The parts of the equation for given copies [rows]: those that a rank sends and takes, each of `message` bytes."""
    p = parameters
    tokens, hidden, experts, ranks = (_column(rows, c) for c in ("tokens_per_rank", "hidden_size", "experts", "ranks"))
    size = {"hidden": hidden / 4096, "experts": experts / 256, "ranks": np.log2(np.maximum(ranks, 1)) / 3}
    copy_s = message / p["r_s"] + p["m"]
    workers = sms(device, rows)
    send = sent * copy_s / workers
    take = (tokens * message / p["r_w"] + TAKE_SHARE * taken * copy_s) / workers
    work = (send**ROLE_POWER + take**ROLE_POWER) ** (1 / ROLE_POWER)
    return Share(p["t0"] + p["t_1"] * size[choices["floor"]], work, p["e_L"])


def together(link_s: np.ndarray, work_s: np.ndarray) -> np.ndarray:
    """Seconds in which links and SMs get done when each waits for the other now and then."""
    return (link_s**LINK_POWER + work_s**LINK_POWER) ** (1 / LINK_POWER)


def sms(device: Device, rows: Rows) -> np.ndarray:
    """SMs that run the kernel [rows]: the column ``sms``, or what the kernel takes by itself where that is 0."""
    given, experts = _column(rows, "sms"), _column(rows, "experts")
    software = str(np.asarray(rows["software"]).reshape(-1)[0])
    if "low-latency" in software or "_ll" in software:
        own = np.minimum(experts, device.cores)
    elif "OneSided" in software:
        own = np.full_like(experts, device.cores)
    else:
        own = np.full_like(experts, NORMAL_SMS)
    return np.where(given > 0, given, own)


def prepare(device: Device, rows: Rows) -> Rows:
    """The rows with what does not depend on parameters: ``random`` copies and ``message`` bytes."""
    top_k, experts, ranks = (_column(rows, c) for c in ("top_k", "experts", "ranks"))
    phase, dtype = (str(np.asarray(rows[c]).reshape(-1)[0]) for c in ("phase", "dtype"))
    message = _column(rows, "hidden_size") * wire_bytes(phase, dtype)
    if phase == "prepare":
        message = PREPARE_BYTES * np.ones_like(top_k)
    return dict(rows) | {"random": random_copies(ranks, top_k, experts), "message": message}


def predict(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]) -> np.ndarray:
    """[rows] seconds of a balanced exchange by the equation at the top."""
    top_k, ranks = _column(rows, "top_k"), _column(rows, "ranks")
    a_token = {"random": rows["random"], "balanced": np.minimum(ranks, top_k), "experts": top_k}[choices["copies"]]
    copies, message = _column(rows, "tokens_per_rank") * a_token, rows["message"]
    part = share(device, rows, parameters, choices, sent=copies, taken=copies, message=message)
    link = copies * message * (ranks - 1) / ranks / (_scale_up(device) * part.link)
    return part.floor_s + together(link, part.work_s)


def bounds(device: Device, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(memory_s, compute_s) [rows]: bytes that must cross the links at datasheet rate; no FLOPs.

    Each token goes once to every rank that holds one of its experts. Where the wire format is not documented the
    narrowest known one counts.
    """
    rows = rows if "random" in rows else prepare(device, rows)
    known = str(np.asarray(rows["dtype"]).reshape(-1)[0]) != "default"
    ranks = _column(rows, "ranks")
    crossing = _column(rows, "tokens_per_rank") * rows["random"] * (ranks - 1) / ranks * rows["message"]
    link = crossing * (1.0 if known else 0.5) / _scale_up(device)
    return link, np.zeros_like(link)


def _column(rows: Rows, name: str) -> np.ndarray:
    return np.asarray(rows[name], dtype=float)


def _scale_up(device: Device) -> float:
    if not device.scale_up_bytes_per_s:
        raise InvalidInput(f"{device.name} has no scale-up links; expert-parallel kernels need their rate")
    return device.scale_up_bytes_per_s


# Starts: DeepEP's normal kernels on H100 and H200 (r_s, e_L), its low-latency floors (t0), orders of magnitude else.
EXCHANGE = Family(
    name="exchange",
    columns=(
        "hardware", "software", "phase", "dtype", "ranks", "tokens_per_rank", "hidden_size", "top_k", "experts", "sms",
    ),
    shape=("ranks", "hidden_size", "top_k", "experts"),
    size="tokens_per_rank",
    numeric=("ranks", "tokens_per_rank", "hidden_size", "top_k", "experts"),
    parameters={
        "t0": Parameter(25e-6, 1e-6, 5e-4, "s", "launch, synchronisation and first bytes", spread=2),
        "t_1": Parameter(2e-6, 1e-8, 3e-4, "s", "growth of the floor with its size", spread=2),
        "r_s": Parameter(30e9, 1e9, 1e12, "B/s per SM", "bytes that one SM sends", spread=1),
        "r_w": Parameter(30e9, 1e9, 1e13, "B/s per SM", "bytes of tokens that one SM casts or reduces", spread=1),
        "m": Parameter(50e-9, 1e-10, 2e-6, "s per SM", "fixed work of one message", spread=1.5),
        "e_L": Parameter(0.75, 0.1, 1.0, "", "reached share of the scale-up rate", spread=0.3),
    },
    predict=predict,
    bounds=bounds,
    choices={"floor": ("hidden", "experts", "ranks"), "copies": ("random", "balanced", "experts")},
    group=("hardware", "software", "phase", "dtype"),
    prepare=prepare,
)  # fmt: skip
