"""Sweeps: every scenario of a grid, each result kept as soon as it is there, so that a stopped sweep goes on.

The results lie in a folder, one Parquet file a run, named by the hash of everything that the run depends on
(`moesim.study.results.inputs.Inputs.content_hash`) and put in place whole. Only the process that sweeps writes them:
workers of a cluster need neither the folder nor a shared disk. Whatever is there is not run again, whoever put it
there: the same sweep before it was stopped, a shard of it, or another sweep with some scenarios in common.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

import moesim
from moesim.errors import InvalidInput, Problem
from moesim.files import whole_file, write_table
from moesim.study.scenarios import Attempt, attempt
from moesim.study.sweeps.grid import Axes, Grid, Point, as_text, read_grid
from moesim.study.sweeps.schedulers import Executor, WorkerDied, executor

STATUSES = ("ok", "infeasible", "invalid", "failed", "missing")
# What a result says of its scenario, which is the same in every row or stands in the varied fields.
_OF_THE_SCENARIO = ("metrics", "changes", "schema_version", "scenario", "scenario_hash", "title", "description")
FINAL = STATUSES[:3]  # would come out the same again
RESULTS = "results.parquet"
_DIED = "its worker died, again when tried again (killed by the system, for instance when memory ran out)"

Progress = Callable[[int, int], None]


def sweep(
    scenario: str,
    over: Mapping[str, Sequence[object]] | Axes = (),
    changes: Iterable[str] = (),
    *,
    folder: str | Path = "out/sweep",
    jobs: int | None = None,
    scheduler: str | None = None,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run every scenario of a grid that `folder` has no result of, and return all results, one row a run.

    scenario: name or path of a scenario of any kind, or a sweep file. over: fields to vary and their values; a list of
    such mappings where the fields of one are to change together. jobs, scheduler: see
    `moesim.study.sweeps.schedulers.executor`. shard: (i, n) to run only every n-th scenario from the i-th (from 1) on.

    Columns: the varied fields; status (`STATUSES`; missing: of another shard), reason; the figures of ``--json`` with
    dotted names; key. Raises InvalidInput before anything runs when a field or value of the grid is wrong, and when a
    result cannot be written; what was written stays.
    """
    axes = [{field: values} for field, values in over.items()] if isinstance(over, Mapping) else over
    return run_grid(
        read_grid(scenario, axes, changes),
        folder=folder,
        jobs=jobs,
        scheduler=scheduler,
        shard=shard,
        progress=progress,
    )


def run_grid(
    grid: Grid,
    *,
    folder: str | Path,
    jobs: int | None = None,
    scheduler: str | None = None,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """`sweep` for a grid that is already read."""
    folder = Path(folder)
    mine = grid.points if shard is None else _shard(grid.points, *shard)
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        with _alone(folder, shard):
            _compute(folder, mine, jobs, scheduler, progress)
            table = collect(grid, folder)
            write_table(folder / RESULTS, table)
    except OSError as error:
        kept = sum(read_run(folder, point.key) is not None for point in mine)
        told = f"cannot be written ({error.strerror or error}); {kept} of {len(mine)} runs are kept"
        raise InvalidInput(
            Problem(f"{told}; make room or name another folder, then give the command again", file=str(folder))
        ) from error
    return table


def collect(grid: Grid, folder: str | Path) -> pd.DataFrame:
    """The results of a grid that a folder holds, in the order of the grid, without running anything."""
    rows = []
    for point in grid.points:
        found = read_run(Path(folder), point.key) or {"status": "missing", "reason": ""}
        values = {field: _cell(value) for field, value in point.values.items()}
        hidden = {*values, *_OF_THE_SCENARIO}
        rows.append(values | {name: value for name, value in found.items() if name not in hidden})
    table = pd.DataFrame(rows)
    for field in grid.fields:
        if not pd.api.types.is_numeric_dtype(table[field]):
            table[field] = table[field].map(str)
    first = [*grid.fields, "status", "reason"]
    return table[[*first, *(column for column in table if column not in (*first, "key"))]].assign(
        key=[point.key for point in grid.points]
    )


def read_run(folder: Path, key: str, columns: Sequence[str] | None = None) -> dict[str, object] | None:
    """One kept result; metrics: all that ``--json`` prints, as a text. None where there is none, or not a whole one."""
    from pyarrow.parquet import ParquetFile  # several times as fast as pandas for one row

    try:
        return ParquetFile(_place(folder, key)).read(columns=columns).to_pylist()[0]
    except (OSError, ValueError, IndexError):
        return None


def run_point(point: Point) -> tuple[str, dict[str, object]]:
    """(key, result) of one scenario. A run that goes wrong has a status and a reason instead of metrics."""
    return point.key, _result(point, attempt(point.document, point.changes))


def _compute(
    folder: Path, points: Sequence[Point], jobs: int | None, scheduler: str | None, progress: Progress | None
) -> None:
    missing = [point for point in points if not _settled(read_run(folder, point.key, ["status"]))]
    done = len(points) - len(missing)
    if progress is not None:
        progress(done, len(points))
    if not missing:
        return
    with whole_file(folder / ".room") as probe:  # a place that takes no files is told before the work
        probe.write_bytes(b"\0" * 65_536)
    (folder / ".room").unlink()
    with executor(scheduler, jobs) as execute:
        for count, (key, result) in enumerate(_answers(execute, missing), done + 1):
            if result["moesim_version"] != moesim.__version__:
                told = f"a worker has moesim {result['moesim_version']}, this is {moesim.__version__}"
                raise InvalidInput(Problem(f"{told}; install the same on both", "--scheduler"))
            _keep(folder, key, result)
            if progress is not None:
                progress(count, len(points))


def _settled(result: Mapping[str, object] | None) -> bool:
    return result is not None and result["status"] in FINAL


def _answers(execute: Executor, points: Sequence[Point]) -> Iterator[tuple[str, dict[str, object]]]:
    """Every point's answer once. Points that no worker survives are answered as failed."""
    pending = {point.key: point for point in points}
    while pending:
        before = len(pending)
        try:
            for key, result in execute(run_point, tuple(pending.values())):
                del pending[key]
                yield key, result
            lost = tuple(pending)
        except WorkerDied:
            # Which run killed it? The first ones were under way: where nothing else came of it, they run alone.
            lost = ()
            if len(pending) == before:
                suspect = next(iter(pending.values()))
                found = list(_survived(execute, suspect))
                lost = () if found else (suspect.key,)
                for key, result in found:
                    del pending[key]
                    yield key, result
        for key in lost:
            point = pending.pop(key)
            yield key, _result(point, Attempt("failed", _DIED, {}))


def _survived(execute: Executor, point: Point) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        yield from execute(run_point, (point,))
    except WorkerDied:
        return


def _result(point: Point, found: Attempt) -> dict[str, object]:
    return {
        "status": found.status,
        "reason": found.reason,
        "moesim_version": moesim.__version__,
        "changes": ", ".join(point.changes),
        "metrics": json.dumps(found.metrics, ensure_ascii=False, allow_nan=False),
    }


def _keep(folder: Path, key: str, result: Mapping[str, object]) -> None:
    figures = pd.json_normalize(json.loads(result["metrics"]))
    # Lists (one entry a server) stay in `metrics` alone; what the result says of itself is there once.
    figures = figures.drop(columns=[c for c in figures if isinstance(figures[c].iloc[0], list) or c in result])
    buffer = io.BytesIO()
    pd.concat([pd.DataFrame([{"key": key, **result}]), figures], axis=1).to_parquet(buffer)
    with whole_file(_place(folder, key)) as partial:
        partial.write_bytes(buffer.getvalue())


def _place(folder: Path, key: str) -> Path:
    return folder / "runs" / f"{key}.parquet"


def _cell(value: object) -> object:
    """A varied value as a table holds it."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else as_text(value)


def _shard(points: Sequence[Point], index: int, count: int) -> Sequence[Point]:
    if not 1 <= index <= count:
        raise InvalidInput(Problem(f"write I/N with I from 1 to N, not {index}/{count}", "--shard"))
    return points[index - 1 :: count]


@contextmanager
def _alone(folder: Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """Refuse the second of two processes that would do the same runs; shards do different ones in one folder."""
    try:
        import fcntl
    except ImportError:  # Windows: two sweeps at once do some runs twice, and lose nothing
        yield
        return
    name = ".lock" if shard is None else ".lock-{}-of-{}".format(*shard)
    with (folder / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                Problem("another process is sweeping here; let it end first", file=str(folder))
            ) from None
        yield
