"""Routers trained under equal terms."""

import pytest

from moesim.errors import InvalidInput
from moesim.lab.compare import config_of, train_routers
from moesim.lab.routers import ROUTERS


def expert_parameters(config):
    return config.experts * config.expert_ffn, config.top_k * config.expert_ffn


@pytest.mark.parametrize("name", ROUTERS)
def test_all_have_the_same_total_and_active_expert_parameters(name):
    assert expert_parameters(config_of(name, 2048, 64, 8)) == (64 * 16, 8 * 16)


def test_runs_say_what_to_simulate(corpus):
    names = ["topk_softmax", "switch", "expert_choice", "chain_of_experts"]
    seen = []
    runs = train_routers(
        names, experts=16, top_k=4, steps=2, tokens_per_domain=1024, corpus=corpus, progress=lambda *it: seen.append(it)
    )
    assert [run.router for run in runs] == names
    softmax, switch, choice, chain = runs
    assert (switch.experts, switch.top_k, switch.width) == (4, 1, 4)
    assert (softmax.experts, softmax.top_k, softmax.width) == (16, 4, 1)
    assert (chain.passes, chain.trace.layers, chain.top_k) == (2, 6, 2)
    assert choice.top_k == choice.trace.top_k >= 4
    assert softmax.dropped == 0 < switch.dropped
    assert choice.trace.count.mean() == pytest.approx(4)
    assert choice.trace.metadata["choice_by"] == "expert"
    assert all(0 < run.held_out_loss < 10 for run in runs)
    assert seen[0] == ("training topk_softmax", 1, 2)


def test_finished_routers_are_found_again(corpus, tmp_path):
    arguments = {"experts": 16, "top_k": 4, "steps": 1, "tokens_per_domain": 1024, "corpus": corpus, "folder": tmp_path}
    first = train_routers(["hash"], **arguments)[0]
    seen = []
    again = train_routers(["hash"], progress=lambda *it: seen.append(it), **arguments)[0]
    assert not seen
    assert (again.held_out_loss, again.moments, again.parameters) == (
        first.held_out_loss,
        first.moments,
        first.parameters,
    )
    train_routers(["hash"], **arguments, shares={"counting": 1, "motif": 0}, progress=lambda *it: seen.append(it))
    assert seen  # another run is not mistaken for this one


def test_unknown_routers_are_all_named():
    with pytest.raises(InvalidInput) as caught:
        train_routers(["topk_softmax", "magic", "luck"])
    assert len(caught.value.problems) == 2
