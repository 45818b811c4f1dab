"""What public recipes of training stacks do where a published figure does not say: degrees, exchanges, releases.

How they launch a step: `moesim.study.entries.training.launches`.

Facts of launch scripts that are published beside the figures, not of any figure. They hold for a stack and a model, so
for every figure of theirs.
"""

from __future__ import annotations

# For figures that name a model and a product only. DeepSeek: DeepSeek-V3 report, sections 3 and 4.2; others:
# NVIDIA-NeMo/Megatron-Bridge, scripts/performance/configs, MXFP8.
RECIPES: dict[tuple[str, str], str] = {
    ("deepseek-v3", "h800"): "2048 GPUs TP1 PP16 EP64 GBS 15360 MBS 1",
    ("deepseek-v3", "gb300_nvl72"): "256 GPUs TP1 PP2 VP8 EP32 GBS 4096 MBS 1",
    ("deepseek-v3", "gb200_nvl72"): "256 GPUs TP1 PP4 VP4 EP64 GBS 4096 MBS 1",
    ("qwen3-235b-a22b", "gb300_nvl72"): "256 GPUs TP1 PP4 VP12 EP32 GBS 8192 MBS 2",
    ("qwen3-235b-a22b", "gb200_nvl72"): "256 GPUs TP1 PP8 VP3 EP32 GBS 8192 MBS 1",
}
FORMATS = {"deepseek": "fp8_block", "megatron": "mxfp8", "maxtext": "bf16"}

# Stacks whose figures come from benchmark recipes: synthetic data, and experts' loads balanced by force
# (Megatron-Bridge: moe_router_force_load_balancing), by dropped tokens (NeMo 2: MegatronTokenDropCallback of capacity 1
# in the performance scripts of Llama 4, Grok-1 and DeepSeek-V3) or by routers at their random start (MaxText:
# dataset_type=synthetic).
BENCHMARKED = frozenset({"megatron", "maxtext"})

# Software of pages that name none. NVIDIA/dgxc-benchmarking: container of llama4/launch.sh, deepseek_v3/pretraining/
# launch.sh and grok1/metadata.yaml. Pages that are dated themselves: Megatron-LM's README lists the discussion under
# 2025/11; an arXiv number begins with year and month.
_RELEASES = (
    ("dgxc-benchmarking", "NeMo container 25.04"),
    ("deepseek-v3-gb200-optimization", "of Nov 2025"),
    ("arxiv 2603.07685", "of Mar 2026"),
)
LAST_STEP = 12  # of that discussion, whose baseline is step 0
_HYBRID_FROM = 2026.0
_TOKEN_DROP_UNTIL = 2025.5  # NeMo 2's scripts: MegatronTokenDropCallback


def released(software: str, source: str) -> str:
    """The software with its release, where a page names none."""
    return next((f"{software} {release}" for page, release in _RELEASES if page in source.lower()), software)


def exchange(stack: str, released: float | None) -> str:
    """The kernel of dispatch and combine beyond a scale-up domain.

    Megatron-Bridge's recipes of 2026 take HybridEP (moe_flex_dispatcher_backend: hybridep), earlier ones DeepEP.
    """
    hybrid = stack == "megatron" and released is not None and released >= _HYBRID_FROM
    return "deepep_hybrid" if hybrid else "deepep_normal"


def drops(stack: str, released: float | None, text: str) -> bool:
    """Whether tokens beyond an expert's capacity are dropped: where an entry says so, and in NeMo 2's scripts."""
    early = stack == "megatron" and released is not None and released < _TOKEN_DROP_UNTIL
    return early or "tokendrop" in text.replace("-", "")
