"""Placement studies from a scenario to their table."""

import dataclasses

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.routing.load import LoadTable, write_load_table
from moesim.spec.assembly.step import assemble
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.placing.migration import migration
from moesim.study.placing.place import place, place_json

# Eight experts on four GPUs of one server: the optimum takes milliseconds.
ONE_SERVER = (
    "cluster.devices=4",
    "parallelism={attention_dp: 4, ep: 4}",
    "workload.sequences_per_rank=16",
    "placement.slots_per_rank=2",
)
SMALL = ("workload.sequences_per_rank=16", "placement.slots_per_rank=1")
SCENARIO = "placement-mixtral-h100"


@pytest.fixture(scope="module")
def study():
    return place(SCENARIO, ONE_SERVER, policies=["contiguous", "random", "eplb", "optimal"], every=100)


def test_no_policy_beats_the_optimum_on_what_it_learned(study):
    gap = study.table.set_index("name")["gap_to_bound"]
    assert gap["optimal"] == pytest.approx(0, abs=1e-4)
    hottest = [each.placement.rank_load(study.learned_load).max(axis=1) for each in study.judged]
    assert all((hottest[-1] <= peak + 1e-6).all() for peak in hottest)


def test_learned_and_judged_tokens_are_apart_and_in_order(study):
    learned, judged = study.workloads.learned.trace, study.workloads.judged.trace
    assert learned.sequences + judged.sequences == 45  # of the three domains that the scenario replays
    assert [other.name for other in study.workloads.others] == ["api, cpp, disassembly, javascript, python"]
    assert study.judged[0].results.keys() == {"later part of mixtral-miniature", study.workloads.others[0].name}


def test_costs_of_moving_weights_are_those_of_the_links(study):
    table = study.table.set_index("name")
    assert table["migration_bytes"]["contiguous"] == 0
    assert table["rebalance_bytes"]["random"] == 0  # it learns nothing, so nothing changes
    expert = 3 * 4096 * 14336 * 2  # Mixtral's gate, up and down projections in BF16
    assert table["migration_bytes"]["random"] % expert == 0
    assert (
        table["migration_s"]["random"] > table["migration_bytes"]["random"] / 16 / 450e9
    )  # NVLink of every GPU at once
    amortised = table["step_time_s"] + table["rebalance_s"] / 100
    np.testing.assert_allclose(table["amortised_step_time_s"], amortised)


def test_a_placement_costs_nothing_to_reach_from_itself(study):
    assembly = assemble(read_scenario(SCENARIO))
    placement, node = assembly.deployment.placement, assembly.deployment.cluster.node
    turned = dataclasses.replace(placement, expert=placement.expert[:, np.r_[1, 0, 2:16]])
    for other in (placement, turned):  # ranks of one server are alike
        assert migration(assembly.deployment, placement, other, node, 1).bytes == 0


def test_json_names_what_was_promised(study):
    data = place_json(study)
    promised = {"name", "step_time_s", "hottest_rank_over_mean", "cross_node_bytes", "migration_bytes", "hbm_bytes"}
    assert all(row.keys() >= promised for row in data["policies"])
    assert data["policies"][2]["others"][0]["step_time_s"] > 0
    assert data["synthetic"] is False


def test_sequences_near_their_experts_cross_servers_less():
    policies = [{"kind": "affinity", "sequences": sequences} for sequences in ("round_robin", "affinity")]
    table = place(SCENARIO, SMALL, policies=policies).table
    assert table["cross_node_bytes"][1] < table["cross_node_bytes"][0]


def counted(path, seed, name):
    load = np.random.default_rng(seed).lognormal(0, 0.8, (32, 8)) * 1e6
    return write_load_table(path / f"{name}.safetensors", LoadTable(name, load.astype(np.int64), top_k=2))


def test_counts_of_one_workload_are_judged_by_those_of_another(tmp_path):
    first, second = counted(tmp_path, 0, "first"), counted(tmp_path, 1, "second")
    changes = (*ONE_SERVER, f"routing={{kind: bootstrap, table: {second}}}")
    study = place(SCENARIO, changes, policies=["contiguous", "replicate_hot"], learn=str(first), judge_on=[str(first)])
    table = study.table.set_index("name")
    assert study.workloads.learned.load is not None
    # hot experts differ: what was learned does less for the other counts than for its own
    hottest = table.loc["replicate_hot"]
    assert hottest["other_hottest_rank_over_mean"] < hottest["hottest_rank_over_mean"]
    assert hottest["other_hottest_rank_over_mean"] < table.loc["contiguous", "other_hottest_rank_over_mean"]
    assert place_json(study)["synthetic"] is True


def problem(**options):
    with pytest.raises(InvalidInput) as error:
        place(SCENARIO, SMALL, **options)
    return error.value.problems


def test_what_is_wrong_is_named_with_its_field(tmp_path):
    (unknown,) = problem(policies=["epbl"])
    assert (unknown.field, unknown.message) == ("policy", "no placement policy is named 'epbl'; did you mean 'eplb'?")
    (budget,) = problem(redundant=3)
    assert budget.field == "redundant"
    assert "8 experts and 3 redundant slots do not fill 16 ranks alike; write 8, 24, 40 …" in budget.message
    (short,) = problem(learn_share=0.001)
    assert short.field == "learn_share"
    (nobody,) = problem(judge_on=["poetry"])
    assert nobody.field == "judge_on"
    assert "the labels of mixtral-miniature are api, cpp" in nobody.message
    (every,) = problem(every=0)
    assert every.field == "every"
    (slack,) = problem(policies=[{"kind": "affinity", "slack": -1.0}])
    assert slack.field == "placement.slack"
    both = problem(policies=["epbl", "random2"])
    assert len(both) == 2


def test_too_few_slots_are_named():
    with pytest.raises(InvalidInput, match=r"placement\.slots_per_rank: 8 experts on 4 ranks need at least 2 slots"):
        place(
            SCENARIO,
            (*ONE_SERVER[:3], "placement.slots_per_rank=1"),
            policies=["eplb"],
        )


def test_pipeline_stages_instances_and_split_experts_move_their_own_weights():
    """Eight experts on 4 × 2 ranks of each of two stages, in two instances: every byte of an expert moves once."""
    changes = (
        "cluster.devices=32",
        "parallelism={attention_dp: 4, tp: 2, ep: 4, expert_tp: 2, pp: 2, instances: 2}",
        "placement={kind: contiguous, slots_per_rank: 2}",
        "workload.sequences_per_rank=8",
    )
    assembly = assemble(read_scenario(SCENARIO, changes))
    old = assembly.deployment.placement
    swapped = dataclasses.replace(old, name="swapped", expert=old.expert[:, [1, 0, 2, 3]])
    node = assembly.deployment.cluster.node[assembly.deployment.parallelism.expert_grid[0, 0, :, 0]]
    moved = migration(assembly.deployment, old, swapped, node, 2)
    expert = 3 * 4096 * 14336 * 2
    assert moved.bytes == 2 * 32 * 4 * expert  # instances × layers × experts of two ranks
    assert moved.seconds > 32 / 2 * 2 * expert / 2 / 450e9  # a rank's half of two experts, in the layers of its stage
    study = place(SCENARIO, changes, policies=["contiguous", {"kind": "topology_aware", "sequences": "affinity"}])
    assert (study.table["step_time_s"] > 0).all()
