"""What every report says of its scenario: the YAML, what the file left to defaults, and where the inputs come from."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import yaml

from moesim.report.html.page import Section
from moesim.spec.reading.defaults import defaults
from moesim.spec.reading.loading import Document, Spec
from moesim.units import format_seconds

LEVEL = "80 % interval"


def assumptions(document: Document, scenario: Spec) -> list[Section]:
    """The scenario as it ran, and the defaults that hold where it says nothing."""
    data = {key: value for key, value in document.data.items() if key != "description"}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    found = [Section("Assumptions: the scenario", code=text)]
    rows = [(field, str(value)) for field, value in defaults(scenario)]
    if rows:
        told = "What the file leaves out holds as follows. Times are in seconds, sizes in bytes."
        found.append(Section("Assumptions: defaults", told, table=pd.DataFrame(rows, columns=["field", "default"])))
    return found


def provenance(words: Mapping[str, str]) -> Section:
    """Where cost models, routing and the rest come from."""
    return Section("Provenance", table=pd.DataFrame(list(words.items()), columns=["input", "where it comes from"]))


def source(metrics: Mapping[str, object], name: str) -> str:
    """The last line of a report: what to run to get it again."""
    seed = f", seed {metrics['seed']}" if "seed" in metrics else ""
    return f"moesim {metrics['moesim_version']}; {name}, hash {metrics['scenario_hash']}{seed}"


def sentence(text: str) -> str:
    """One paragraph of a file's description, with a full stop."""
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?" else f"{text}."


def between(low: float, high: float) -> str:
    """An interval of seconds as the headline prints it."""
    return f"{format_seconds(low)} – {format_seconds(high)}, {LEVEL}"
