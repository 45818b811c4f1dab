"""How public recipes launch a training step: what they capture, overlap and recompute, and who exchanges tokens.

Facts of launch scripts that are published beside the figures, by model, product, format and release, never of results:

- Megatron-Bridge from container 25.09 on: scripts/performance/configs (``*_workload_base_configs.py``, as of
  November 2025, February, April and July 2026), and the performance matrices before them (``*_llm_pretrain.yaml``);
- NeMo 25.04: scripts/performance/recommended_model_configs (``cuda_graphs``, ``recompute_modules``) and
  NVIDIA/dgxc-benchmarking's launch.sh;
- MaxText: one compiled program; remat_policy is full in configs/base.yml, and the custom policies of
  AI-Hypercomputer/tpu-recipes keep little more than the inputs of layers, which they move to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.hardware.precision import PRECISIONS

BLACKWELL = frozenset({"b200", "gb200_nvl72", "b300", "gb300_nvl72"})
RACKS = frozenset({"gb200_nvl72", "gb300_nvl72"})
# When the first container of a series came out, in years.
_BRIDGE, _DROPLESS, _HYBRID_EP, _SPRING, _FULL = (
    2025 + 8 / 12,
    2025 + 10 / 12,
    2026 + 1 / 12,
    2026 + 3 / 12,
    2026 + 5 / 12,
)
# Training with MLA's heads of 192 and 128 dims on Blackwell is fused from cuDNN 9.11 on (Transformer Engine,
# fused_attn.cpp), which is of June 2025 (cudnn-frontend, pull request 145).
_CUDNN_MLA = 2025 + 5 / 12
_MLA = frozenset({"deepseek-v3", "kimi-k2"})


@dataclass(frozen=True, slots=True)
class Launch:
    """graphs, grouped_gemm: keys of a training scenario. pairs: exchanges hide behind the other microbatch
    (moe_a2a_overlap), where the schedule can. library: tokens are exchanged by NCCL's all-to-all
    (moe_token_dispatcher_type: alltoall), one copy an expert. recomputed: modules; None = all layers."""

    graphs: bool | str = False
    grouped_gemm: str = "fused"
    pairs: bool = False
    library: bool = False
    recomputed: tuple[str, ...] | None = ()
    unfused_attention: bool = False

    @property
    def recomputation(self) -> dict[str, object]:
        """The key of a training scenario."""
        if self.recomputed is None:
            return {"kind": "full"}
        return {"kind": "selective", "modules": list(self.recomputed)} if self.recomputed else {"kind": "none"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a launch depends on. released: years, None where it is not known. interleaved: whether the pipeline is.
    dropped: tokens beyond an expert's capacity are (buffers have one size whatever the routing)."""

    stack: str
    model: str
    hardware: str
    form: str
    released: float | None
    microbatch: int = 1
    ep: int = 1
    interleaved: bool = False
    hybrid: bool = False
    dropped: bool = False

    @property
    def narrow(self) -> bool:
        """Whether products are narrower than BF16."""
        return PRECISIONS[self.form].bytes < PRECISIONS["bf16"].bytes

    def before(self, year: float) -> bool:
        """Whether the release is known to be older."""
        return self.released is not None and self.released < year

    def since(self, year: float) -> bool:
        """Whether the release is of that time or later."""
        return self.released is not None and self.released >= year


def launch_of(recipe: Recipe) -> Launch:
    """How a recipe launches its steps."""
    if recipe.stack == "maxtext":
        return Launch(graphs=True, recomputed=None)
    if recipe.stack != "megatron":
        return Launch()
    # Dropped tokens go with NCCL's all-to-all alone (Megatron-Core: moe_expert_capacity_factor).
    unfused = recipe.model in _MLA and recipe.hardware in BLACKWELL and recipe.before(_CUDNN_MLA)
    recomputed = ("attention",) if unfused else _recomputed(recipe)
    plain = Launch(grouped_gemm="per_expert", library=recipe.dropped, recomputed=recomputed, unfused_attention=unfused)
    if _full(recipe):  # CuTe DSL's fused grouped MLP comes with the capture of whole steps
        pairs = PRECISIONS[recipe.form].compute != "fp4"
        kept = () if recipe.hardware == "gb300_nvl72" else recomputed  # of models with MLA; others recompute nothing
        return replace(plain, graphs=True, grouped_gemm="fused_mlp", pairs=pairs, recomputed=kept)
    found = replace(plain, graphs=_graphs(recipe), library=plain.library or _library(recipe))
    return replace(found, **_of_model(recipe))


def _full(recipe: Recipe) -> bool:
    """Whether the full iteration is captured (cuda_graph_impl: full_iteration): in MXFP8 and NVFP4 on GB200, GB300 and
    B300 from container 26.06 on, but for hybrid models and GPT-OSS on B300; of models with MLA at microbatches of 1."""
    if not (recipe.narrow and recipe.since(_FULL)) or recipe.hybrid or recipe.hardware not in BLACKWELL - {"b200"}:
        return False
    if recipe.model in _MLA:
        return recipe.microbatch == 1
    return (recipe.model, recipe.hardware) != ("gpt-oss-120b", "b300")


def _graphs(recipe: Recipe) -> bool | str:
    """Graphs short of the full iteration. Buffers of one size can be captured whole, dropless experts cannot."""
    if recipe.dropped:
        bridge = recipe.since(_BRIDGE) and recipe.hardware in BLACKWELL
        return bridge or (recipe.model, recipe.hardware) == ("llama-4-maverick", "h100")
    if not recipe.since(_DROPLESS):
        return False
    if recipe.hybrid:  # attn, mamba, moe_router, moe_preprocess; of Nemotron Super on B200 nothing
        return False if (recipe.model, recipe.hardware) == ("nemotron-3-super", "b200") else "partial"
    if recipe.model == "deepseek-v3":
        rack = {"gb200_nvl72": recipe.since(_HYBRID_EP), "gb300_nvl72": not recipe.narrow}
        return "partial" if rack.get(recipe.hardware) else False
    if recipe.model == "gpt-oss-120b":
        return "partial" if recipe.hardware in ("gb300_nvl72", "b300") else False
    if recipe.model == "qwen3-235b-a22b":
        return "partial" if recipe.hardware in RACKS else False
    return "partial" if recipe.model == "qwen3-30b-a3b" and recipe.hardware in BLACKWELL else False


def _library(recipe: Recipe) -> bool:
    """Whether the dispatcher is NCCL's all-to-all, the default of Megatron-Core; MLA's and hybrid models' recipes and
    those for racks take HybridEP or DeepEP."""
    if recipe.model == "gpt-oss-120b":
        return not (recipe.hardware == "b300" and recipe.ep == 8)
    if recipe.model == "qwen3-235b-a22b":
        return recipe.hardware not in RACKS
    if recipe.model == "qwen3-30b-a3b":
        if recipe.hardware == "h100":
            return not recipe.since(_SPRING)
        return recipe.hardware == "b200" and not recipe.since(_SPRING)
    return False


def _of_model(recipe: Recipe) -> dict[str, object]:
    """What recipes of single models and products add to the rules above."""
    model, hardware = recipe.model, recipe.hardware
    if model == "deepseek-v3" and hardware == "b200" and recipe.interleaved:
        return {"pairs": True, "graphs": "partial"}
    if model == "qwen3-235b-a22b" and hardware in ("h100", "b300") and recipe.interleaved and not recipe.dropped:
        return {"pairs": True}
    if model == "gpt-oss-120b" and hardware == "gb200_nvl72" and not recipe.narrow:
        return {"pairs": True}
    if model == "gpt-oss-120b" and hardware == "b300" and recipe.narrow:
        return {"pairs": True, "grouped_gemm": "fused_mlp"}
    return {}


def _recomputed(recipe: Recipe) -> tuple[str, ...]:
    """recompute_modules: mla_up_proj with MLA, but moe_act of DeepSeek-V3 on GB300 in BF16; layernorm and moe_act of
    GPT-OSS in BF16 where HBM is short; of hybrid models on H100 experts too. Where attention is not fused, core_attn
    (NeMo 25.04, DeepSeek-V3 on GB200)."""
    if recipe.model in _MLA:
        wide = (recipe.model, recipe.hardware, recipe.narrow) == ("deepseek-v3", "gb300_nvl72", False)
        return ("activation",) if wide else ("mla_up",)
    if recipe.model == "gpt-oss-120b" and not recipe.narrow and recipe.hardware in ("h100", "b200", "gb200_nvl72"):
        return ("norm", "activation")
    if recipe.hybrid and recipe.hardware == "h100":
        return ("norm", "experts", *(("attention",) if recipe.narrow else ()))
    return ()
