"""The ``topology:`` block of a profile, and what a scenario may change about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.hardware.fabrics import Degraded, ScaleOut, Wire, unjoined
from moesim.hardware.topology import LINK_KINDS, Link
from moesim.spec.reading.complaints import Wrong
from moesim.spec.reading.loading import Spec
from moesim.spec.reading.quantities import BytesPerSecond, Seconds

Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0)]
Shape = Annotated[tuple[Count, ...], Field(min_length=1, max_length=3)]
Routing = Literal["crossbar", "hierarchical", "dimension_order", "shortest"]


class LinkSpec(Spec):
    """bandwidth: one direction. latency: of the way that the fabric's builder says."""

    bandwidth: BytesPerSecond
    latency: Seconds

    def value(self) -> Link:
        """SI."""
        return Link(self.bandwidth, self.latency)


class ScaleOutSpec(Spec):
    """Network between servers, see `moesim.hardware.fabrics.ScaleOut`."""

    kind: Literal["infiniband", "ethernet"]
    nic: LinkSpec
    pcie: BytesPerSecond
    spine_latency: Seconds
    unit: Count
    radix: Count
    oversubscription: Ratio = 1.0
    spines: Literal["shared", "per_rail"] = "shared"
    spreading: Literal["adaptive", "ecmp"] = "adaptive"
    forwarding: bool = True

    def value(self) -> ScaleOut:
        """SI."""
        names = ("kind", "unit", "radix", "oversubscription", "spines", "spreading", "forwarding")
        chosen = {name: getattr(self, name) for name in names}
        return ScaleOut(self.nic.value(), self.pcie, self.spine_latency, **chosen)


class _Topology(Spec):
    def arguments(self) -> dict[str, object]:
        """`Hardware.topology`: kind and the builder's keyword arguments in SI units."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value.value() if hasattr(value, "value") else value for name, value in values.items()}


class Nvlink(_Topology):
    """GPUs behind NVLink switches, see `moesim.hardware.fabrics.scale_up.nvlink`."""

    kind: Literal["nvlink"]
    domain: Count
    server: Count
    planes: Count
    link: LinkSpec
    scale_out: ScaleOutSpec | None = None

    @model_validator(mode="after")
    def _servers_fill_the_domain(self) -> Nvlink:
        if self.domain % self.server:
            raise Wrong(("server", f"{self.server} devices a server do not fill a domain of {self.domain} evenly"))
        return self


class FullMesh(_Topology):
    """One link a pair, see `moesim.hardware.fabrics.scale_up.full_mesh`."""

    kind: Literal["full_mesh"]
    domain: Count
    link: LinkSpec
    kind_of_link: Literal[LINK_KINDS] = "xgmi"
    scale_out: ScaleOutSpec | None = None


class Pcie(_Topology):
    """Devices that meet at a PCIe root, see `moesim.hardware.fabrics.scale_up.pcie`."""

    kind: Literal["pcie"]
    domain: Count
    link: LinkSpec
    scale_out: ScaleOutSpec | None = None


class Torus(_Topology):
    """2-D or 3-D torus, see `moesim.hardware.fabrics.torus.torus`."""

    kind: Literal["torus"]
    pod: Shape
    host: Shape
    link: LinkSpec
    shapes: tuple[Shape, ...] = ()
    cube: Count | None = None
    wrap_length: Count | None = None
    largest_slice: Count | None = None
    nic: LinkSpec | None = None

    @model_validator(mode="after")
    def _as_many_axes_as_the_pod(self) -> Torus:
        axes = len(self.pod)
        shapes = {"host": self.host} | {f"shapes.{index}": shape for index, shape in enumerate(self.shapes)}
        odd = [(field, f"has {len(s)} axes, the pod {axes}") for field, s in shapes.items() if len(s) != axes]
        if not (self.shapes or self.cube):
            odd.append(("shapes", "missing; list the slices offered, or write a cube that they are made of"))
        if odd:
            raise Wrong(*odd)
        return self


class Single(_Topology):
    """One device."""

    kind: Literal["single"]


class WireSpec(Spec):
    """A link of a custom graph; one_way: only from the first end to the second."""

    between: tuple[str, str]
    bandwidth: BytesPerSecond
    latency: Seconds
    kind: Literal[LINK_KINDS]
    one_way: bool = False


class Custom(_Topology):
    """Any graph, see `moesim.hardware.fabrics.custom.custom`."""

    kind: Literal["custom"]
    nodes: dict[str, Literal["device", "switch", "nic"]]
    links: tuple[WireSpec, ...]
    servers: tuple[tuple[str, ...], ...] = ()
    domains: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _a_graph_that_joins_its_devices(self) -> Custom:
        known = ", ".join(self.nodes)
        wrong = [
            (f"links.{index}.between", f"{end!r} is not one of the nodes {known}")
            for index, link in enumerate(self.links)
            for end in link.between
            if end not in self.nodes
        ]
        wrong += [
            (f"links.{i}.between", f"joins {w.between[0]!r} to itself")
            for i, w in enumerate(self.links)
            if len(set(w.between)) < 2
        ]
        devices = [name for name, kind in self.nodes.items() if kind == "device"]
        ways = [way for w in self.links for way in (w.between, w.between[::-1])[: 1 if w.one_way else 2]]
        if not wrong and (cut := unjoined(devices, ways)):
            wrong.append(("links", cut))
        if wrong:
            raise Wrong(*wrong)
        return self

    def arguments(self) -> dict[str, object]:
        """As of every topology."""
        wires = tuple(Wire(*w.between, Link(w.bandwidth, w.latency), w.kind, w.one_way) for w in self.links)
        return super().arguments() | {"links": wires}


Topology = Annotated[Nvlink | FullMesh | Pcie | Torus | Single | Custom, Field(discriminator="kind")]


class DegradedSpec(Spec):
    """A graph node that is down, or a link of which a share of the capacity remains (0 = dead)."""

    node: str | None = None
    between: tuple[str, str] | None = None
    remaining: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _one_of_two(self) -> DegradedSpec:
        if (self.node is None) == (self.between is None):
            raise Wrong(("", "write either a node that is down or the two ends of a link: between: [a, b]"))
        return self

    def value(self) -> Degraded:
        """As `build_cluster` takes it."""
        return Degraded(self.node or "", self.between or ("", ""), self.remaining)


class FabricOptions(Spec):
    """What a scenario decides about the fabric of its profile; anything left out is the profile's or the builder's.

    shape, slices, ties, twisted: of a torus. oversubscription, spines, spreading, forwarding: between servers.
    degraded: parts that are down or slow. routing: ``shortest`` finds ways round any dead link.
    """

    shape: Shape | None = None
    slices: Count | None = None
    ties: Literal["split", "one_way"] | None = None
    twisted: bool | None = None
    oversubscription: Ratio | None = None
    spines: Literal["shared", "per_rail"] | None = None
    spreading: Literal["adaptive", "ecmp"] | None = None
    forwarding: bool | None = None
    routing: Routing | None = None
    degraded: tuple[DegradedSpec, ...] = ()

    def choices(self) -> dict[str, object]:
        """Keyword arguments of `moesim.hardware.fabrics.build_cluster`."""
        stated = {name: getattr(self, name) for name in self.model_fields_set - {"degraded"}}
        chosen = {name: value for name, value in stated.items() if value is not None}
        return chosen | {"degraded": tuple(part.value() for part in self.degraded)}
