"""What devices cost, draw and emit, by the hour and by the token."""

from __future__ import annotations

import math

from moesim.errors import InvalidInput, Problem
from moesim.hardware.device import Hardware
from moesim.spec.studies.plan_file import Economics

HOURS_A_YEAR = 8766.0


def device_watts(hardware: Hardware, economics: Economics) -> float:
    """Power of one device with its share of host and network, and of the building where the PUE is stated.

    The profile's all-in power holds cooling already where it says so; else chip power. NaN where neither is known.
    """
    if hardware.watts_all_in is not None:
        return hardware.watts_all_in
    if hardware.watts is None:
        return math.nan
    return hardware.watts * (economics.pue or 1.0)


def device_usd_per_hour(hardware: Hardware, economics: Economics) -> float:
    """Dollars for one device-hour: rented, or owned with upkeep and electricity.

    Raises InvalidInput where neither the plan nor the profile has a price, or owning lacks a figure.
    """
    name = hardware.name
    owned = economics.own.get(name)
    if owned is None:
        price = economics.rent.get(name, hardware.usd_per_hour)
        if price is None:
            raise InvalidInput(
                Problem(f"{name} has no price; write economics.rent.{name}: '… USD/h'", "economics.rent")
            )
        return price
    if economics.electricity is None:
        raise InvalidInput(Problem("owning devices needs it, e.g. '0.08 USD/kWh'", "economics.electricity"))
    watts = device_watts(hardware, economics)
    if math.isnan(watts):
        raise InvalidInput(Problem(f"the power of {name} is unknown; its profile needs power.all_in", "economics.own"))
    capital = owned.device * (1 / owned.years + owned.upkeep) / HOURS_A_YEAR
    return capital + watts / 1e3 * economics.electricity


def break_even_tokens(
    training: float | None, usd_per_token: float, other_training: float | None, other_usd_per_token: float
) -> float | None:
    """Tokens served after which a model with cheaper tokens has paid back its dearer training; 0 if it is dearer in
    neither, None where it never does or a training cost is not stated."""
    if training is None or other_training is None:
        return None
    saved, extra = other_usd_per_token - usd_per_token, training - other_training
    if extra <= 0 and saved >= 0:
        return 0.0
    return extra / saved if saved > 0 else None
