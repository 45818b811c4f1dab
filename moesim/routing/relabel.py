"""Names of experts in the layers that a trace does not have.

A model deeper than its trace replays the trace's layers in blocks. An expert's number means nothing from one layer to
the next, so nothing says that the hot experts of every block stand at the same places; with the same numbers in every
block one rank would hold the hot experts of all of them, and the step's hottest rank would be far too hot.
"""

from __future__ import annotations

import numpy as np


def block_labels(layers: int, depth: int, experts: int, groups: int, rng: np.random.Generator) -> np.ndarray:
    """Expert numbers [layer, expert] of a model of so many MoE layers, for the experts of a trace of `depth` layers.

    The first block keeps the trace's numbers. Further layers get their own: whole routing groups change places, and so
    do the experts inside each, which keeps groups together and hot experts clustered in them.
    """
    size = experts // groups
    labels = np.empty((layers, experts), dtype=np.int64)
    for layer in range(layers):
        if layer < depth:
            labels[layer] = np.arange(experts)
            continue
        order = rng.permutation(groups)
        inside = rng.permuted(np.tile(np.arange(size), (groups, 1)), axis=1)
        labels[layer] = (order[:, None] * size + inside).ravel()
    return labels


def relabel_ids(ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Chosen experts ids [layer, token, k] under the new numbers."""
    return np.stack([np.take(names.astype(ids.dtype), chosen) for names, chosen in zip(labels, ids, strict=True)])


def relabel_load(load: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Loads [trace layer, expert] of a trace as loads [layer, expert] of the model, under the new numbers."""
    layers = labels.shape[0]
    moved = np.empty((layers, load.shape[1]), dtype=load.dtype)
    np.put_along_axis(moved, labels, load[np.arange(layers) % load.shape[0]], axis=1)
    return moved
