"""From a published training figure to a training scenario."""

from __future__ import annotations

from moesim.study.entries.case import Case, NotStated
from moesim.study.entries.entry import Entry
from moesim.study.entries.quantity import Quantity


def training_case(entry: Entry, quantity: Quantity) -> Case:
    """The case of an entry. Raises NotStated."""
    raise NotStated("training steps are not simulated yet")
