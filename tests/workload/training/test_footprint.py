"""What a rank holds, against counts that others published."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.errors import Infeasible
from moesim.model.architecture import Attention, Layer, MoEModel
from moesim.model.parameters import mtp_parameters, parameters
from moesim.placement.placement import Placement
from moesim.spec.model.file import load_model
from moesim.spec.training.assembly import assemble_training
from moesim.workload.training.footprint import training_footprints
from moesim.workload.training.weights import Held, stage_weights


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3"])
def test_stages_hold_every_parameter_once(assembled, name):
    model = load_model(name)
    job = assembled().job
    modules = model.mtp_layers
    slots = model.layers[-1].experts.routed
    placement = Placement("all", np.arange(slots).reshape(1, 1, slots), slots)
    job = replace(job, model=model, stages=(len(model.layers) - 3, 3), mtp_layers=modules, placement=placement)
    held = sum((stage_weights(job, stage) for stage in (0, 1)), Held())
    extra = model.vocab * model.hidden if modules else 0  # the module embeds on the last stage
    expected = parameters(model).total + (mtp_parameters(model) if modules else 0) + extra
    assert held.dense + held.experts == pytest.approx(expected, rel=2e-4)  # vectors inside attention are left out


def test_activations_of_a_dense_layer_are_those_of_korthikanti(assembled):
    """32·s·b·h bytes: their 34 without the masks of two dropouts, and without the scores that flash attention drops."""
    hidden, heads = 1024, 8
    layer = Layer(Attention("gqa", heads, heads, hidden // heads), dense_ffn=4 * hidden, dense_gated=False)
    model = MoEModel("dense", "Dense", hidden, 1000, (layer,) * 2)
    job = assembled(parallelism={}, cluster__devices=1, placement__slots_per_rank=16).job
    job = replace(job, model=model, stages=(2,), placement=None)
    needs = training_footprints(job, None, reserve=0.0)[0]
    assert needs.activations == 2 * 32 * job.sequence * hidden
    assert needs.weights == pytest.approx(2 * (parameters(model).total), rel=1e-3)


def test_zero_divides_what_it_shards(assembled):
    levels = [
        training_footprints(
            assembled(parallelism={"ep": 16, "zero": zero}, placement__slots_per_rank=1).job, None, reserve=0
        )[0]
        for zero in range(4)
    ]
    for kind in ("master_weights", "optimizer_states", "gradients"):
        assert getattr(levels[0], kind) >= getattr(levels[1], kind) >= getattr(levels[2], kind)
    assert levels[0].optimizer_states > 1.5 * levels[1].optimizer_states
    assert levels[1].gradients > 1.5 * levels[2].gradients
    assert levels[2].master_weights == levels[1].master_weights == levels[3].master_weights


def test_fragmentation_and_reserve_are_stated(assembled):
    job = assembled().job
    plain, scattered = (training_footprints(job, None, reserve=0.1, fragmentation=f)[0] for f in (0.0, 0.25))
    assert scattered.activations == pytest.approx(1.25 * plain.activations)
    assert scattered.weights == plain.weights
    assert plain.reserve == pytest.approx(0.1 * plain.capacity)


def test_what_would_fit_is_tried(document):
    changes = {"model": "mixtral-8x7b", "routing": {"kind": "balanced"}, "placement__slots_per_rank": 4}
    with pytest.raises(Infeasible, match=r"activations.*zero: .*parallelism.pp: 8") as caught:
        assemble_training(document(**changes, parallelism={"pp": 2, "ep": 2}, workload__sequence=2048))
    assert "bytes too many" in str(caught.value)
