"""How long prompts and outputs of a published inference figure are, stated or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.study.entries.deployment import mlperf
from moesim.study.entries.reading import words
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.entry import Entry

_PRODUCTION = (4989, 0)  # cached tokens per output token, DeepSeek's overview of its service
_CONTEXT = 1024  # tokens in and out where nothing is stated


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a prompt and of an output; output 0 where none is stated."""

    input: int
    output: int


def lengths_of(entry: Entry, assume: Assumptions) -> Lengths:
    """Lengths as stated; MLPerf's data sets by their means; else 1,024 tokens in."""
    prompt, output = words.count(entry.input_len), words.count(entry.output_len)
    if prompt:
        return Lengths(prompt, output or 0)
    if known := mlperf.benchmark(entry):
        assume.note(f"{known.input:,} tokens in, {known.output:,} out: means of MLPerf's data")
        return Lengths(known.input, known.output)
    if "production" in entry.software.lower():
        assume.note(f"{_PRODUCTION[0]:,} tokens of context, as DeepSeek states")
        return Lengths(*_PRODUCTION)
    found = Lengths(_CONTEXT, output or _CONTEXT)
    assume.note(f"{found.input:,} tokens in, {found.output:,} out")
    return found
