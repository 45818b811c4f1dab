"""Safetensors files with a JSON story: mapped without reading, written so that nobody sees half a file.

What is not an array stands as JSON under one key of the header: several keys would come out in an arbitrary order, and
the same value must give the same bytes.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.files import whole_file

# Header key: what a file with it holds.
KINDS = {
    "moesim_trace": "a router trace",
    "moesim_load": "a load table (counts without tokens, for routing: {kind: bootstrap})",
}
_DTYPES = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def map_arrays(path: Path, names: Sequence[str]) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """The header's own keys, and those of the named arrays that the file has, as read-only views of it.

    Raises InvalidInput for files that are not safetensors, truncated, or hold other types.
    """
    header, body = _map(path)
    arrays = {}
    for name in [name for name in names if name in header]:
        try:
            dtype, shape, (first, last) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
            if last > len(body):
                message = f"the file is truncated: it holds {len(body)} bytes of data where {name} ends at {last}"
                raise InvalidInput(Problem(f"{message}; copy or capture it again", file=str(path)))
            arrays[name] = body[first:last].view(_DTYPES[dtype]).reshape(shape)
        except (KeyError, TypeError, ValueError):
            message = f"tensor {name} is not an array of numbers: {header[name]}"
            raise InvalidInput(Problem(message, file=str(path))) from None
    return header.get("__metadata__") or {}, arrays


def read_header(path: Path, header: Mapping[str, str], key: str, version: int, fields: Sequence[str]) -> dict:
    """The JSON under a key of the header. Raises InvalidInput unless it is of this version and has all the fields."""
    if key not in header:
        other = next((what for kind, what in KINDS.items() if kind in header), None)
        message = (
            f"is {other}, not {KINDS[key]}"
            if other
            else "a safetensors file, but not one of moesim; convert it with moesim import-trace"
        )
        raise InvalidInput(Problem(message, file=str(path)))
    try:
        about = dict(json.loads(header[key]))
    except (TypeError, ValueError):
        raise InvalidInput(Problem("its header is damaged; make it again", file=str(path))) from None
    if about.get("format") != version:
        message = f"is of format {about.get('format')}; this moesim reads format {version}"
        raise InvalidInput(Problem(message, file=str(path)))
    if missing := [field for field in fields if field not in about]:
        raise InvalidInput(Problem(f"its header lacks {', '.join(missing)}", file=str(path)))
    return {field: about[field] for field in fields}


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], key: str, about: Mapping[str, object]) -> Path:
    """Write arrays and their story to a temporary file beside `path`, then rename it."""
    from safetensors.numpy import save_file

    text = json.dumps(about, sort_keys=True, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, {key: text})
    return path


def _map(path: Path) -> tuple[dict, np.ndarray]:
    """Header and data (read-only bytes, mapped) of a safetensors file: u64 header length, JSON header, data."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8 or (length := struct.unpack("<Q", prefix)[0]) > size - 8:
                raise InvalidInput(Problem("not a safetensors file, or truncated inside its header", file=str(path)))
            header = dict(json.loads(file.read(length)))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None
    except (TypeError, ValueError):
        raise InvalidInput(Problem("the header is not JSON: not a safetensors file", file=str(path))) from None
    return header, np.frombuffer(mapped, dtype=np.uint8)[8 + length :]
