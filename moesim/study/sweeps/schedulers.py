"""Where the runs of a sweep are computed: processes of this machine, or a Dask or Ray cluster, all through joblib."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from moesim.errors import InvalidInput, Problem

Task = TypeVar("Task")
Answer = TypeVar("Answer")
# Computes function(task) for every task, and yields the answers as they come. A task that is not answered at the end
# took its workers with it, again and again. Raises WorkerDied where a death leaves the rest undone.
Executor = Callable[[Callable[[Task], Answer], Sequence[Task]], Iterator[Answer]]

_LOST = object()  # stands for the answer of a task whose workers died
_CONNECT_S = 10  # to find a scheduler, and again to find its first worker
_EXTRA = {"dask": "distributed", "ray": "ray"}


class WorkerDied(Exception):
    """A process of this machine died (killed by the system, say for its memory); others' tasks can be tried again."""


@contextmanager
def executor(scheduler: str | None = None, jobs: int | None = None) -> Iterator[Executor]:
    """What computes tasks. scheduler: None for this machine, ``tcp://host:8786`` (also tls, ucx, ws) of a Dask
    scheduler, ``ray://host:10001`` or ``ray`` (the cluster this machine belongs to). jobs: processes; None for as
    many as there are processors, or slots in the cluster.

    Raises InvalidInput for an address that is none, or where nobody answers.
    """
    if jobs is not None and jobs < 1:
        raise InvalidInput(Problem("write a number of processes from 1 on", "--jobs"))
    with _opener(scheduler)(scheduler, jobs) as found:
        yield found


def _opener(scheduler: str | None) -> Callable:
    if scheduler is None:
        return _local
    protocol = scheduler.partition("://")[0]
    openers = dict.fromkeys(("tcp", "tls", "ucx", "ws", "wss"), _dask) | {"ray": _ray}
    if protocol not in openers or (protocol != "ray" and protocol == scheduler):
        raise InvalidInput(
            Problem(f"cannot read {scheduler!r}; write tcp://HOST:8786 (Dask) or ray://HOST:10001 (Ray)", "--scheduler")
        )
    return openers[protocol]


@contextmanager
def _local(scheduler: None, jobs: int | None) -> Iterator[Executor]:
    from joblib import cpu_count

    yield partial(_as_they_come, n_jobs=jobs or cpu_count(), backend="loky")


@contextmanager
def _dask(scheduler: str, jobs: int | None) -> Iterator[Executor]:
    Client = _need("dask").Client
    try:
        client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(Problem(f"no Dask scheduler answers at {scheduler} ({error})", "--scheduler")) from None
    try:
        _wait_for_workers(client, scheduler)
        yield partial(_on_dask, client=client, scheduler=scheduler)
    finally:
        client.close()


def _wait_for_workers(client: object, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_CONNECT_S)
    except TimeoutError:
        how = f"start some with: dask worker {scheduler} --nworkers auto"
        raise InvalidInput(Problem(f"the Dask scheduler at {scheduler} has no workers; {how}", "--scheduler")) from None


@contextmanager
def _ray(scheduler: str, jobs: int | None) -> Iterator[Executor]:
    ray = _need("ray")
    from ray.util.joblib import register_ray

    register_ray()
    started = not ray.is_initialized()
    if started:
        address = "auto" if scheduler == "ray" else scheduler
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, OSError, ValueError) as error:
            raise InvalidInput(Problem(f"no Ray cluster answers at {scheduler} ({error})", "--scheduler")) from None
    try:
        yield partial(_in_rounds, n_jobs=jobs or int(ray.cluster_resources()["CPU"]), backend="ray")
    finally:
        if started:
            ray.shutdown()


def _as_they_come(
    function: Callable, tasks: Sequence, *, n_jobs: int, backend: object, pre_dispatch: str = "2*n_jobs"
) -> Iterator:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    with parallel_config(backend=backend):
        parallel = Parallel(n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=pre_dispatch)
    try:
        yield from parallel(delayed(function)(task) for task in tasks)
    except TerminatedWorkerError as error:
        raise WorkerDied from error


def _on_dask(function: Callable, tasks: Sequence, *, client: object, scheduler: str) -> Iterator:
    # All tasks are handed in at once, so that workers that join later get their share. Dask itself tries a task again
    # on another worker when one dies. Tasks must not be weakly referable: joblib would leave one on a single worker.
    for answer in _as_they_come(function, tasks, n_jobs=-1, backend=_dask_backend(client), pre_dispatch="all"):
        if answer is not _LOST:
            yield answer
        elif client.status != "running":
            raise InvalidInput(Problem(f"the Dask scheduler at {scheduler} is gone", "--scheduler"))


def _dask_backend(client: object) -> object:
    """joblib's Dask backend, with an answer for tasks that Dask gives up. joblib 1.6 waits for those for ever."""
    import asyncio

    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        async def _collect(self):
            while self._continue:
                async for future, result in self.waiting_futures:
                    answered, callback = self._results.pop(future), self._callbacks.pop(future)
                    # A task's own errors are part of its answer: what remains is dead workers and a lost scheduler.
                    answer = [_LOST] if future.status in ("error", "cancelled") else result
                    answered.set_result(answer)
                    callback(answer)
                await asyncio.sleep(0.01)

    return Backend(client=client)


def _in_rounds(function: Callable, tasks: Sequence, *, n_jobs: int, backend: str) -> Iterator:
    """For a backend that cannot hand answers back one by one: a few tasks a process, then the next few."""
    from joblib import Parallel, delayed, parallel_config

    size = 2 * n_jobs
    for start in range(0, len(tasks), size):
        with parallel_config(backend=backend):
            parallel = Parallel(n_jobs, batch_size=1)
        yield from parallel(delayed(function)(task) for task in tasks[start : start + size])


def _need(extra: str) -> object:
    import importlib

    # Ray counts uses and sends them home unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module(_EXTRA[extra])
    except ImportError:
        raise InvalidInput(Problem(f"{extra} is not installed; pip install 'moesim[{extra}]'", "--scheduler")) from None
