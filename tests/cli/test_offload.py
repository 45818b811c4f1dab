"""Offloading as a user runs it: `moesim offload`, and what `moesim run` adds."""

import pytest

FEW = ("--set", "offload.steps=4")


def test_all_caches_are_compared_on_the_same_steps(moesim, moesim_json, tmp_path):
    code, out, _ = moesim("offload", "mixtral-offload-24gb", *FEW, "--out", tmp_path)
    assert code == 0
    assert (tmp_path / "offload.png").stat().st_size > 10_000
    assert [line.split()[0] for line in out.splitlines() if " none " in line] == [
        "lru",
        "lfu",
        "pinned_popular",
        "belady",
    ]
    found = moesim_json("offload", "mixtral-offload-24gb", *FEW)
    best = next(row for row in found["policies"] if row["cache"] == "belady")
    for row in found["policies"]:
        assert row["hit_rate"] <= best["hit_rate"]
        assert row["tpot_s"] >= best["tpot_s"]
        assert len(row["layers"]) == 32
        assert sum(layer["stall_s"] for layer in row["layers"]) == pytest.approx(row["stall_s"])
        # every miss of a replay without prefetch is one copy of one expert
        misses = round((1 - row["hit_rate"]) * 4 * 32 * 2)
        assert row["moved_bytes"] * 4 == pytest.approx(misses * 3 * 4096 * 14336 * 0.515625)


def test_a_run_says_what_offloading_costs(moesim, moesim_json):
    metrics = moesim_json("run", "mixtral-offload-24gb", *FEW)
    found = metrics["offload"]
    assert found["hit_rate"] + found["prefetched_share"] + found["fetched_share"] == pytest.approx(1)
    assert 0 < found["stall_s"] <= metrics["exposed_communication_s"] < metrics["step_time_s"]
    assert metrics["hbm"]["by_kind"]["experts"] < found["tier_bytes"]["host"]
    code, out, _ = moesim("run", "mixtral-offload-24gb", *FEW)
    assert code == 0
    assert "hits" in out
    assert "stall" in out


def test_more_room_hits_more_and_everything_in_hbm_never_stalls(moesim_json):
    def run(slots):
        metrics = moesim_json("run", "mixtral-offload-24gb", *FEW, "--set", f"offload.slots_per_layer={slots}")
        return metrics["offload"]["hit_rate"], metrics["step_time_s"]

    few, more = run(2), run(6)
    assert few[0] < more[0]
    assert few[1] > more[1]
    whole = moesim_json("run", "mixtral-offload-24gb", *FEW, "--set", "cluster.hardware=h100")["offload"]
    assert (whole["hit_rate"], whole["stall_s"], whole["moved_bytes"]) == (1, 0, 0)


def test_a_slower_tier_costs_more(moesim_json):
    def step(tier):
        return moesim_json("run", "mixtral-offload-24gb", *FEW, "--set", f"offload.tiers=[{tier}]")["step_time_s"]

    assert step("host") < step("nvme")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("offload.tiers=[hosts]",), "offload.tiers.0: rtx_4090 has no memory tier 'hosts'; it has host, nvme"),
        (("offload.cache={kind: lur}",), "offload.cache"),
        (("offload.prefetch={kind: pre_gated, accuracy: 2}",), "offload.prefetch.accuracy: is a share"),
        (("workload={kind: prefill, sequences_per_rank: 1, prompt: 8}",), "workload.kind: offloading replays decode"),
        (("routing={kind: balanced}",), "routing.kind: balanced routing has no order"),
        (("model=llama-3.1-8b",), "offload: the model has no routed experts"),
        (("offload.staging=0",), "offload.staging"),
    ],
)
def test_mistakes_are_named(moesim, changes, said):
    code, out, err = moesim("run", "mixtral-offload-24gb", *(part for change in changes for part in ("--set", change)))
    assert (code, out) == (2, "")
    assert said in err, err


def test_what_fits_nowhere_is_infeasible(moesim):
    code, _, err = moesim("run", "mixtral-offload-24gb", "--set", "offload.slots_per_layer=8")
    assert code == 3
    assert "bytes too many" in err
    tiny = "model=deepseek-v3"
    change = ("--set", tiny, "--set", "routing.trace=deepseek-v3-miniature", "--set", "placement.slots_per_rank=256")
    code, _, err = moesim("run", "mixtral-offload-24gb", *change)
    assert code == 3
    assert "bytes too few" in err


def test_only_scenarios_that_offload_can_be_compared(moesim):
    code, _, err = moesim("offload", "quickstart")
    assert code == 2
    assert "offload: missing" in err
    code, _, err = moesim("offload", "mixtral-offload-24gb", "--prefetch", "psychic")
    assert code == 2
    assert "pre_gated" in err
