"""Where a finding of a check is to be shown: the line that someone changed, or the line of the baseline."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from moesim.study.regression_check.check import Check, Finding
from moesim.study.results.inputs import Inputs

Place = tuple[str, int]
_HUNK = re.compile(r"@@ -\S+ \+(\d+)")
_GIT_S = 10  # more than a diff of some files ever takes


def places(result: Check, since: str = "HEAD") -> dict[Finding, Place]:
    """(file, line) of each finding that is not ok: the first line that changed since a git revision in the files that
    the run read (scenario, profile, model), else the figure's own line in the baseline."""
    inputs = Inputs()
    files = {key: (Path(d.file), *inputs.files(d)) for key, d in result.sources.items()}
    told = [finding for finding in result.findings if finding.verdict != "ok"]
    read = {path for finding in told for path in files.get((finding.part, finding.name), ())}
    changed = changed_lines(read, since)
    found = {}
    for finding in told:
        first = next((p for p in files.get((finding.part, finding.name), ()) if p.resolve() in changed), None)
        found[finding] = _here(first, changed[first.resolve()]) if first else _in_baseline(result, finding)
    return found


def changed_lines(files: Iterable[Path], since: str) -> Mapping[Path, int]:
    """The first changed line of each file that git says has changed since a revision; {} outside of a work tree."""
    found: dict[Path, int] = {}
    for folder in {path.resolve().parent for path in files}:
        names = sorted(path.name for path in files if path.resolve().parent == folder)
        command = ["git", "-C", str(folder), "diff", "--unified=0", "--no-color", "--no-ext-diff", "--relative"]
        try:
            done = subprocess.run([*command, since, "--", *names], capture_output=True, text=True, timeout=_GIT_S)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        name = ""
        for line in done.stdout.splitlines() if done.returncode == 0 else ():
            if line.startswith("+++ "):
                name = line.removeprefix("+++ ").removeprefix("b/").strip()
            elif (hunk := _HUNK.match(line)) and (folder / name).is_file():
                found.setdefault((folder / name).resolve(), max(int(hunk[1]), 1))
    return found


def _here(path: Path, line: int) -> Place:
    """The path as seen from here, as annotations want it."""
    try:
        return str(path.resolve().relative_to(Path.cwd())), line
    except ValueError:
        return str(path), line


def _in_baseline(result: Check, finding: Finding) -> Place:
    inside = {"runs": ("metrics", finding.figure), "anchors": ("error",), "tables": ("errors", finding.figure)}
    if finding.part in inside and finding.figure != "status":
        field = (finding.part, finding.name, *inside[finding.part])
    else:
        field = tuple(filter(None, (finding.part, finding.name, finding.figure)))
    return _here(Path(result.baseline.file), result.baseline.problem(field, "", at_key=True).line or 1)
