"""Import a routing log of another system as a trace, or as a load table where it only counts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.cleaning import RawRoutes, clean
from moesim.routing.formats import FORMATS
from moesim.routing.load import LoadTable
from moesim.routing.trace import RouterTrace


def import_routes(
    path: str | Path,
    *,
    format: str | None = None,
    experts: int | None = None,
    keep_dummies: bool = False,
    read_pt: Callable[[Path], object] | None = None,
) -> RouterTrace | LoadTable:
    """Read a log: .npz, .npy, .pt, .safetensors, .json, .jsonl, or a folder of TensorRT-LLM statistics.

    format: a key of `moesim.routing.formats.FORMATS`; found from the content by default. experts: where the log does
    not tell their number. keep_dummies: keep rows that look like warm-up. read_pt: reader of PyTorch files
    (`moesim.lab.pt_files.read_pt`); this floor knows no torch. Nothing is ever unpickled.
    Raises InvalidInput naming the file.
    """
    path = Path(path)
    try:
        content = _load(path, read_pt)
        kind = format or _detect(content)
        if kind not in FORMATS:
            raise InvalidInput(f"format {kind!r} is unknown; write one of {', '.join(FORMATS)}")
        read = FORMATS[kind][1](content)
        source = f"imported from {path.name} ({kind})"
        if isinstance(read, RawRoutes):
            return clean(read, path.stem, source, experts=experts, keep_dummies=keep_dummies)
        return dataclasses.replace(read, name=path.stem, source=source)
    except InvalidInput as error:
        raise InvalidInput(dataclasses.replace(problem, file=str(path)) for problem in error.problems) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"{format} log" if format else "log of a known format"
        raise InvalidInput(Problem(f"is no {what}: {type(error).__name__}: {error}", file=str(path))) from error


def _load(path: Path, read_pt: Callable[[Path], object] | None) -> object:
    """The content of a file as plain Python and numpy values."""
    if path.is_dir():
        return _load_statistics(path)
    try:
        match path.suffix:
            case ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    return dict(archive)
            case ".npy":
                return np.load(path, allow_pickle=False)
            case ".safetensors":
                from safetensors.numpy import load_file

                return load_file(path)
            case ".json":
                return json.loads(path.read_text(encoding="utf-8"))
            case ".jsonl":
                return _load_lines(path)
            case ".pt" | ".pth":
                if read_pt is None:
                    raise InvalidInput("reading .pt files needs PyTorch; install the extra lab")
                return read_pt(path)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror or error}") from None
    raise InvalidInput(f"{path.suffix or 'no'} suffix; give a .npz, .npy, .pt, .safetensors, .json or .jsonl file")


def _load_lines(path: Path) -> list[object]:
    """JSON lines; a last line that is cut off (an interrupted log) is passed over."""
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise InvalidInput(Problem(f"line {number} is not JSON: {error}")) from None
    return records


def _load_statistics(folder: Path) -> dict[str, np.ndarray]:
    """TensorRT-LLM's folder: ``meta_info.json``, and of each rank its raw choices, or its counts if there are none."""
    from safetensors.numpy import load_file

    files = sorted(folder.glob("rank*_raw.safetensors")) or sorted(folder.glob("rank*.safetensors"))
    if not files:
        raise InvalidInput("the folder holds no rank*.safetensors")
    content = {f"{file.stem}/{key}": array for file in files for key, array in load_file(file).items()}
    about = folder / "meta_info.json"
    if about.exists():
        content["num_experts"] = np.array(json.loads(about.read_text())["num_experts"])
    return content


def _detect(content: object) -> str:
    for name, (fits, _) in FORMATS.items():
        if fits(content):
            return name
    raise InvalidInput(f"no known routing log; if it is one, name it with --format: {', '.join(FORMATS)}")
