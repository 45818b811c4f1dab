"""Routers and full experts as a user sets them."""

import numpy as np
import pytest

from moesim.routing.trace import open_trace, write_trace
from moesim.spec.reading import library

QUICK = ("quickstart", "--set", "workload.sequences_per_rank=16")


def test_routers_say_their_launches(moesim, moesim_json):
    default = moesim_json("run", *QUICK)
    fused, unfused, frozen = (
        moesim_json("run", *QUICK, "--set", f"router={{kind: {kind}}}") for kind in ("fused", "unfused", "frozen")
    )
    assert fused["step_time_s"] == default["step_time_s"]
    assert frozen["step_time_s"] < fused["step_time_s"] < unfused["step_time_s"]
    assert [found["router"]["kernels_per_layer"] for found in (frozen, fused, unfused)] == [2, 3, 14]
    assert "router        unfused: 14 kernels" in moesim("run", *QUICK, "--set", "router={kind: unfused}")[1]


def test_a_route_cache_measures_its_hits_on_the_trace(moesim_json, tmp_path):
    change = "router={kind: route_cache, key: previous_layer}"
    found = moesim_json("run", "mixtral-8x7b-h100", "--set", change)["router"]
    assert 0.7 < found["hit_rate"] <= 0.75  # three of four layers have one before; its 28 pairs are soon known
    assert found["hit_rate_by_trace_layer"][0] == 0
    assert 0.25 < found["agreement"] < 1  # better than any pair of eight
    assert found["miss_penalty_s"] > 0
    # a trace that records vocabulary ids can be asked by token, and frozen routes are judged
    shipped = open_trace(library.find("trace", "mixtral-miniature"))
    from dataclasses import replace

    ids = np.arange(shipped.tokens, dtype=np.int32) % 1000
    write_trace(tmp_path / "ids.safetensors", replace(shipped, token_ids=ids))
    trace = f"routing={{kind: trace, trace: {tmp_path / 'ids.safetensors'}}}"
    by_token = "router={kind: route_cache, key: token}"
    assert moesim_json("run", "mixtral-8x7b-h100", "--set", trace, "--set", by_token)["router"]["hit_rate"] == 1
    frozen = moesim_json("run", "mixtral-8x7b-h100", "--set", trace, "--set", "router={kind: frozen}")["router"]
    assert 0 < frozen["agreement"] < 1


def test_full_experts_drop_tokens_and_the_hottest_rank_cools(moesim, moesim_json):
    whole = moesim_json("run", *QUICK)
    tight, loose = (
        moesim_json("run", *QUICK, "--set", f"capacity={{factor: {factor}, group: batch}}") for factor in (1, 100)
    )
    assert "dropped" not in whole
    assert loose["dropped"]["share"] == 0
    assert loose["step_time_s"] == whole["step_time_s"]
    assert 0.1 < tight["dropped"]["share"] <= tight["dropped"]["worst_layer_share"] < 1
    assert tight["hottest_expert"]["over_mean"] < 2 < whole["hottest_expert"]["over_mean"]
    assert tight["step_time_s"] < whole["step_time_s"]
    assert "of choices" in moesim("run", *QUICK, "--set", "capacity={factor: 1}")[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("router={kind: route_cache, key: token}", "router.key: deepseek-v3-miniature records no token ids"),
        ("router={kind: route_cache, key: word}", "router.key"),
        ("router={kind: route_cache, key: prefix, entries: 0}", "router.entries: write a whole number of at least 1"),
        ("router={kind: two_stage, groups: 7, kept_groups: 2}", "router.groups: 7 groups do not divide"),
        ("router={kind: two_stage, groups: 64, kept_groups: 1}", "router.kept_groups: too few groups"),
        ("router={kind: three_stage}", "two_stage"),
        ("capacity={factor: 0}", "capacity.factor"),
        ("capacity={factor: 1, group: node}", "capacity.group"),
    ],
)
def test_mistakes_are_named(moesim, change, said):
    code, out, err = moesim("run", *QUICK, "--set", change)
    assert (code, out) == (2, "")
    assert said in err, err


def test_a_dense_model_drops_nothing(moesim):
    dense = ("model=llama-3.1-8b", "capacity={factor: 1}", "parallelism={attention_dp: 8, tp: 1, ep: 1, expert_tp: 8}")
    sets = (part for change in dense for part in ("--set", change))
    code, out, err = moesim("run", "mixtral-8x7b-h100", *sets)
    assert (code, out) == (2, "")
    assert "capacity: the model has no routed experts that could drop tokens; drop this block" in err
