"""``moesim place`` as a user types it."""

import json

SMALL = (
    "place", "placement-mixtral-h100", "--set", "cluster.devices=4", "--set", "parallelism={attention_dp: 4, ep: 4}",
    "--set", "workload.sequences_per_rank=8", "--set", "placement.slots_per_rank=2", "--judge-on", "python",
)  # fmt: skip
POLICIES = ("--policy", "contiguous,greedy", "--policy", "{kind: eplb, replica_choice: nearest}")


def test_a_study_prints_a_row_a_policy_and_draws_before_and_after(moesim, tmp_path):
    code, out, err = moesim(*SMALL, *POLICIES, "--out", tmp_path / "out")
    assert code == 0, err
    assert [line.split("  ")[0] for line in out.splitlines()[5:8]] == [
        "contiguous", "greedy", "eplb (replica_choice: nearest)",
    ]  # fmt: skip
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"rank_load.png", "tradeoff.png", "policies.csv", "placement.json"}
    saved = json.loads((tmp_path / "out" / "placement.json").read_text())
    assert [row["kind"] for row in saved["policies"]] == ["contiguous", "greedy", "eplb"]


def test_the_same_study_prints_the_same_bytes(moesim):
    first, second = moesim(*SMALL, "--policy", "greedy", "--json"), moesim(*SMALL, "--policy", "greedy", "--json")
    assert first == second
    row = json.loads(first[1])["policies"][0]
    assert next(iter(row)) == "name"


def test_a_wrong_policy_is_told_with_what_to_write(moesim):
    code, out, err = moesim("place", "placement-mixtral-h100", "--policy", "greedier")
    assert (code, out) == (2, "")
    assert "policy: no placement policy is named 'greedier'; did you mean 'greedy'?" in err
