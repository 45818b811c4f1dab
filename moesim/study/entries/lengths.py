"""How long prompts and outputs of a published inference figure are, stated or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.study.entries import words
from moesim.study.entries.case import Assumptions
from moesim.study.entries.entry import Entry

# Mean tokens (in, out) of MLPerf's data sets: Mixtral's OpenOrca, GSM8K and MBXP mix, DeepSeek-R1's and gpt-oss's
# reasoning sets. From memory of MLCommons' announcements, unverified.
_MLPERF = {"mixtral-8x7b": (290, 145), "deepseek-v3": (800, 3900), "gpt-oss-120b": (1200, 1300)}
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
    model = words.model(entry.model)
    if "mlperf" in f"{entry.metric} {entry.source}".lower() and model in _MLPERF:
        assume.note("{:,} tokens in, {:,} out: means of MLPerf's data".format(*_MLPERF[model]))
        return Lengths(*_MLPERF[model])
    if "production" in entry.software.lower():
        assume.note(f"{_PRODUCTION[0]:,} tokens of context, as DeepSeek states")
        return Lengths(*_PRODUCTION)
    found = Lengths(_CONTEXT, output or _CONTEXT)
    assume.note(f"{found.input:,} tokens in, {found.output:,} out")
    return found
