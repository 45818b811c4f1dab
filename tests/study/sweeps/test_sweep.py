"""Sweeps that are stopped, killed, sharded and spread over a cluster: nothing is lost, nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pandas as pd
import pytest

from moesim.errors import InvalidInput
from moesim.study import scenarios
from moesim.study.sweeps import sweep as sweeping
from moesim.study.sweeps.grid import read_grid
from moesim.study.sweeps.schedulers import WorkerDied, executor
from moesim.study.sweeps.sweep import collect, read_run, run_grid, sweep

SCENARIO = "mixtral-8x7b-h100"
CONTEXTS = {"workload.context": [256, 512, 1024, 2048]}


@pytest.fixture
def counted(monkeypatch):
    """Every scenario that this process runs."""
    ran = []
    run = scenarios.run_document

    def counting(document, changes):
        ran.append(changes)
        return run(document, changes)

    monkeypatch.setattr(scenarios, "run_document", counting)
    return ran


def test_a_sweep_is_a_table_in_the_order_of_the_grid(tmp_path):
    over = {"workload.context": [2048, 1024], "workload.sequences_per_rank": [64, 100_000]}
    table = sweep(SCENARIO, over, folder=tmp_path, jobs=1)
    assert table["workload.context"].tolist() == [2048, 2048, 1024, 1024]
    assert table["status"].tolist() == ["ok", "infeasible"] * 2
    assert table["reason"].str.contains("bytes too many").tolist() == [False, True] * 2
    fine = table[table["status"] == "ok"]
    assert fine["step_time_s"].is_monotonic_decreasing  # as the context shrinks
    assert fine["breakdown_s.experts"].gt(0).all()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), table)


def test_a_run_of_a_sweep_is_that_of_run(tmp_path):
    from moesim.study.step.run import run_scenario

    key = sweep(SCENARIO, {"seed": [5]}, folder=tmp_path, jobs=1)["key"][0]
    assert json.loads(read_run(tmp_path, key)["metrics"]) == run_scenario(SCENARIO, ["seed=5"]).metrics


def test_any_kind_of_scenario(tmp_path):
    table = sweep(
        "serving-deepseek-v3-b200",
        {"load.arrivals.in_flight": [2, 4]},
        ["load.requests=8"],
        folder=tmp_path,
        jobs=1,
    )
    assert table["output_tokens_per_s_per_device"].is_monotonic_increasing


def test_what_is_there_is_not_run_again(tmp_path, counted):
    sweep(SCENARIO, {"workload.context": [256, 512]}, folder=tmp_path, jobs=1)
    sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1)
    assert len(counted) == 4
    sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1)
    assert len(counted) == 4


def test_broken_and_failed_results_are_run_again(tmp_path, counted, monkeypatch):
    table = sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1)
    broken = tmp_path / "runs" / f"{table['key'][1]}.parquet"
    broken.write_bytes(broken.read_bytes()[:1000])
    sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1)
    assert len(counted) == 5

    def fault(document, changes):
        raise ZeroDivisionError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(scenarios, "run_document", fault)
        failed = sweep(SCENARIO, {"seed": [1, 2]}, folder=tmp_path, jobs=1)
    assert failed["status"].tolist() == ["failed", "failed"]
    assert failed["reason"][0] == "ZeroDivisionError: a fault"
    assert sweep(SCENARIO, {"seed": [1, 2]}, folder=tmp_path, jobs=1)["status"].tolist() == ["ok", "ok"]


def test_shards_are_parts_of_one_table(tmp_path, counted):
    first = sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1, shard=(1, 2))
    assert first["status"].tolist() == ["ok", "missing"] * 2
    both = sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1, shard=(2, 2))
    assert both["status"].tolist() == ["ok"] * 4
    assert len(counted) == 4
    with pytest.raises(InvalidInput, match="I from 1 to N"):
        sweep(SCENARIO, CONTEXTS, folder=tmp_path, shard=(3, 2))


def test_two_processes_do_not_do_the_same(tmp_path):
    with sweeping._alone(tmp_path, None), pytest.raises(InvalidInput, match="another process"):
        sweep(SCENARIO, CONTEXTS, folder=tmp_path, jobs=1)


def test_a_killed_sweep_goes_on(tmp_path, counted):
    over = "workload.context=256,512,1024,2048,300,400,500,600"
    command = [sys.executable, "-m", "moesim", "sweep", SCENARIO, "--over", over, "--jobs", "1", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = tmp_path / "runs"
    until = time.monotonic() + 60
    while len(list(runs.glob("*.parquet"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = len(list(runs.glob("*.parquet")))
    assert 3 <= kept < 8
    grid = read_grid(SCENARIO, [{"workload.context": [int(v) for v in over.partition("=")[2].split(",")]}])
    assert (collect(grid, tmp_path)["status"] == "ok").sum() == kept
    table = run_grid(grid, folder=tmp_path, jobs=1)
    assert table["status"].tolist() == ["ok"] * 8
    assert len(counted) == 8 - kept


def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path):
    # A limit on the size of files stops writes as a full disk does, in the middle.
    code = (
        "import resource, sys; from moesim.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        f"sys.argv = ['moesim', 'sweep', '{SCENARIO}', '--over', 'seed=1,2', '--jobs', '1', "
        f"'--out', {str(tmp_path)!r}];"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"{tmp_path}: cannot be written (File too large); 0 of 2 runs are kept; make room" in done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


def test_a_run_that_kills_its_process_is_found_and_the_rest_is_done(tmp_path):
    points = read_grid(SCENARIO, [CONTEXTS]).points
    bad, died = points[1].key, []

    def execute(function, tasks):  # two at a time, as a pool would
        for start in range(0, len(tasks), 2):
            if any(task.key == bad for task in tasks[start : start + 2]):
                died.append(len(tasks))
                raise WorkerDied
            yield from ((task.key, {"status": "ok"}) for task in tasks[start : start + 2])

    answers = dict(sweeping._answers(execute, points))
    assert [answers[point.key]["status"] for point in points] == ["ok", "failed", "ok", "ok"]
    assert "worker died" in answers[bad]["reason"]
    assert died[-1] == 1  # it was alone when it was blamed


def test_a_process_of_this_machine_that_dies():
    def task(number):
        if number == 1:
            os._exit(9)
        return number

    with executor(None, 2) as execute:
        with pytest.raises(WorkerDied):
            list(execute(task, (0, 1, 2, 3)))
        assert sorted(execute(task, (0, 2, 3))) == [0, 2, 3]


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("nowhere", "cannot read 'nowhere'"),
        ("http://a:1", "tcp://HOST:8786"),
        ("tcp://127.0.0.1:9", "no Dask scheduler"),
    ],
)
def test_a_scheduler_that_is_none(tmp_path, monkeypatch, scheduler, said):
    if scheduler.startswith("tcp"):
        pytest.importorskip("distributed")
    monkeypatch.setattr("moesim.study.sweeps.schedulers._CONNECT_S", 0.3)
    with pytest.raises(InvalidInput, match="--scheduler") as caught:
        sweep(SCENARIO, {"seed": [1]}, folder=tmp_path, scheduler=scheduler)
    assert said in str(caught.value)


def test_a_worker_of_another_version_is_refused(tmp_path, monkeypatch):
    @contextmanager
    def old(scheduler, jobs):
        yield lambda function, tasks: (
            (key, result | {"moesim_version": "0.0.1"}) for key, result in map(function, tasks)
        )

    monkeypatch.setattr(sweeping, "executor", old)
    with pytest.raises(InvalidInput, match=r"a worker has moesim 0\.0\.1, this is"):
        sweep(SCENARIO, {"seed": [1]}, folder=tmp_path)
    assert not list((tmp_path / "runs").glob("*"))


def dask_worker(address):
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    return subprocess.Popen([*command, "--no-dashboard"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_dask_cluster_that_loses_a_worker_half_way(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        with monkeypatch.context() as patch:
            patch.setattr("moesim.study.sweeps.schedulers._CONNECT_S", 0.5)
            with pytest.raises(InvalidInput, match="has no workers; start some with: dask worker tcp://"):
                sweep(SCENARIO, {"seed": [1]}, folder=tmp_path, scheduler=cluster.scheduler_address)
        workers = [dask_worker(cluster.scheduler_address) for _ in range(2)]
        try:
            with distributed.Client(cluster) as client:
                client.wait_for_workers(2, timeout=60)

            def kill_one(done, total):
                if done == total // 2:
                    workers[0].send_signal(signal.SIGKILL)
                    workers[0].wait()

            over = {"workload.context": [256, 1024], "seed": [1, 2, 3, 4]}
            table = sweep(SCENARIO, over, folder=tmp_path, scheduler=cluster.scheduler_address, progress=kill_one)
            assert workers[0].returncode == -signal.SIGKILL
            assert workers[1].poll() is None
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert table["status"].tolist() == ["ok"] * 8
    assert len(list((tmp_path / "runs").glob("*"))) == 8
    assert not list(tmp_path.rglob("*.partial"))
    here = sweep(SCENARIO, {"workload.context": [1024], "seed": [2]}, folder=tmp_path / "here", jobs=1)
    same = table[table["key"] == here["key"][0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, here, check_like=True)
