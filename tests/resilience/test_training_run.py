"""Runs over weeks: exact timelines of recorded failures, books that add up, and Daly's formula as an anchor."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.resilience.checkpoints import Checkpointing, daly, expected_stretch, young
from moesim.resilience.failures import Failure, FailureClass
from moesim.resilience.process import Job, Operations
from moesim.resilience.recovery import RECOVERIES
from moesim.resilience.training_run import goodput_by_interval, run_training

NODE = FailureClass("node", 4, 8, 1e9, repair_s=500.0)
SLOW = FailureClass("straggler", 4, 1, 1e9, repair_s=50.0, slowdown=2.0)
CHECKPOINTS = Checkpointing(interval_s=100.0, pause_s=10.0, write_s=10.0, load_s=20.0)
RESTART = partial(RECOVERIES["restart"], restart_s=30.0)
JOB = Job(devices=32, node_devices=8, work_s=300.0, horizon_s=None)


def run(job=JOB, log=(), seed=0, **changes):
    plain = Operations((), CHECKPOINTS, RESTART, detection_s=5.0, log=tuple(log))
    return run_training(job, replace(plain, **changes), np.random.default_rng(seed))


def test_without_failures_a_run_is_work_and_the_checkpoints_between():
    log = run()
    assert log.wall_s == 320.0
    assert log.checkpoints == 2
    assert log.history == (
        (0.0, "work"),
        (100.0, "checkpoint"),
        (110.0, "work"),
        (210.0, "checkpoint"),
        (220.0, "work"),
    )


def test_a_failure_waits_for_the_repair_and_loses_the_work_since_the_checkpoint():
    log = run(log=[Failure(NODE, 1, 150.0)])
    # Work 0-100, saved by 110, 40 s of work lost at 150; known at 155, repaired at 650, loaded and started at 700.
    assert log.history[2:6] == ((110.0, "work"), (150.0, "detection"), (155.0, "waiting"), (650.0, "restart"))
    assert log.history[6] == (700.0, "work")
    assert log.spent["lost"] == 40.0
    assert log.wall_s == 700.0 + 200.0 + 10.0
    assert log.failures == {"node": 1}


def test_a_spare_replaces_the_node_at_once_and_the_repaired_one_is_the_next_spare():
    log = run(log=[Failure(NODE, 1, 150.0), Failure(NODE, 2, 250.0)], spares=1)
    assert log.spent["waiting"] == pytest.approx(650.0 - 255.0)  # the second waits for the first's repair
    assert log.spent["restart"] == 100.0


def test_a_checkpoint_in_the_background_is_not_safe_until_it_is_written():
    background = replace(CHECKPOINTS, pause_s=1.0, write_s=60.0)
    log = run(log=[Failure(NODE, 0, 120.0)], checkpointing=background, spares=1)
    assert log.spent["lost"] == 100.0 + 19.0  # written at 160 only: back to the start


def test_a_straggler_stretches_the_step_for_as_long_as_it_lasts():
    log = run(log=[Failure(SLOW, 0, 20.0)])
    assert log.spent["slowed"] == 25.0
    assert log.wall_s == 345.0


def test_a_smaller_job_goes_on_slower_and_grows_again():
    shrink = partial(RECOVERIES["shrink"], restart_s=30.0, replica_devices=8)
    log = run(log=[Failure(NODE, 0, 50.0)], recover=shrink)
    # 105: restarted with 3 of 4 replicas, until the node is back at 550; then it stops 30 s to take it in.
    assert log.spent["waiting"] == 0.0
    assert log.spent["restart"] == 50.0
    assert log.spent["slowed"] > 0.0
    assert log.spent["lost"] == 50.0


def test_rerouting_loses_no_work_and_dropping_says_what_share_it_drops():
    for kind, share in (("reroute", 0.0), ("drop", 0.25)):
        policy = partial(RECOVERIES[kind], restart_s=30.0, regroup_s=10.0, survives=8)
        log = run(log=[Failure(NODE, 0, 50.0)], recover=policy, measured=(1.5, 0.25))
        assert log.spent["lost"] == 0.0
        assert log.spent["work"] == pytest.approx(300.0)
        assert (log.dropped > 0.0) == (share > 0.0)


def test_more_losses_than_a_group_survives_are_a_restart():
    policy = partial(RECOVERIES["reroute"], restart_s=30.0, regroup_s=10.0, survives=1)
    assert run(log=[Failure(NODE, 0, 150.0)], recover=policy, measured=(1.5, 0.0)).spent["lost"] == 40.0


def test_a_run_that_makes_no_progress_is_given_up_and_says_so():
    hopeless = FailureClass("device", 1000, 1, mtbf_s=10_000.0, repair_s=1.0)
    log = run(classes=(hopeless,))
    assert "no progress" in log.stopped
    assert log.spent["work"] < 300.0


def test_equal_seeds_give_equal_runs():
    often = FailureClass("device", 32, 1, mtbf_s=5_000.0, repair_s=20.0)
    first, again, other = (run(classes=(often,), seed=seed, spares=2) for seed in (3, 3, 4))
    assert first.history == again.history != other.history


@given(
    mtbf=st.floats(200.0, 1e5),
    interval=st.floats(10.0, 500.0),
    write=st.floats(0.0, 200.0),
    spares=st.integers(0, 3),
    kind=st.sampled_from(("restart", "shrink", "reroute", "drop")),
    seed=st.integers(0, 99),
)
def test_every_second_is_booked_once(mtbf, interval, write, spares, kind, seed):
    keys = {"restart": {}, "shrink": {"replica_devices": 8}}.get(kind, {"regroup_s": 5.0, "survives": 8})
    recover = partial(RECOVERIES[kind], restart_s=30.0, **keys)
    classes = (FailureClass("node", 4, 8, 4 * mtbf, 100.0), FailureClass("straggler", 32, 1, 32 * mtbf, 40.0, 1.3))
    checkpoints = Checkpointing(interval, 5.0, write, 10.0)
    job = replace(JOB, work_s=None, horizon_s=3_000.0)
    log = run(
        job, seed=seed, classes=classes, recover=recover, spares=spares, checkpointing=checkpoints, measured=(1.2, 0.1)
    )
    assert sum(log.spent.values()) == pytest.approx(log.wall_s, abs=1e-6)
    assert min(log.spent.values()) >= -1e-6
    assert 0.0 <= log.goodput <= log.availability <= 1.0


def test_the_simulated_stretch_is_dalys_and_his_interval_loses_least():
    """Exponential failures, checkpoints safe at once: Daly's exact expectation, within 1 %."""
    mtbf, pause = 50_000.0, 60.0
    device = FailureClass("device", 100, 1, 100 * mtbf, 0.0)
    job = Job(100, 8, work_s=8e6, horizon_s=None)

    def with_interval(interval):
        return Operations((device,), Checkpointing(interval, pause, pause, 300.0), RESTART, detection_s=70.0, spares=1)

    best = daly(pause, mtbf)
    intervals = [best / 3, best, 3 * best]
    goodput = goodput_by_interval(job, intervals, with_interval, seeds=range(3)).mean(axis=1)
    expected = [1 / expected_stretch(interval, pause, 400.0, mtbf) for interval in intervals]
    np.testing.assert_allclose(goodput, expected, rtol=0.01)
    assert goodput.argmax() == 1


def test_dalys_interval_is_near_youngs_for_rare_failures():
    assert daly(60.0, 1e7) == pytest.approx(young(60.0, 1e7), rel=0.01)
    assert daly(100.0, 40.0) == 40.0
