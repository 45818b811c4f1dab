"""Runs over weeks through the product: figures, books, resuming, and every mistake named."""

import json

import pytest

from moesim.errors import InvalidInput
from moesim.study.reliability.training_runs import simulate_runs

SHIPPED = "resilience-2048-gpus"
STEP = "step: {time: 10 s, devices: 64, node: 8, tokens: 1000000}"


@pytest.fixture
def file(tmp_path):
    """Write a changed copy of a small run."""
    text = """
step: {time: 10 s, devices: 64, node: 8, tokens: 1000000}
duration: 20 days
failures:
  detection: 1 min
  node: {mtbf: 2000 h, repair: 2 h}
recovery: {kind: restart, restart: 5 min, replica_devices: 16}
spares: 1
checkpoint: {interval: 1 h, size: 1 TB, bandwidth: 10 GB/s, node_bandwidth: 5 GB/s, storage: 10 TB}
seeds: 6
"""

    def write(**replacements):
        changed = text
        for old, new in replacements.items():
            assert old in changed
            changed = changed.replace(old, new)
        path = tmp_path / "run.yaml"
        path.write_text(changed)
        return path

    return write


def test_the_shipped_run_loses_what_dalys_formula_says_and_stragglers_beside():
    metrics = simulate_runs(SHIPPED, ["seeds=12"]).metrics
    assert metrics["goodput"]["mean"] == pytest.approx(metrics["goodput_by_daly"], abs=0.01)
    assert metrics["goodput"]["mean"] < metrics["goodput_by_daly"]
    # The interval that loses least is Daly's, within the next ones tried.
    checkpoint = metrics["checkpoint"]
    assert 0.4 < checkpoint["interval_s"] / checkpoint["daly_s"] < 2.1
    assert sum(metrics["spent_share"].values()) == pytest.approx(1.0)


def test_tokens_as_the_end_give_days_and_device_hours(file):
    result = simulate_runs(file(**{"duration: 20 days": "tokens: 1.0e11"}))
    work = 1e11 / 1e6 * 10
    assert result.metrics["wall_s"]["mean"] == pytest.approx(work / result.table["goodput"].mean(), rel=0.01)
    assert (result.table["tokens"] - 1e11).abs().max() < 1e7


def test_a_full_checkpoint_is_written_by_one_replica_and_stops_the_job_longer(file):
    full = simulate_runs(file(**{"interval: 1 h": "interval: 1 h, kind: full"})).metrics["checkpoint"]
    sharded = simulate_runs(file()).metrics["checkpoint"]
    assert full["write_s"] == pytest.approx(1e12 / 10e9)  # 16 devices are two nodes of 5 GB/s
    assert sharded["write_s"] == pytest.approx(1e12 / 10e9)  # bounded by the storage
    slow = simulate_runs(file(**{"interval: 1 h": "interval: 1 h, kind: full"}), ["checkpoint.bandwidth=40 GB/s"])
    assert slow.metrics["checkpoint"]["write_s"] == pytest.approx(100.0)


def test_an_interrupted_study_goes_on_where_it_stopped(file, tmp_path):
    path, out = file(), tmp_path / "out"

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_runs(path, keep=out, progress=stop)
    (kept,) = out.glob("seeds-*.json")
    assert len(json.loads(kept.read_text())) == 3
    whole, again = simulate_runs(path), simulate_runs(path, keep=out)
    assert again.metrics == whole.metrics
    assert not list(out.glob(".*"))


def test_recorded_failures_are_replayed(file, tmp_path):
    (tmp_path / "log.csv").write_text("hours,scope\n10,node\n30,node\n")
    path = file(**{"mtbf: 2000 h": "mtbf: 2000000000 h", "  detection": "  log: log.csv\n  detection"})
    assert simulate_runs(path).metrics["failures"] == {"node": 2.0}


def test_no_progress_is_said(file):
    result = simulate_runs(file(**{"mtbf: 2000 h": "mtbf: 0.1 h"}), ["seeds=1"])
    assert "no progress" in result.metrics["stopped"][0]


def test_a_simulated_step_says_its_devices_and_time(file):
    path = file(**{STEP: "step: {scenario: mixtral-8x7b-h100, set: ['workload.sequences_per_rank=8']}"})
    metrics = simulate_runs(path, ["seeds=1"]).metrics
    assert metrics["step"]["devices"] == 8
    assert metrics["step"]["tokens"] == 8
    assert "Mixtral" in metrics["step"]["source"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("storage: 10 TB", "storage: 1 TB", "2 checkpoint(s) of 1 TB do not fit in 1 TB of storage"),
        ("node: {mtbf: 2000 h", "node: {mtbf: 0 h", "failures.node.mtbf: must be above zero"),
        ("repair: 2 h}", "repair: 2 h}\n  switch: {mtbf: 1 h, repair: 1 h}", "failures.switch.devices: say how many"),
        ("duration: 20 days", "duration: 20 days\ntokens: 1.0e9", "duration: write either duration"),
        ("kind: restart, ", "kind: reroute, ", "recovery.regroup: reroute needs it"),
        ("kind: restart, ", "kind: reroute, regroup: 60 s, ", "slowdown_without_rank: reroute needs it"),
        ("interval: 1 h", "interval: 1 h, kind: delta", "checkpoint.kind: a delta needs a training scenario"),
        ("size: 1 TB, ", "", "checkpoint.size: say how large the state is"),
        ("interval: 1 h", "interval: 1 h, asynchronous: true", "checkpoint.snapshot: say how long"),
        (STEP, "step: {scenario: nowhere}", "nowhere"),
        (
            STEP,
            "step: {scenario: serving-deepseek-v3-b200}",
            "step.scenario: names serving-deepseek-v3-b200",
        ),
        ("  detection", "  log: absent.csv\n  detection", "failures.log: cannot read"),
    ],
)
def test_mistakes_are_named_with_their_place(file, old, new, told):
    with pytest.raises(InvalidInput) as error:
        simulate_runs(file(**{old: new}))
    assert told in str(error.value)
    assert "run.yaml:" in str(error.value)
