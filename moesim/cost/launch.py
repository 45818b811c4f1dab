"""What the host adds: launching kernels one by one, or replaying a captured graph.

Stacks that launch from Python (vLLM's tables of block-scaled products and of the eager all-reduce) are bound by their
host. Its speed is a figure of the host and the stack, ``host.launch`` of the profile: seconds that one eager operator
takes. A fit keeps what its kernel asks of the host as a number of such operators, for each parameter that holds some:

    parameter = device part + calls * launch

So a sibling's fit takes the launches of the host it is lent to (a Grace takes 1.9 times as long as the x86 hosts of a
B200), and under graphs the host's part vanishes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from moesim.cost.family import Family, Fit
from moesim.errors import InvalidInput

# Fixed time of a small kernel that a graph replays: smallest fitted t0 of dense products is 1.8-2.2 µs on H100, H200,
# B200 and GB200 (measurements by NVIDIA, published with AIConfigurator 0.12.0, Apache-2.0).
KERNEL_S = 2.0e-6
# One eager call: launching alone costs the CPU 3-5 µs (NVIDIA, "Getting started with CUDA graphs"), Python and dispatch
# add as much. A floor below it is no host's.
EAGER_CALL_S = 7.0e-6
_SERIAL_CALLS = 3  # quantisation, its operand, the product: fixed times from here on are a row of eager calls


def host_part(family: Family, fit: Fit) -> dict[str, float]:
    """Seconds of a fresh fit's parameters that are its host's launches; {} where graphs or streams hid them.

    A kernel counts as launched by its host if that is its floor, or if its fixed time is longer than a row of eager
    calls. Kernels that say they were replayed from a graph are not.
    """
    p, floor = fit.parameters, bool(fit.choices.get("host_bound"))
    launched = p.get("t_h", 0.0) >= EAGER_CALL_S if floor else p.get("t0", 0.0) >= _SERIAL_CALLS * EAGER_CALL_S
    if not launched or "graph" in fit.key.get("kernel", "") or not family.host:
        return {}
    parts = {name: p[name] - device_s for name, device_s in family.host.items() if name in p}
    return {name: part for name, part in parts.items() if part > 0 and (floor or name != "t_h")}


def stack_of(fit: Fit) -> str:
    """The stack that a fit's software names, without version: ``vllm 0.24.0`` -> ``vllm``."""
    return (fit.key.get("software", "").split() or [""])[0]


def operator_seconds(fits: Iterable[Fit], stated: Mapping[str, float]) -> dict[str, float]:
    """Seconds of one eager operator by stack: as the profile states, else the smallest host's part of any fit."""
    found: dict[str, float] = {}
    for fit in fits:
        stack = stack_of(fit)
        if fit.host_s and stack not in stated:
            found[stack] = min(found.get(stack, float("inf")), max(fit.host_s.values()))
    return found | dict(stated)


def with_host(fit: Fit, calls: Mapping[str, float], launch: Mapping[str, float], name: str) -> Fit:
    """A stored fit with its calls as seconds of a host. launch: seconds of an operator by stack; name: of the profile.

    Raises InvalidInput where the host's figure is missing.
    """
    if not calls:
        return fit
    stack = stack_of(fit)
    if stack not in launch:
        message = f"host.launch of {name} lacks {stack}, in whose operators its calibration counts"
        raise InvalidInput(f"{message}; write its seconds, e.g. launch: {{{stack}: 21 us}}")
    host_s = {parameter: count * launch[stack] for parameter, count in calls.items()}
    whole = {parameter: fit.parameters.get(parameter, 0.0) + seconds for parameter, seconds in host_s.items()}
    return replace(fit, parameters={**fit.parameters, **whole}, host_s=host_s)


def on_host(fit: Fit, lender: Mapping[str, float], own: Mapping[str, float]) -> Fit:
    """A fit as on another host. lender, own: seconds of an operator by stack; without both, the lender's host stays."""
    stack = stack_of(fit)
    if not fit.host_s or stack not in lender or stack not in own:
        return fit
    return _scaled(fit, own[stack] / lender[stack])


def replayed(fit: Fit, family: Family) -> Fit:
    """A fit as under graphs: the host launches nothing, slopes stay, fixed times are those of the device."""
    fit = _scaled(fit, 0.0) if fit.host_s else fit
    if not fit.choices.get("host_bound"):
        return fit
    fixed = {"t0": min(fit.parameters["t0"], family.parameters["t0"].start)}
    return replace(fit, choices={**fit.choices, "host_bound": False}, parameters={**fit.parameters, **fixed})


def _scaled(fit: Fit, factor: float) -> Fit:
    parts = {name: fit.parameters[name] + seconds * (factor - 1) for name, seconds in fit.host_s.items()}
    host_s = {name: seconds * factor for name, seconds in fit.host_s.items()} if factor else {}
    return replace(fit, parameters={**fit.parameters, **parts}, host_s=host_s)
