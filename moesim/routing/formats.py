"""The routing logs of serving and training systems, each read from plain Python and numpy values.

A reader takes the content of a file (arrays, dicts, lists of records) and gives `RawRoutes`, or a `LoadTable` where the
source counts without keeping tokens. `FORMATS` pairs each with a test of whether a content is of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from moesim.routing.cleaning import RawRoutes, need
from moesim.routing.load import LoadTable
from moesim.routing.serving_formats import read_returned, read_sglang_tokens, read_tensorrt_llm

Reader = Callable[[object], RawRoutes | LoadTable]


def read_arrays(content: Mapping[str, np.ndarray]) -> RawRoutes:
    """``ids`` [layer, token, k], optional ``weights`` alike, ``seq_len`` [sequences] and ``experts``."""
    ids = np.asarray(content["ids"])
    need(ids.ndim == 3, f"ids have shape {ids.shape}; write [layer, token, k]")
    lengths = np.asarray(content["seq_len"]) if "seq_len" in content else np.array([ids.shape[1]])
    need(lengths.sum() == ids.shape[1], f"seq_len sums to {lengths.sum()}, ids hold {ids.shape[1]} tokens")
    return RawRoutes(
        ids=ids.transpose(1, 0, 2),
        lengths=lengths,
        weights=np.asarray(content["weights"]).transpose(1, 0, 2) if "weights" in content else None,
        experts=int(content["experts"]) if "experts" in content else None,
    )


def read_counts(content: Mapping[str, np.ndarray]) -> LoadTable:
    """``logical_count`` [layer, expert] or [step, layer, expert], as SGLang's ``stat`` recorder dumps it.

    Layers without routers count nothing and are left out; so are steps that counted nothing.
    """
    count = np.asarray(content["logical_count"], dtype=np.float64)
    need(count.ndim in (2, 3), f"logical_count has shape {count.shape}; write [layer, expert] or [step, layer, expert]")
    steps = count.reshape(-1, *count.shape[-2:])
    idle = ~steps.any(axis=(1, 2))
    load = steps.sum(axis=0)
    routed = load.sum(axis=1) > 0
    need(bool(routed.any()), "every count is zero")
    return LoadTable(
        "", load[routed], dropped=int(idle.sum()), metadata={"moe_layers": np.flatnonzero(routed).tolist()}
    )


def read_megatron(content: Sequence[np.ndarray]) -> RawRoutes:
    """Megatron router replay: a list over layers of [token, k] indices."""
    shapes = {np.shape(layer) for layer in content}
    need(len(shapes) == 1, f"layers differ in shape: {sorted(shapes)}; all must be [token, k] alike")
    ids = np.stack([np.asarray(layer) for layer in content], axis=1)
    return RawRoutes(ids, np.array([len(ids)]))


def read_rollouts(content: object) -> RawRoutes:
    """veRL and NeMo-RL: ``routed_experts`` [batch, token, layer, k], and perhaps ``attention_mask`` [batch, token]."""
    mask = None
    if isinstance(content, Mapping):
        mask, content = content.get("attention_mask"), content["routed_experts"]
    ids = np.asarray(content)
    need(ids.ndim == 4, f"routed experts have shape {ids.shape}; write [batch, token, layer, k]")
    valid = np.ones(ids.shape[:2], dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    need(valid.shape == ids.shape[:2], f"attention_mask has shape {valid.shape}, routed experts {ids.shape}")
    lengths = valid.sum(axis=1)
    dropped = {"masked": int(valid.size - lengths.sum())}
    return RawRoutes(ids[valid].astype(np.int64), lengths[lengths > 0], dropped=dropped)


def read_transformers(content: Sequence | Mapping) -> RawRoutes:
    """Outputs of transformers (>= 5) router modules, hooked: per layer (logits [T, N], weights [T, k], ids [T, k])."""
    layers = list(content.values()) if isinstance(content, Mapping) else list(content)
    logits, weights, ids = ([np.asarray(layer[part]) for layer in layers] for part in range(3))
    shapes = {layer.shape for layer in ids}
    need(len(shapes) == 1, f"layers differ in shape: {sorted(shapes)}; all must be [token, k] alike")
    stacked = np.stack(ids, axis=1)
    return RawRoutes(stacked, np.array([len(stacked)]), np.stack(weights, axis=1), experts=logits[0].shape[-1])


def read_json_lines(content: Sequence[Mapping]) -> RawRoutes:
    """Records ``{req_id, token_idx, layer, topk_ids, topk_weights}``, one a token and layer, in any order.

    Tokens that lack a layer (a log cut off) are dropped and counted. Records of other kinds are passed over.
    """
    rows = [record for record in content if "topk_ids" in record]
    layers = {layer: place for place, layer in enumerate(sorted({row["layer"] for row in rows}))}
    requests = {request: place for place, request in enumerate(dict.fromkeys(row["req_id"] for row in rows))}
    keys = sorted({(requests[row["req_id"]], row["token_idx"]) for row in rows})
    tokens = {key: place for place, key in enumerate(keys)}
    shape = (len(tokens), len(layers), max(len(row["topk_ids"]) for row in rows))
    ids, weights = np.full(shape, -1, dtype=np.int64), np.zeros(shape)
    seen = np.zeros(shape[:2], dtype=bool)
    for row in rows:
        place = tokens[requests[row["req_id"]], row["token_idx"]], layers[row["layer"]]
        seen[place] = True
        ids[place][: len(row["topk_ids"])] = row["topk_ids"]
        weights[place][: len(row.get("topk_weights", ()))] = row.get("topk_weights", ())
    whole = seen.all(axis=1)
    need(bool(whole.any()), "no token has all layers")
    owner, positions = np.array(keys)[whole].T
    return RawRoutes(
        ids[whole],
        np.unique(owner, return_counts=True)[1],
        weights=weights[whole] if weights.any() else None,
        positions=positions,
        dropped={"incomplete": int(np.count_nonzero(~whole))},
    )


def _holds(*keys: str) -> Callable[[object], bool]:
    return lambda content: isinstance(content, Mapping) and all(key in content for key in keys)


def _is_list_of(test: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda content: isinstance(content, (list, tuple)) and len(content) > 0 and any(map(test, content))


def _has_dimensions(count: int) -> Callable[[object], bool]:
    return lambda content: isinstance(content, np.ndarray) and content.ndim == count


def _is_routed_experts(content: object) -> bool:
    if isinstance(content, Mapping):
        arrays = content.values()
        return _carries_routes(content) or (len(arrays) > 0 and all(map(_has_dimensions(3), arrays)))
    return _has_dimensions(3)(content) or _is_list_of(_carries_routes)(content)


def _carries_routes(answer: object) -> bool:
    if not isinstance(answer, Mapping):
        return False
    holders = (
        answer,
        answer.get("meta_info"),
        *(choice.get("sgl_ext", choice) for choice in answer.get("choices", ())),
    )
    return any(isinstance(holder, Mapping) and "routed_experts" in holder for holder in holders)


def _is_rollouts(content: object) -> bool:
    if isinstance(content, Mapping):
        content = content.get("routed_experts")
    return _has_dimensions(4)(content)


def _is_tensorrt_llm(content: object) -> bool:
    names = [name for name in content if name != "num_experts"] if isinstance(content, Mapping) else []
    return bool(names) and all(
        isinstance(name, str) and name.split("_")[-1].isdigit() and "_" in name for name in names
    )


def _is_hooks(content: object) -> bool:
    layers = content.values() if isinstance(content, Mapping) else content
    return (
        isinstance(layers, Sequence | type({}.values()))
        and len(layers) > 0
        and all(isinstance(layer, (list, tuple)) and len(layer) == 3 and np.ndim(layer[2]) == 2 for layer in layers)
    )


# Name: (whether a content is of the kind, its reader). The first that fits is taken where no name is given.
FORMATS: dict[str, tuple[Callable[[object], bool], Reader]] = {
    "ids": (_holds("ids"), read_arrays),
    "sglang_stat": (_holds("logical_count"), read_counts),
    "sglang_per_token": (_holds("records"), read_sglang_tokens),
    "verl": (_is_rollouts, read_rollouts),
    "json_lines": (_is_list_of(_holds("req_id", "topk_ids")), read_json_lines),
    "tensorrt_llm": (_is_tensorrt_llm, read_tensorrt_llm),
    "routed_experts": (_is_routed_experts, read_returned),
    "transformers": (_is_hooks, read_transformers),
    "megatron": (_is_list_of(_has_dimensions(2)), read_megatron),
}
