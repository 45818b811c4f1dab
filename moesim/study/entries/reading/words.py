"""Numbers, hardware, models and stacks out of free text. Every reader answers None when it finds none."""

from __future__ import annotations

import re

_COUNT = r"(\d[\d,]*(?:\.\d+)?)\s*([kKmMbBtT]?)(?![\w.])"
_SCALE = {"": 1, "k": 1024, "m": 10**6, "b": 10**9, "t": 10**12}


def count(text: str) -> int | None:
    """The first count in a text: ``4096``, ``16,384 tokens``, ``128K`` (times 1024, as lengths are given)."""
    match = re.search(_COUNT, text)
    if match is None:
        return None
    number = float(match[1].replace(",", "")) * _SCALE[match[2].lower()]
    return int(number) if number >= 1 else None


def labelled(text: str, *labels: str) -> int | None:
    """The count before or behind one of some words: ``GBS 4096``, ``MBS=1``, ``conc 7168``."""
    for label in labels:
        match = re.search(rf"(?<![a-z]){label}\s*[:=]?\s*{_COUNT}", text, re.IGNORECASE)
        if match is None:
            match = re.search(rf"(\d[\d,]*(?:\.\d+)?)\s*([kKmM]?)\s*{label}(?![a-z])", text, re.IGNORECASE)
        if match:
            return int(float(match[1].replace(",", "")) * _SCALE[match[2].lower()]) or None
    return None


# Patterns by profile, first match wins: the more special names stand first.
_HARDWARE = (
    (r"gb\s*300", "gb300_nvl72"),
    (r"gb\s*200", "gb200_nvl72"),
    (r"\bb300|dgx[- ]?b300|hgx[- ]?b300", "b300"),
    (r"\bb200|dgx[- ]?b200|hgx[- ]?b200", "b200"),
    (r"gh\s*200", "gh200"),
    (r"\bh200", "h200"),
    (r"\bh800", "h800"),
    (r"\bh100", "h100"),
    (r"\bh20\b", "h20"),
    (r"\ba100", "a100"),
    (r"mi\s*355", "mi355x"),
    (r"mi\s*325", "mi325x"),
    (r"mi\s*300", "mi300x"),
    (r"tpu\s*-?7x|tpu\s*v7|ironwood", "tpu_v7x"),
    (r"v6e|trillium", "tpu_v6e"),
    (r"v5p", "tpu_v5p"),
    (r"v5e|v5\s*lite", "tpu_v5e"),
    (r"tpu\s*v4|\bv4\b", "tpu_v4"),
    (r"tpu\s*v3", "tpu_v3"),
    (r"wse-?3|cs-?3\b", "wse3"),
)


def hardware(text: str) -> str | None:
    """Profile name of a product: ``DGX-GB300``, ``H100 (8/node, InfiniBand)``, ``TPU v5p-1024``; None if unknown."""
    lower = text.lower()
    found = [(match.start(), -rank, name) for rank, (p, name) in enumerate(_HARDWARE) if (match := re.search(p, lower))]
    # "GB200 vs B200": the product named first; at one place the special name.
    return min(found)[2] if found else None


# Model families; a match wins over those below it.
_MODELS = (
    (r"deepseek[- _]?v?4[- _]?flash", "deepseek-v4-flash"),
    (r"deepseek[- _]?v?4", "deepseek-v4"),
    (r"deepseek[- _]?v?3\.2", "deepseek-v3.2"),
    (r"deepseek[- _]?moe[- _]?16b", "deepseek-moe-16b"),
    (r"deepseek[- _]?v2[- _]?lite", "deepseek-v2-lite"),
    (r"deepseek[- _]?v2", "deepseek-v2"),
    (r"deepseek", "deepseek-v3"),
    (r"kimi[- _]?k3", "kimi-k3"),
    (r"kimi", "kimi-k2"),
    (r"qwen[- _]?3\.5", "qwen3.5-397b-a17b"),
    (r"qwen[- _]?3[- _]?coder[- _]?480b|qwen3.*480b", "qwen3-coder-480b-a35b"),
    (r"qwen[- _]?3[- _]?next", "qwen3-next-80b-a3b"),
    (r"qwen[- _]?3.*235b", "qwen3-235b-a22b"),
    (r"qwen[- _]?3.*30b", "qwen3-30b-a3b"),
    (r"qwen[- _]?2.*57b", "qwen2-57b-a14b"),
    (r"gpt[- _]?oss.*120b", "gpt-oss-120b"),
    (r"gpt[- _]?oss.*20b", "gpt-oss-20b"),
    (r"llama[- _]?4.*maverick", "llama-4-maverick"),
    (r"llama[- _]?4.*scout", "llama-4-scout"),
    (r"llama[- _]?3.*405b", "llama-3.1-405b"),
    (r"llama[- _]?3.*70b", "llama-3.1-70b"),
    (r"llama[- _]?3.*8b", "llama-3.1-8b"),
    (r"llama[- _]?2.*70b", "llama-2-70b"),
    (r"llama[- _]?2.*13b", "llama-2-13b"),
    (r"mixtral.*8x22b", "mixtral-8x22b"),
    (r"mixtral", "mixtral-8x7b"),
    (r"nemotron.*(super)", "nemotron-3-super"),
    (r"nemotron.*(ultra)", "nemotron-3-ultra"),
    (r"nemotron.*3.*(nano|lightning)", "nemotron-3-nano"),
    (r"glm[- _]?5", "glm-5"),
    (r"glm[- _]?4", "glm-4.5"),
    (r"minimax", "minimax-m2.5"),
    (r"grok", "grok-1"),
    (r"dbrx", "dbrx"),
    (r"gemma[- _]?4.*26b", "gemma-4-26b-a4b"),
    (r"olmoe", "olmoe-1b-7b"),
    (r"phi[- _]?3\.5", "phi-3.5-moe"),
    (r"arctic", "arctic"),
    (r"jetmoe", "jetmoe-8b"),
    (r"switch[- _]?c", "switch-c-2048"),
    (r"switch.*base.*256", "switch-base-256"),
    (r"switch.*base", "switch-base-128"),
    (r"glam", "glam-64e"),
    (r"gshard", "gshard-600b"),
    (r"nllb", "nllb-moe-54b"),
    (r"gpt[- _]?3", "gpt-3-175b"),
)


def model(text: str) -> str | None:
    """Catalogue id of a model's name: ``DeepSeek-R1-0528``, ``Qwen3_235B_a22B (tokendrop)``; None if unknown."""
    lower = text.lower()
    return next((name for pattern, name in _MODELS if re.search(pattern, lower)), None)


def stack(software: str, source: str = "") -> str | None:
    """The software that ran, by family: of the software field, else of the source.

    ``megatron`` (Megatron-Core, NeMo, Megatron-Bridge), ``maxtext``, ``deepseek``, ``sglang``, ``vllm``, ``trtllm``, …
    """
    for text in (software.lower(), source.lower()):
        for pattern, name in (
            (r"sglang|lmsys|\blm-sys", "sglang"),
            (r"trt|tensorrt|dynamo", "trtllm"),
            (r"vllm", "vllm"),
            (r"tutel", "tutel"),
            (r"maxtext|tpu-recipes", "maxtext"),
            (r"megatron|nemo|dgxc-benchmarking", "megatron"),
            (r"deepseek|2505\.09343", "deepseek"),
        ):
            if re.search(pattern, text):
                return name
    return None


# Documents that state no date, by the year in which they appeared (histories of their repositories, from memory).
_APPEARED = ((r"tech_blog/blog1\b", 2025.4), (r"best_perf_practice_on_deepseek-r1", 2025.4))
# When products began to ship; a document dated earlier cannot be about them. GB200 NVL72 is rented since February 2025
# and GB300 NVL72 since July (CoreWeave's announcements), B300 stands for the same chips.
SHIPPED = {"gb200_nvl72": 2025 + 1 / 12, "gb300_nvl72": 2025.5, "b300": 2025.5}


def appeared(source: str, product: str | None) -> float | None:
    """Years of the document that a figure comes from: ``_posts/2025-12-17-large-scale-serving.md`` was of December
    2025; None where it has no date, or one before the product was shipped. product: a name of `hardware`."""
    known = next((year for pattern, year in _APPEARED if re.search(pattern, source.lower())), None)
    found = version(source) if known is None else known
    return None if found is None or found < SHIPPED.get(product or "", 0.0) else found


def version(software: str) -> float | None:
    """Years of a dated release: ``NeMo container 26.04.01`` was of April 2026, 2026.25, like ``2026-04-17``; None where
    there is no date."""
    match = re.search(r"\b(2[2-9])\.(0[1-9]|1[0-2])\b", software)
    if match:
        return 2000 + int(match[1]) + (int(match[2]) - 1) / 12
    match = re.search(r"\b(20[2-9]\d)-(0[1-9]|1[0-2])-\d\d\b", software)
    if match:
        return int(match[1]) + (int(match[2]) - 1) / 12
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    match = re.search(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* (20\d\d)\b", software.lower())
    return int(match[2]) + months.index(match[1]) / 12 if match else None
