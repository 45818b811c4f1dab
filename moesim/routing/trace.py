"""Router traces: which experts each token chose at each MoE layer, as a value and as a file.

The file is plain safetensors, token-major, so that one inference step is one gather of whole rows and opening is one
`mmap` (`moesim.routing.container`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.checks import check_trace, shape_problems
from moesim.routing.container import map_arrays, read_header, write_arrays

FORMAT_VERSION = 1
HEADER_KEY = "moesim_trace"
CHECKED_AT_OPEN_BYTES = 64 * 2**20  # a full scan of this much takes about 0.2 s; larger traces wait for `check_trace`
_ARRAYS = ("ids", "offsets", "gates", "phase", "step", "positions", "token_ids", "count")
_HEADER = ("experts", "groups", "labels", "source", "synthetic", "metadata")


@dataclass(frozen=True, slots=True, eq=False)
class RouterTrace:
    """A captured (or synthetic) routing record, usually memory-mapped.

    ids: [token, layer, k] uint8/uint16 expert chosen; each row has k different experts.
    gates: [token, layer, k] uint8 square-root-coded gate weights (`encode_gates`), or None.
    offsets: [sequences + 1] first token of each sequence.
    phase: [token] 0 = prefill, 1 = decode; None where a token may stand for either (text run through a causal model).
    labels: one label a sequence (domain, language …), or ().
    experts: number of routed experts. groups: routing groups (1 = none).
    source: how it was made, in words. synthetic: True unless the ids came out of a real forward pass.
    metadata: everything else from the header (model, training text hash, versions, moments …).
    step: [token] inference step in which the token ran; positions: [token] its place in its sequence;
        token_ids: [token] vocabulary ids (they let the text be rebuilt). None where not recorded.
    count: [token, layer] number of valid choices where it varies (dynamic k, dropped or skipped tokens); what stands in
        `ids` and `gates` behind them means nothing. None = k everywhere. Where rows are wider than the model's top-k
        (expert choice), ``metadata["top_k"]`` holds that.
    """

    name: str
    ids: np.ndarray
    offsets: np.ndarray
    experts: int
    groups: int = 1
    gates: np.ndarray | None = None
    phase: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    source: str = ""
    synthetic: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict)
    step: np.ndarray | None = None
    positions: np.ndarray | None = None
    token_ids: np.ndarray | None = None
    count: np.ndarray | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.ids.shape[0]

    @property
    def layers(self) -> int:
        """Number of MoE layers recorded."""
        return self.ids.shape[1]

    @property
    def top_k(self) -> int:
        """Experts chosen per token and layer (the most, where the number varies)."""
        return self.ids.shape[2]

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.offsets) - 1


def encode_gates(weights: np.ndarray) -> np.ndarray:
    """Gate weights in [0, 1] as uint8, ``round(255 √w)``: fine where gates are small, off by at most .004."""
    return np.rint(255 * np.sqrt(np.clip(weights, 0, 1))).astype(np.uint8)


def decode_gates(codes: np.ndarray) -> np.ndarray:
    """Gate weights (float32) of square-root codes."""
    return np.square(codes.astype(np.float32) / 255)


def expert_dtype(experts: int) -> np.dtype:
    """The narrowest dtype that holds the ids of so many experts."""
    return np.dtype(np.uint8 if experts <= 256 else np.uint16)


def open_trace(path: str | Path) -> RouterTrace:
    """Map a trace file without reading it; arrays of the result are read-only views of the file.

    The header and the sequence offsets are always checked; ids are scanned too where they are small
    (`CHECKED_AT_OPEN_BYTES`); `check_trace` scans the others when asked. Raises InvalidInput naming the file.
    """
    path = Path(path)
    header, arrays = map_arrays(path, _ARRAYS)
    about = read_header(path, header, HEADER_KEY, FORMAT_VERSION, _HEADER)
    about["labels"] = tuple(about["labels"])
    if missing := {"ids", "offsets"} - arrays.keys():
        raise InvalidInput(Problem(f"no tensor {' and no tensor '.join(sorted(missing))}", file=str(path)))
    trace = RouterTrace(name=path.stem, **arrays, **about)
    if problems := shape_problems(trace, str(path)):
        raise InvalidInput(problems)
    if trace.ids.nbytes <= CHECKED_AT_OPEN_BYTES:
        check_trace(trace, str(path))
    return trace


def write_trace(path: str | Path, trace: RouterTrace) -> Path:
    """Check a trace and write it: to a temporary file beside `path`, then renamed, so nobody sees half a trace.

    Ids of wider integers are narrowed. Raises InvalidInput where the ids are not valid choices.
    """
    path = Path(path)
    check_trace(trace, str(path))
    arrays = {name: getattr(trace, name) for name in _ARRAYS if getattr(trace, name) is not None}
    arrays["ids"] = arrays["ids"].astype(expert_dtype(trace.experts), copy=False)
    arrays["offsets"] = arrays["offsets"].astype(np.int64, copy=False)
    about = {name: getattr(trace, name) for name in _HEADER} | {"metadata": dict(trace.metadata)}
    return write_arrays(path, arrays, HEADER_KEY, {"format": FORMAT_VERSION} | about)
