"""Routing logs of serving engines: SGLang, vLLM and TensorRT-LLM. See `moesim.routing.formats`."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping

import numpy as np

from moesim.errors import InvalidInput
from moesim.routing.cleaning import RawRoutes, need
from moesim.routing.load import LoadTable

_MOST_EXPERTS = 4096  # ids beyond this are another width of integer, read wrongly
_MOST_CHOICES = 32
_SGLANG_DECODE, _SGLANG_IDLE = 2, 4  # sglang.srt ForwardMode.DECODE and .IDLE


def read_sglang_tokens(content: Mapping[str, object]) -> RawRoutes:
    """SGLang's ``per_token`` recorder: a record a forward pass, with ``topk_ids_of_layer`` [layer, token, k].

    Ids are physical where the dump carries ``last_physical_to_logical_map`` [layer, physical expert]. A prefill pass
    tells its sequences by ``extend_seq_lens``. A decode pass holds one token of each request without naming it: a row
    belongs to the request of an earlier pass whose last position is one less, in the order of the batch.
    """
    records = [record for record in content["records"] if record.get("forward_mode") != _SGLANG_IDLE]
    records.sort(key=lambda record: (record.get("rank", 0), record.get("forward_pass_id", 0)))
    need(bool(records), "holds no records")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("ids", "owner", "phase", "step", "positions")}
    running: dict[int, int] = {}  # sequence -> last position, of the requests of this rank that may go on
    sequences, rank = 0, None
    for record in records:
        if record.get("rank", 0) != rank:
            running, rank = {}, record.get("rank", 0)
        positions = np.asarray(record["positions"], dtype=np.int64)
        decode = record.get("forward_mode") == _SGLANG_DECODE
        if decode:
            owner = _continued(positions, running, sequences)
        else:
            lengths = record.get("extend_seq_lens") or [len(positions)]
            owner = sequences + np.repeat(np.arange(len(lengths)), lengths)
        sequences = max(sequences, int(owner.max(initial=-1)) + 1)
        if decode:  # requests that left the batch do not come back
            running.clear()
        running.update(zip(owner.tolist(), positions.tolist(), strict=True))
        parts["ids"].append(np.asarray(record["topk_ids_of_layer"]).transpose(1, 0, 2)[: len(positions)])
        parts["owner"].append(owner)
        parts["phase"].append(np.full(len(positions), decode, dtype=np.uint8))
        parts["step"].append(np.full(len(positions), record.get("forward_pass_id", 0), dtype=np.int64))
        parts["positions"].append(positions)
    joined = {name: np.concatenate(each) for name, each in parts.items()}
    owner = joined.pop("owner")
    order = np.argsort(owner, kind="stable")  # tokens of a request side by side, passes in their order
    joined = {name: array[order] for name, array in joined.items()}
    physical = content.get("last_physical_to_logical_map")
    experts = None
    if physical is not None:
        joined["ids"] = to_logical(joined["ids"], np.asarray(physical))
        experts = int(np.max(physical)) + 1
    return RawRoutes(lengths=np.unique(owner, return_counts=True)[1], experts=experts, **joined)


def _continued(positions: np.ndarray, running: Mapping[int, int], new: int) -> np.ndarray:
    """Sequence of each row of a decode batch: the next running one that is just before, or a new one."""
    waiting = list(running.items())
    owner = np.empty(len(positions), dtype=np.int64)
    for row, position in enumerate(positions.tolist()):
        place = next((i for i, (_, last) in enumerate(waiting) if last == position - 1), None)
        if place is None:
            owner[row], new = new, new + 1
        else:
            owner[row] = waiting.pop(place)[0]
    return owner


def to_logical(ids: np.ndarray, physical_to_logical: np.ndarray) -> np.ndarray:
    """Physical expert slots [token, layer, k] as logical experts, by a map [layer, slot]; unused places stay."""
    layers, slots = physical_to_logical.shape
    need(layers == ids.shape[1], f"the expert map has {layers} layers, ids have {ids.shape[1]}")
    need(int(ids.max()) < slots, f"ids reach {ids.max()}, the expert map has {slots} slots")
    logical = physical_to_logical[np.arange(layers)[:, None], np.maximum(ids, 0)]
    return np.where(ids < 0, -1, logical)


def read_returned(content: object) -> RawRoutes:
    """Routes that SGLang or vLLM return with an answer: [tokens - 1, layer, k], one array a request.

    content: one array; a mapping of arrays by request; or answers (``meta_info.routed_experts``,
    ``choices[].sgl_ext.routed_experts`` or ``routed_experts``), as lists, base64 of .npy, or base64 of bare integers,
    whose width, layers and k are then found from the number of tokens and the ids. Dense layers are zeros.
    """
    answers = list(_answers(content))
    need(bool(answers), "holds no routed experts")
    arrays = [
        _decoded(routes, tokens) if isinstance(routes, str) else np.asarray(routes) for routes, tokens, _ in answers
    ]
    shapes = sorted({str(array.shape[1:]) for array in arrays})
    need(
        len(shapes) == 1 and arrays[0].ndim == 3,
        f"requests differ in [layer, k]: {', '.join(shapes)}; all must come from one model and engine",
    )
    phase = None
    if all(prompt is not None for _, _, prompt in answers):
        decoded = [np.arange(len(array)) >= prompt for array, (_, _, prompt) in zip(arrays, answers, strict=True)]
        phase = np.concatenate(decoded).astype(np.uint8)
    lengths = np.array([len(array) for array in arrays])
    return RawRoutes(np.concatenate(arrays).astype(np.int64), lengths, phase=phase)


def _answers(content: object) -> Iterator[tuple[object, int | None, int | None]]:
    """(routes, tokens routed, tokens of the prompt) of each request; None where the answer does not tell."""
    if isinstance(content, np.ndarray):
        yield content, None, None
    elif isinstance(content, Mapping) and all(isinstance(each, np.ndarray) for each in content.values()):
        yield from ((array, None, None) for array in content.values())
    else:
        for answer in [content] if isinstance(content, Mapping) else content:
            told = answer.get("meta_info") or answer.get("usage") or {}
            prompt, written = told.get("prompt_tokens"), told.get("completion_tokens")
            tokens = None if None in (prompt, written) else prompt + written - 1  # the last token is never routed
            for holder in (
                answer,
                answer.get("meta_info", {}),
                *(c.get("sgl_ext", c) for c in answer.get("choices", ())),
            ):
                if holder.get("routed_experts") is not None:
                    yield holder["routed_experts"], tokens, prompt


def _decoded(text: str, tokens: int | None) -> np.ndarray:
    """Routes [token, layer, k] out of base64.

    Bare integers have no shape. Of all widths and values of k the right ones give the largest k for which no row
    repeats an expert: rows of two layers together would, and integers read too narrowly bring zeros of upper bytes.
    """
    data = base64.b64decode(text)
    if data.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    need(tokens is not None, "base64 routes need prompt_tokens and completion_tokens beside them")
    best, best_k = None, 0
    for dtype in ("<i4", "<u2", "u1"):  # of equals, the widest
        each, rest = divmod(len(data), tokens * np.dtype(dtype).itemsize)
        flat = np.frombuffer(data, dtype=dtype) if not rest else np.array([_MOST_EXPERTS])
        if flat.min() < -1 or flat.max() >= _MOST_EXPERTS:
            continue
        fitting = (
            k for k in range(min(_MOST_CHOICES, each), best_k, -1) if each % k == 0 and _distinct(flat.reshape(-1, k))
        )
        if k := next(fitting, 0):
            best, best_k = flat.reshape(tokens, -1, k), k
    if best is None:
        raise InvalidInput(f"{len(data)} bytes of routes do not fit {tokens} tokens")
    return best


def _distinct(rows: np.ndarray) -> bool:
    """Whether no row repeats an expert; rows of zeros (dense layers) and of padding aside."""
    ordered = np.sort(rows[(rows > 0).any(axis=1)], axis=1)
    return len(ordered) > 0 and not ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any()


def read_tensorrt_llm(content: Mapping[str, np.ndarray]) -> RawRoutes | LoadTable:
    """TensorRT-LLM expert statistics: tensors ``{iteration}_{layer}``, of choices [token, k] or of counts [expert].

    The rows of an iteration are one batch, whose requests are not told: every token counts as a sequence of its own.
    """
    experts = content.get("num_experts")
    tables: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for key, array in content.items():
        if key != "num_experts":
            *rank, iteration, layer = key.replace("/", "_").split("_")
            tables.setdefault(("_".join(rank), int(iteration)), {})[int(layer)] = np.asarray(array)
    layers = sorted(set().union(*tables.values()))
    whole = [tables[key] for key in sorted(tables) if len(tables[key]) == len(layers)]
    need(bool(whole), "no iteration holds every layer; record one more iteration")
    if whole[0][layers[0]].ndim == 1:
        load = sum(np.stack([table[layer] for layer in layers]) for table in whole)
        return LoadTable("", load.astype(float), dropped=len(tables) - len(whole), metadata={"moe_layers": layers})
    ids = [np.stack([table[layer] for layer in layers], axis=1) for table in whole]
    step = np.repeat(np.arange(len(ids)), [len(rows) for rows in ids])
    return RawRoutes(
        np.concatenate(ids).astype(np.int64),
        np.ones(len(step), dtype=int),
        step=step,
        experts=int(experts) if experts is not None else None,
        dropped={"incomplete_iterations": len(tables) - len(whole)},
    )
