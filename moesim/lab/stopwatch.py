"""Runs timed tasks in one process a device, over and over in turn, and keeps what it has when it is stopped.

All tasks are timed once in every round, so that calibration and what it is judged by see the same machine, whatever
else runs on it; a task's time is the shortest of all its samples, which no other job has disturbed. Every time is
appended to a file at once: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from moesim.errors import InvalidInput, Problem
from moesim.lab.place import Call, Place, Task, Worker

Progress = Callable[[str, int, int], None]  # (what is being done, timings done, timings in all)

_ROUND_S = 0.05  # spent on the samples of one task in one round
_SAMPLES = (3, 15)  # fewest and most samples of one task in one round
_PATIENCE = timedelta(minutes=5)  # of a rank that waits for another


def time_tasks(
    place: Place,
    tasks: Sequence[Task],
    *,
    rounds: int,
    partial: Path,
    progress: Progress = lambda text, done, total: None,
) -> dict[str, float]:
    """Seconds of every task by key: the shortest over all rounds.

    partial: file of timings so far; a run with the same place and tasks continues it, and it stays until somebody
    removes it. Raises InvalidInput where it belongs to other tasks, RuntimeError when a worker fails.
    """
    done = _read_partial(partial, place, tasks)
    total = rounds * len(tasks)
    todo = [(turn, n) for turn in range(rounds) for n, task in enumerate(tasks) if (turn, task.key) not in done]
    progress("timing", total - len(todo), total)
    if todo:
        with partial.open("a", encoding="utf-8") as file:
            for turn, key, seconds in _run(place, tasks, todo):
                done[turn, key] = seconds
                file.write(json.dumps({"round": turn, "key": key, "seconds": seconds}) + "\n")
                file.flush()
                progress("timing", len(done), total)
    return {task.key: min(done[turn, task.key] for turn in range(rounds)) for task in tasks}


def _read_partial(path: Path, place: Place, tasks: Sequence[Task]) -> dict[tuple[int, str], float]:
    """Timings of a file by (round, key); starts the file where there is none. A line cut off in writing is dropped."""
    about = json.dumps({"place": asdict(place), "torch": torch.__version__, "tasks": [task.key for task in tasks]})
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text.rpartition("\n")[0] or about
    if not text.endswith("\n"):
        path.write_text(whole + "\n", encoding="utf-8")
    first, *lines = whole.splitlines()
    if first != about:
        raise InvalidInput(Problem("holds timings of other tasks or of another machine; delete it", file=str(path)))
    rows = [json.loads(line) for line in lines]
    return {(row["round"], row["key"]): row["seconds"] for row in rows}


def _run(place: Place, tasks: Sequence[Task], todo: Sequence[tuple[int, int]]) -> Iterator[tuple[int, str, float]]:
    """Start the workers and yield (round, key, seconds) as they come."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with TemporaryDirectory(prefix="moesim-") as meeting:
        workers = multiprocessing.start_processes(
            _work, (place, tasks, todo, meeting, results), nprocs=place.processes, join=False, start_method="spawn"
        )
        try:
            for _ in todo:
                while results.empty():
                    if workers.join(timeout=0.02) and results.empty():
                        raise RuntimeError("the workers ended before all tasks were timed")
                yield results.get()
            while not workers.join():
                pass
        finally:
            for process in workers.processes:
                process.terminate()


def _work(
    rank: int, place: Place, tasks: Sequence[Task], todo: Sequence[tuple[int, int]], meeting: str, results: object
) -> None:
    """One process: times the tasks in the order that all of them agreed on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    _pin(rank, place)
    if place.device == "cuda":
        torch.cuda.set_device(rank)
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # host names need not resolve
    dist.init_process_group(
        place.backend, init_method=f"file://{meeting}/store", rank=rank, world_size=place.processes, timeout=_PATIENCE
    )
    worker = _worker(place, rank)
    prepared: dict[int, Call] = {}
    with torch.inference_mode():
        for turn, index in todo:
            task = tasks[index]
            if index not in prepared and rank < task.processes:
                prepared[index] = task.prepare(worker)
            seconds = _sample(worker, task, prepared.get(index))
            if rank == 0:
                results.put((turn, task.key, seconds))
    dist.destroy_process_group()


def _pin(rank: int, place: Place) -> None:
    """Keep a CPU process on a core of its own: left alone, the scheduler puts one that wakes another beside it."""
    if place.device == "cpu" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= place.processes:
            os.sched_setaffinity(0, {cores[rank]})


def _worker(place: Place, rank: int) -> Worker:
    device = torch.device(place.device, rank) if place.device == "cuda" else torch.device("cpu")
    pool = torch.rand(place.pool_bytes // place.dtype.itemsize, device=device).sub_(0.5).to(place.dtype)
    groups = {n: dist.new_group(range(n)) if n > 1 else None for n in range(1, place.processes + 1)}
    return Worker(place, rank, device, pool, groups)


def _sample(worker: Worker, task: Task, call: Call | None) -> float:
    """Shortest seconds of a task over one round's samples, the same on every rank.

    A sample lasts from the last start to the last end, on the clock that processes of a machine share: ranks of a model
    wait for the slowest one, and one that is disturbed while another is not tells nothing about both.
    """
    began = time.perf_counter()
    if call is not None:
        call.run()
        _synchronise(worker)
    once = worker.place.calls * (time.perf_counter() - began)
    count = torch.tensor([_ROUND_S / max(once, 1e-6)], dtype=torch.float64, device=worker.device)
    dist.broadcast(count, 0)
    samples = int(min(max(float(count), _SAMPLES[0]), _SAMPLES[1]))
    stamps = torch.zeros(samples, 2, dtype=torch.float64)
    for sample in range(samples):
        dist.barrier()
        if call is not None:
            call.approach()
            _synchronise(worker)
            stamps[sample, 0] = time.perf_counter()
            for _ in range(worker.place.calls):
                call.run()
            _synchronise(worker)
            stamps[sample, 1] = time.perf_counter()
    everyone = [torch.empty_like(stamps, device=worker.device) for _ in range(worker.place.processes)]
    dist.all_gather(everyone, stamps.to(worker.device))
    start, end = torch.stack(everyone[: task.processes]).cpu().unbind(2)
    return float((end.amax(0) - start.amax(0)).min()) / worker.place.calls


def _synchronise(worker: Worker) -> None:
    if worker.place.device == "cuda":
        torch.cuda.synchronize()
