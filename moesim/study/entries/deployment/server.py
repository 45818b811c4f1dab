"""What a server of a published inference figure looks like: degrees, formats and placement, stated or assumed.

Rules that hold for all entries alike, where a text does not say:

- devices: as the degrees say; of wide EP all that are stated, else 32; else the smallest power of two on which weights
  take less than half of the memory, or the devices of the entry if they fit a scale-up domain and it speaks of users;
- one server: attention data parallelism where the text speaks of wide EP, DEP or attention DP, else tensor parallelism;
- as many redundant experts as make every rank's slots whole (256 experts on 72 ranks: 288 slots), at least 32 where
  the text speaks of a load balancer (EPLB).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.hardware.precision import PRECISIONS
from moesim.model.architecture import MoEModel, require_shapes
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.study.entries.deployment import mlperf
from moesim.study.entries.deployment.checkpoints import expert_parameters, precision
from moesim.study.entries.reading import words
from moesim.study.entries.reading.case import Assumptions, NotStated
from moesim.study.entries.reading.degrees import Degrees, degrees
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.reading.formats import Formats, formats

_TRACES = {(256, 8): "deepseek-v3-miniature", (128, 8): "qwen3-miniature", (8, 2): "mixtral-miniature"}
_REDUNDANT = 32  # experts that DeepSeek and SGLang replicate
SIGMA = 0.9  # of lognormal popularity, where no capture has the geometry; see docs/serving.md
SERVER = 8  # devices of one node
WIDE = 32  # devices of a wide expert-parallel pool where nothing is stated


@lru_cache(maxsize=64)
def hardware_named(text: str) -> Hardware:
    """The profile that a product's name means. Raises NotStated."""
    name = words.hardware(text)
    if name is None:
        raise NotStated(f"hardware {text!r} is not one that moesim knows" if text else "states no hardware")
    try:
        return load_profile(name)
    except InvalidInput:
        raise NotStated(f"there is no profile of {name}") from None


@lru_cache(maxsize=64)
def model_named(text: str) -> MoEModel:
    """The catalogue's model that a name means. Raises NotStated."""
    name = words.model(text)
    if name is None:
        raise NotStated(f"model {text!r} is not in the catalogue" if text else "states no model")
    try:
        return require_shapes(load_model(name))
    except InvalidInput:
        raise NotStated(f"there is no model {name} in the catalogue") from None


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """One server: devices, attention_dp × tp = devices, ep × expert_tp = devices."""

    model: MoEModel
    hardware: Hardware
    stack: str
    devices: int
    attention_dp: int
    ep: int
    stated: Degrees
    formats: Formats
    precision: dict[str, str]
    balanced: bool
    redundant: bool

    def document(self) -> dict[str, object]:
        """The keys of a scenario that describe a deployment."""
        tp = self.devices // self.attention_dp
        experts = _experts(self.model)
        found = {
            "model": self.model.name,
            "cluster": {"hardware": self.hardware.name, "devices": self.devices},
            "parallelism": {
                "attention_dp": self.attention_dp,
                "tp": tp,
                "ep": self.ep,
                "expert_tp": self.devices // self.ep,
            },
            "precision": dict(self.precision),
            "routing": routing(self.model, balanced=self.balanced),
            "placement": placement(experts, self.ep, redundant=self.redundant),
            "overlap": {"kind": "none"},
        }
        if stack := measured_stack(self.hardware, self.stack):
            found["software"] = stack
        return found


def server_of(entry: Entry, assume: Assumptions) -> Server:
    """The server of an entry. Raises NotStated."""
    model, hardware = model_named(entry.model), hardware_named(entry.hardware)
    said = degrees(f"{entry.parallelism} {entry.metric if 'EP' in entry.metric else ''}")
    lower = f"{entry.parallelism} {entry.metric} {entry.batch} {entry.note}".lower()
    given = formats(entry.precision)
    if given.weights is None and mlperf.is_mlperf(entry):
        narrow = "fp4" if "fp4" in hardware.device.peak else "fp8_any"
        given = Formats(str(assume.take(None, narrow, "as MLPerf submissions run, weights in")), given.kv)
    stack = words.stack(entry.software, entry.source) or mlperf.stack(entry, hardware)
    devices = _devices(entry, said, lower, hardware, assume)
    if devices is None:
        policy = precision(given, model, hardware, SERVER, Assumptions(), stack)
        smallest = _smallest(model, hardware, policy)
        devices = int(assume.take(None, smallest, "devices of a server:"))
    attention_dp, ep = _split(said, devices, lower, model, assume)
    return Server(
        model=model,
        hardware=hardware,
        stack=stack,
        devices=devices,
        attention_dp=attention_dp,
        ep=ep,
        stated=said,
        formats=given,
        precision=precision(given, model, hardware, devices, assume, stack),
        # Forced balance knows no routing groups, which keep a token's experts on few nodes: a balancer stands for it.
        balanced=occurs(r"perfect (balance|eplb)|balanced routing|force", lower) and not _grouped(model),
        redundant=bool(occurs(r"eplb|redundant", lower)) or ep > SERVER,
    )


def _devices(entry: Entry, said: Degrees, text: str, hardware: Hardware, assume: Assumptions) -> int | None:
    """Devices of one server; None where nothing is said of it. text: in lower case."""
    whole = said.dep or said.tep
    if whole is None and said.tp and (said.dp or 1) > 1:
        whole = said.tp * said.dp
    if whole is None and said.ep and said.ep > 1 and said.tp is None:
        whole = max(said.ep, said.dp or 1)
    if whole is None and said.tp:
        whole = max(said.tp, said.ep or 1)
    if hardware.device.kind == "tpu" and entry.devices and whole and whole > entry.devices:
        assume.note(f"{whole} cores are {entry.devices} chips")
        whole = entry.devices
    if whole is None and occurs(r"wide[- ]?ep", text):
        whole = int(assume.take(_pool(entry, text), WIDE, "devices of a pool:"))
    if whole is None and not entry.parallelism and mlperf.is_mlperf(entry):
        return None
    if whole is None:
        return entry.devices if entry.devices and entry.devices <= domain(hardware) else None
    if entry.devices and whole > entry.devices:
        raise NotStated(f"degrees of {whole} devices, but {entry.devices} in all")
    return whole


def _pool(entry: Entry, text: str) -> int | None:
    """Devices of the prefill or decode pool that a figure of a disaggregated system is about."""
    which = "prefill" if "prefill throughput" in text else "decode"
    nodes = re.search(rf"(\d+) {which}(?: \+ \d+ decode)? nodes|(\d+) {which} nodes", text)
    count = nodes or re.search(rf"(\d+) {which}\b", text)
    if count and "nodes" in text:
        return int(next(group for group in count.groups() if group)) * SERVER
    return entry.devices


def _smallest(model: MoEModel, hardware: Hardware, formats_of: dict[str, str]) -> int:
    """The smallest power of two of devices on which weights take less than half of the memory."""
    experts, rest = expert_parameters(model)
    size = experts * PRECISIONS[formats_of["experts"]].bytes + rest * PRECISIONS[formats_of["dense"]].bytes
    devices = 1
    while size / devices > hardware.device.hbm_bytes / 2 and devices < domain(hardware):
        devices *= 2
    return devices


def domain(hardware: Hardware) -> int:
    """Devices of a scale-up domain, by the profile; of one server where its fabric has none (a torus)."""
    return int(hardware.topology.get("domain", SERVER))


def _split(said: Degrees, devices: int, lower: str, model: MoEModel, assume: Assumptions) -> tuple[int, int]:
    """(attention_dp, ep)."""
    if not model.moe_layers:
        return max(1, devices // (said.tp or devices)), 1
    wide = said.dep or said.attention_dp or occurs(r"wide ep|\bdep\d|dp\d", lower)
    if said.tp is None and said.ep and said.ep > 1:
        wide = True
    nothing = not (said.tp or said.ep or said.dep or said.tep or said.dp)
    if nothing and not wide and devices > 1:
        alone = bool(occurs(r"single-stream|min[- ]latency|tpos|tps/user", lower))
        wide = not alone
        assume.note("tensor parallelism" if alone else f"attention DP and EP over {devices} devices")
    if wide and devices > 1:
        return devices // (said.tp if said.tp and said.tp * (said.dp or 1) <= devices and said.dp else 1), devices
    ep = said.tep or said.ep or 1
    return 1, ep if devices % ep == 0 else 1


def routing(model: MoEModel, *, balanced: bool) -> dict[str, object]:
    """Balanced where it was forced; else replayed from a capture of the geometry, or lognormal."""
    experts = _experts(model)
    if balanced or experts is None:
        return {"kind": "balanced"}
    trace = _TRACES.get((experts.routed, experts.top_k))
    return {"kind": "trace", "trace": trace} if trace else {"kind": "lognormal", "sigma": SIGMA}


def placement(experts, ep: int, *, redundant: bool) -> dict[str, object]:
    """Experts in order, or with replicas of hot ones where slots have to be whole or a balancer ran."""
    routed = experts.routed if experts else ep
    slots = math.ceil((routed + (_REDUNDANT if redundant else 0)) / ep)
    kind = "replicate_hot" if redundant or routed % ep else "contiguous"
    return {"kind": kind, "slots_per_rank": slots}


def measured_stack(hardware: Hardware, stack: str) -> str | None:
    """The stack, where the profile's kernels were measured under it."""
    names = {"sglang", "vllm", "trtllm"}
    calibration = hardware.calibration
    return stack if stack in names and isinstance(calibration, dict) and calibration else None


def routed_experts_of(model: MoEModel) -> int:
    """Routed experts of a MoE layer; 0 without any."""
    experts = _experts(model)
    return experts.routed if experts is not None else 0


def _experts(model: MoEModel):
    return model.layers[model.moe_layers[0]].experts if model.moe_layers else None


def occurs(pattern: str, text: str) -> bool:
    """Whether a pattern occurs."""
    return re.search(pattern, text) is not None


def _grouped(model: MoEModel) -> bool:
    experts = _experts(model)
    return experts is not None and experts.groups > 1
