"""What public recipes of training stacks do where a published figure does not say: degrees, recomputation, releases.

Facts of launch scripts that are published beside the figures, not of any figure. They hold for a stack and a model, so
for every figure of theirs.
"""

from __future__ import annotations

from moesim.hardware.precision import PRECISIONS

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
# launch.sh and grok1/metadata.yaml.
_RELEASES = (("dgxc-benchmarking", "NeMo container 25.04"),)

# Megatron-Bridge, scripts/performance/configs, recompute_modules: mla_up_proj for models with MLA on all hardware.
# MaxText: remat_policy is full in configs/base.yml, and the custom policies of AI-Hypercomputer/tpu-recipes keep little
# more than the inputs of layers, which they move to the host.
_CAPTURED_ON = frozenset({"gb200_nvl72", "gb300_nvl72", "b300"})
_CAPTURED_FROM = 2026 + 5 / 12
_HYBRID_FROM = 2026.0
_MLA_UP = {"kind": "selective", "modules": ["mla_up"]}
_FULL = {"kind": "full"}


def released(software: str, source: str) -> str:
    """The software with its release, where a page names none."""
    return next((f"{software} {release}" for page, release in _RELEASES if page in source.lower()), software)


def captured(stack: str, hardware: str, form: str, released: float | None, *, hybrid: bool) -> bool:
    """Whether a step is replayed from captured graphs, none of its kernels launched by the host.

    MaxText compiles a step into one program. Megatron-Bridge's recipes of MXFP8 and NVFP4 on GB200, GB300 and B300
    capture the full iteration (cuda_graph_impl: full_iteration) from container 26.06 on; those of hybrid models
    (Nemotron), of B200 and of Hopper capture parts of a layer at most.
    """
    if stack == "maxtext":
        return True
    narrow = PRECISIONS[form].bytes < PRECISIONS["bf16"].bytes
    recent = released is not None and released >= _CAPTURED_FROM
    return stack == "megatron" and hardware in _CAPTURED_ON and narrow and recent and not hybrid


def exchange(stack: str, released: float | None) -> str:
    """The kernel of dispatch and combine beyond a scale-up domain.

    Megatron-Bridge's recipes of 2026 take HybridEP (moe_flex_dispatcher_backend: hybridep), earlier ones DeepEP.
    """
    hybrid = stack == "megatron" and released is not None and released >= _HYBRID_FROM
    return "deepep_hybrid" if hybrid else "deepep_normal"


def overlapped(stack: str, *, captured: bool, interleaved: bool, pp: int) -> bool:
    """Whether exchanges hide behind the work of another microbatch (moe_a2a_overlap).

    So do Megatron-Bridge's recipes that capture whole steps; Megatron-Core needs an interleaved pipeline for it, or
    none.
    """
    return stack == "megatron" and captured and (interleaved or pp == 1)


def recomputation(stack: str, *, mla: bool) -> dict[str, object]:
    """What a stack's recipes recompute to begin with."""
    if stack == "maxtext":
        return dict(_FULL)
    return dict(_MLA_UP) if stack == "megatron" and mla else {"kind": "none"}
