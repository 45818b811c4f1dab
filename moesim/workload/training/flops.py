"""Model FLOPs of a training step, as the field counts them for MFU.

Megatron-LM's `num_floating_point_operations`: three times the forward pass (backward is two), of all matrices that a
token uses, the vocabulary's included, and of attention's scores and values over the causal half; nothing that is
recomputed, no router top-k, no norms. PaLM's MFU (Chowdhery et al. 2022, appendix B) is that over datasheet peak.
"""

from __future__ import annotations

from moesim.model import shapes
from moesim.model.per_token import LAYER_LISTINGS, attention_flops, forward_flops, mean_attended_tokens
from moesim.workload.training.job import Job


def model_flops_per_token(job: Job) -> float:
    """FLOPs that training one token takes: forward and backward, multi-token prediction included."""
    return 3 * (forward_flops(job.model, job.sequence) + job.mtp_layers * _mtp_flops(job))


def model_flops(job: Job) -> float:
    """FLOPs of a step of the whole job."""
    return model_flops_per_token(job) * job.step_tokens


def _mtp_flops(job: Job) -> float:
    """Forward FLOPs of one module a token: a layer like the last, the product of 2·hidden with hidden, and the head."""
    layer, hidden = job.model.layers[-1], job.model.hidden
    matrices = sum(p.active_weights for listing in LAYER_LISTINGS for p in listing(layer, hidden))
    matrices += 2 * hidden**2 + sum(p.active_weights for p in shapes.head(job.model))
    if layer.attention is None:
        return 2.0 * matrices
    mean = mean_attended_tokens(layer.attention, job.sequence)
    return 2.0 * matrices + attention_flops(layer.attention, mean, (job.sequence + 1) / 2)
