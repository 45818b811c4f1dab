"""Expert-parallel kernels as named models: one dispatch or combine of real, uneven traffic on a real network.

The network says when each rank's last byte passes its slowest link; the kernel adds its floor, the work of its SMs on
the copies that this rank sends and takes, and the share of the link rate that it reaches
(`moesim.cost.exchange_kernels`). On balanced traffic inside one domain the answer is the calibrated equation itself.
Leaving the domain costs the kernel's `remote_s` and reaches `remote_share` of the NICs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from moesim.cost.calibration import candidates
from moesim.cost.communication import library, with_protocols
from moesim.cost.exchange_kernels import EXCHANGE, share, sms, together
from moesim.cost.family import Fit, default_fit
from moesim.cost.machine import Machine
from moesim.errors import InvalidInput
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.network import collectives
from moesim.network.routes import Network
from moesim.network.transfer import Transfer

BF16 = PRECISIONS["bf16"].bytes
SCALE_UP = ("nvlink", "xgmi", "ici")  # kinds of links that kernels drive themselves; NICs drive the others


@dataclass(frozen=True, slots=True)
class Kernel:
    """One dispatch-and-combine implementation.

    level: at which tokens are copied, see `moesim.placement.traffic`. tables: stacks whose measurements are of it, as
    parts of the tables' ``software``, the best first. sms: SMs that run it (0: its own rule). occupied: SMs that
    compute beside it cannot have; None = those that run it. remote_s, remote_share: what leaving the scale-up domain
    adds to the floor, and the share of the NIC rate that it reaches. staged: whether copies pass a buffer in HBM on
    arrival. hooks: whether it can be cut into a sending and a receiving part. sorts: whether it hands tokens over as
    grouped products take them, expert by expert or with counts (`moesim.cost.experts_grouped`). buffers: how it
    allocates, see `moesim.cost.exchange_memory`. laid_out: whether the sender must lay out a copy for every expert
    before, and add the copies up afterwards. defaults: parameters where nothing was measured.
    """

    level: str
    tables: tuple[str, ...] = ()
    sms: int = 0
    occupied: int | None = None
    remote_s: float = 0.0
    remote_share: float = 0.9
    staged: bool = True
    runs_on: str = "gpu"
    within: bool = False
    hooks: bool = False
    sorts: bool = False
    laid_out: bool = False
    buffers: str = "peak"
    defaults: Mapping[str, float] = field(default_factory=dict)


# remote_s and remote_share of the low-latency kernels: a line through DeepEP's published times on H800 with one 400
# Gb/s NIC a GPU, EP16 to EP256 at 128 tokens (README): dispatch 37 µs + bytes / (0.93 x 50 GB/s), of which 9 µs are the
# floor inside a node. Normal kernels: 43-58 GB/s of 50 GB/s at 4,096 tokens (same README) and about twice the
# synchronisations. NCCL: its base latency across nodes, 14 µs (src/graph/tuning.cc), on the SMs of 16 channels.
# occupied 0: receiving by hooks takes no SM (README). Hybrid: DeepEP V2, 12 SMs for 2 x 8 ranks (README). The TPU's
# collective is driven by DMA engines and reaches 9e10 of 1e11 B/s a link ("How to Scale Your Model", chapter 2); its
# floors are assumed, nobody published one. One-sided kernels on other NVLink domains: as fitted on GB200, per SM and as
# a share of the domain's own links (`moesim.cost.exchange_kernels`).
KERNELS: dict[str, Kernel] = {
    "nccl": Kernel("expert", remote_s=14e-6, sms=16, laid_out=True),
    "deepep_normal": Kernel(
        "node", ("deepep normal", "deepep_ht"), sms=20, remote_s=60e-6, remote_share=0.93, sorts=True
    ),
    "deepep_low_latency": Kernel(
        "expert", ("deepep low-latency", "deepep_ll"), occupied=0, remote_s=28e-6, remote_share=0.93, staged=False,
        hooks=True, sorts=True, buffers="low_latency",
    ),
    "deepep_hybrid": Kernel("node", ("deepep normal",), sms=12, remote_s=30e-6, remote_share=0.93, sorts=True),
    "nvlink_one_sided": Kernel(
        "rank", ("NVLinkOneSided",), occupied=0, staged=False, within=True, buffers="every_source",
        defaults={"t0": 1.1e-5, "t_1": 5.7e-6, "r_s": 31e9, "r_w": 30e9, "m": 4.8e-8, "e_L": 0.72},
    ),
    "nvlink_two_sided": Kernel("rank", ("NVLinkTwoSided",), occupied=20, within=True),
    "ragged_all_to_all": Kernel(
        "expert", occupied=0, staged=False, remote_share=0.9, runs_on="tpu", laid_out=True,
        defaults={"t0": 5e-6, "t_1": 1e-6, "r_s": 1e12, "r_w": 1e13, "m": 1e-9, "e_L": 0.9},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """A priced dispatch or combine. transfer: for the engine, one entry a member.

    occupied: SMs taken from compute beside it. hbm_bytes: [members] read and written in HBM. interval: factors on the
    time that hold 80 % of measurements. source: the measured kernel that priced it, or ``defaults``. packed_bytes: of
    kernels with hooks, [members] bytes that its sending and its receiving part stream through HBM.
    """

    transfer: Transfer
    occupied: int
    hbm_bytes: np.ndarray
    interval: tuple[float, float]
    source: str
    packed_bytes: tuple[np.ndarray, np.ndarray] | None = None

    def compute_share(self, machine: Machine) -> float:
        """Share of its speed that compute beside the exchange loses: the larger one of SMs and HBM bandwidth."""
        device = machine.device
        rate = np.max(self.hbm_bytes / np.maximum(self.transfer.alone_s, 1e-12), initial=0.0)
        memory = rate / device.hbm_bytes_per_s
        return float(min(max(self.occupied / device.cores, memory), 0.95))


def exchange(
    machine: Machine,
    network: Network,
    ranks: np.ndarray,
    copies: np.ndarray,
    *,
    kernel: str,
    phase: str,
    tokens: np.ndarray,
    hidden: int,
    experts: int,
    precision: Precision,
    fidelity: str = "coflow",
) -> Exchange:
    """Price one dispatch or combine.

    ranks: [members] or [groups, members] global ranks. copies: [source, destination] (one matrix a group) token copies
    that this phase sends, those to oneself on the diagonal; for combine the transpose of dispatch's. phase:
    ``dispatch`` or ``combine``. tokens: [members] tokens that each member owns. experts: routed experts of the layer.
    precision: of a token on the wire. Raises InvalidInput for an unknown kernel, and as the network does.
    """
    if kernel not in KERNELS:
        raise InvalidInput(f"all-to-all kernel {kernel!r} is unknown; write one of {', '.join(KERNELS)}")
    ranks, copies = np.atleast_2d(ranks), np.asarray(copies, dtype=float)
    copies = copies.reshape(*ranks.shape, ranks.shape[1])
    model = KERNELS[kernel]
    message = hidden * precision.bytes
    leaves = (network.domain[ranks] != network.domain[ranks][:, :1]).any(axis=1)
    check_kernel(kernel, machine.device, bool(leaves.any()))
    remote = model.remote_s * np.repeat(leaves, ranks.shape[1])
    sent, taken = copies.sum(axis=2).ravel(), copies.sum(axis=1).ravel()
    if kernel == "nccl":
        return _by_library(machine, network, ranks, copies * message, model, phase, precision, fidelity, remote)
    fit = fit_of(machine, model, phase, precision)
    rows = {
        "ranks": np.full(ranks.size, ranks.shape[1]), "tokens_per_rank": np.ravel(tokens), "hidden_size": hidden,
        "experts": experts, "sms": model.sms, "software": fit.key.get("software") or " ".join(model.tables),
    }  # fmt: skip
    part = share(machine.device, rows, fit.parameters, fit.choices, sent=sent, taken=taken, message=message)
    reached = np.full(network.capacity.size, model.remote_share)
    of_kind = network.links.of_kind
    for kind in [kind for kind in SCALE_UP if kind in of_kind] or ["pcie"]:
        reached[of_kind.get(kind, [])] = part.link
    slower = network.reaching(reached)
    traffic = copies * message
    transfer = collectives.all_to_all(slower, ranks, traffic, fidelity=fidelity, name=phase)
    near = network.nearest_latency(ranks)
    landing = taken * (2 if model.staged else 1)
    return Exchange(
        transfer=with_work(transfer, part.work_s, part.floor_s + remote - near),
        occupied=int(sms(machine.device, rows).max()) if model.occupied is None else model.occupied,
        hbm_bytes=message * (np.ravel(tokens) + sent + landing),
        interval=fit.interval,
        source=" ".join(fit.key.values()) or "defaults",
        packed_bytes=_packed(phase, np.ravel(tokens) * hidden * BF16, sent, taken, message) if model.hooks else None,
    )


def _packed(
    phase: str, own: np.ndarray, sent: np.ndarray, taken: np.ndarray, message: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes that sending and receiving stream. own: [members] bytes of a rank's own tokens in BF16.

    Dispatch casts each token once and sends it from there; arrived copies are laid out expert by expert. Combine copies
    each expert's output to its send buffer; a token's copies are read and their sum written (DeepEP,
    internode_ll.cu).
    """
    if phase == "dispatch":
        return own * 2, 2 * taken * message
    return 2 * sent * message, taken * message + own


def check_kernel(kernel: str, device: Device, crosses: bool) -> None:
    """Refuse, as InvalidInput, a kernel that does not run on the device or cannot leave its scale-up domain.

    crosses: whether the ranks stand in several domains.
    """
    model = KERNELS[kernel]
    if device.kind != model.runs_on:
        fitting = ", ".join(name for name, other in KERNELS.items() if other.runs_on == device.kind) or "none"
        raise InvalidInput(f"all-to-all kernel {kernel} does not run on {device.name}; write one of {fitting}")
    if model.within and crosses:
        raise InvalidInput(f"all-to-all kernel {kernel} cannot leave an NVLink domain; write deepep_normal or nccl")


def _by_library(
    machine: Machine,
    network: Network,
    ranks: np.ndarray,
    traffic: np.ndarray,
    model: Kernel,
    phase: str,
    precision: Precision,
    fidelity: str,
    remote_s: np.ndarray,
) -> Exchange:
    """NCCL's all-to-all: grouped sends and receives, priced by the library's protocols."""
    plain = collectives.all_to_all(network, ranks, traffic, fidelity=fidelity, name=phase)
    largest = float(max(traffic.sum(axis=2).max(initial=0.0), traffic.sum(axis=1).max(initial=0.0)))
    transfer = with_protocols(machine, network, plain, "all_to_all", ranks, largest, precision)
    fit = library(machine, "all_to_all")
    return Exchange(
        transfer=replace(transfer, latency_s=transfer.latency_s + remote_s),
        occupied=model.sms,
        hbm_bytes=(traffic.sum(axis=2) + 2 * traffic.sum(axis=1)).ravel(),
        interval=fit.interval,
        source=" ".join(fit.key.values()) or "defaults",
    )


def with_work(transfer: Transfer, work_s: np.ndarray, floor_s: np.ndarray) -> Transfer:
    """A transfer whose members also work for work_s [members] while bytes move, after floor_s [members]."""
    seconds = together(transfer.arrived * transfer.wire_s, work_s)
    wire = float(seconds.max(initial=0.0))
    return replace(
        transfer,
        wire_s=wire,
        arrived=np.minimum(seconds / wire, 1.0) if wire > 0 else np.zeros_like(seconds),
        latency_s=np.maximum(transfer.latency_s + floor_s, 0.0),
    )


def fit_of(machine: Machine, kernel: Kernel, phase: str, precision: Precision) -> Fit:
    """The calibrated parameters of a kernel on a machine: of the stack that runs, else of the best table of the kernel.

    vLLM's tables were taken with the host launching each call; where graphs are replayed they come last.
    """
    fits = machine.fits.get(EXCHANGE.name, ())
    stack = (machine.software or "").split(" ")[0]

    def order(fit: Fit) -> tuple:
        software = fit.key.get("software", "")
        table = next(i for i, name in enumerate(kernel.tables) if name in software)
        launched = machine.graphs and "vllm" in software
        return (launched, not (stack and stack in software), table)

    known = [fit for fit in fits if any(name in fit.key.get("software", "") for name in kernel.tables)]
    if not known:  # generic starts and the wide interval of something nobody measured; other kernels are no guide
        plain = default_fit(EXCHANGE)
        return replace(plain, parameters=dict(plain.parameters) | dict(kernel.defaults))
    best = min(order(fit) for fit in known)
    known = [fit for fit in known if order(fit) == best]
    return candidates(tuple(known), {"phase": phase, "dtype": precision.name})[0]
