"""The hardware profile: one YAML file a product, each figure with its source in a comment beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Device, Hardware, Host, MemoryTier, scale_up_rate
from moesim.spec.hardware.fabric import Topology
from moesim.spec.reading import library
from moesim.spec.reading.complaints import Wrong
from moesim.spec.reading.loading import Spec, load
from moesim.spec.reading.quantities import Bytes, BytesPerSecond, FlopsPerSecond, Seconds, UsdPerHour, Watts


class HbmSpec(Spec):
    """Memory of the device (SRAM on a wafer)."""

    capacity: Bytes
    bandwidth: BytesPerSecond


class DeviceSpec(Spec):
    """One accelerator. peak: dense, by compute format. cores: SMs, CUs, MXUs or threads. cache: last level.

    matrix_unit: rows and columns of an MXU, to which a TPU pads products.
    """

    kind: Literal["gpu", "tpu", "wafer", "cpu"]
    peak: Annotated[dict[Literal["fp32", "bf16", "fp8", "fp4", "int8"], FlopsPerSecond], Field(min_length=1)]
    hbm: HbmSpec
    cores: Annotated[int, Field(ge=1)]
    cache: Bytes | None = None
    matrix_unit: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _a_tpu_has_matrix_units(self) -> DeviceSpec:
        if (self.kind == "tpu") != (self.matrix_unit is not None):
            raise Wrong(
                ("matrix_unit", "a TPU states rows and columns of its matrix unit, such as 128; no other chip does")
            )
        return self


class HostSpec(Spec):
    """Host memory per device and one device's link to it, one way.

    launch: by software stack, the time that one eager operator takes; calibrations count a kernel's launches in it.
    """

    memory: Bytes | None = None
    bandwidth: BytesPerSecond | None = None
    link: BytesPerSecond | None = None
    launch: dict[str, Seconds] = Field(default_factory=dict)


class MemoryTierSpec(Spec):
    """Memory behind HBM that expert weights can be offloaded to, shared by `devices` devices.

    capacity: of all of it. bandwidth: what one device reads, one way. shared_bandwidth: what all devices read together.
    latency: from asking for a copy to its first byte. A tier that is used needs capacity, bandwidth and latency.
    """

    capacity: Bytes | None = None
    bandwidth: BytesPerSecond | None = None
    latency: Seconds | None = None
    devices: Annotated[int, Field(ge=1)] = 1
    shared_bandwidth: BytesPerSecond | None = None

    def tier(self, name: str) -> MemoryTier:
        """The value of the floors below."""
        return MemoryTier(name, self.capacity, self.bandwidth, self.latency, self.devices, self.shared_bandwidth)


class PowerSpec(Spec):
    """chip: of one device. all_in: with its share of host, cooling and network."""

    chip: Watts | None = None
    all_in: Watts | None = None


class Profile(Spec):
    """A hardware profile. price: rent of one device. memory_tiers: by name, e.g. host, nvme, cxl.
    unverified: keys whose figure nobody has read in a source.

    calibration: ``none``, ``{like: NAME}`` of a sibling, or the fits that ``moesim calibrate`` writes.
    """

    title: str
    device: DeviceSpec
    host: HostSpec = HostSpec()
    memory_tiers: dict[str, MemoryTierSpec] = Field(default_factory=dict)
    topology: Topology
    power: PowerSpec = PowerSpec()
    price: UsdPerHour | None = None
    calibration: Literal["none"] | dict[str, object] = "none"
    unverified: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _unverified_keys_exist(self) -> Profile:
        absent = [i for i, key in enumerate(self.unverified) if not _has(self, key)]
        if absent:
            raise Wrong(*((f"unverified.{i}", f"the profile has no {self.unverified[i]!r}") for i in absent))
        return self

    def hardware(self, name: str) -> Hardware:
        """The profile as the floors below know it."""
        device, hbm, topology = self.device, self.device.hbm, self.topology.arguments()
        return Hardware(
            name=name,
            title=self.title,
            device=Device(
                name=name,
                kind=device.kind,
                peak=device.peak,
                hbm_bytes=hbm.capacity,
                hbm_bytes_per_s=hbm.bandwidth,
                cores=device.cores,
                cache_bytes=device.cache,
                scale_up_bytes_per_s=scale_up_rate(topology),
                matrix_unit=device.matrix_unit,
            ),
            host=Host(self.host.memory, self.host.bandwidth, self.host.link, self.host.launch),
            memory_tiers=tuple(tier.tier(tier_name) for tier_name, tier in self.memory_tiers.items()),
            topology=topology,
            watts=self.power.chip,
            watts_all_in=self.power.all_in,
            usd_per_hour=self.price,
            calibration={} if self.calibration == "none" else self.calibration,
            unverified=self.unverified,
        )


def load_profile(name_or_path: str | Path, beside: str | Path | None = None) -> Hardware:
    """A shipped profile by name, or any by path (relative to the working directory, then to the file `beside`).

    Raises InvalidInput with every problem of the file, or with the closest name.
    """
    path = library.find("hardware", name_or_path, beside=beside, field="hardware")
    if not path.is_file():
        raise InvalidInput(Problem(f"{path} is not a file; write a profile's name or its YAML file", "hardware"))
    return load(path, Profile).hardware(path.name.removesuffix(".yaml"))


def _has(spec: object, key: str) -> bool:
    """Whether a dotted key such as ``topology.link.latency`` is written in the profile."""
    for part in key.split("."):
        spec = spec.get(part) if isinstance(spec, dict) else getattr(spec, part, None)
    return spec is not None
