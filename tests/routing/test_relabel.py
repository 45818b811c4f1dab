import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.routing.relabel import block_labels, relabel_ids, relabel_load


def test_the_first_block_keeps_the_trace_as_it_is():
    labels = block_labels(5, 2, 8, 2, np.random.default_rng(0))
    assert (labels[:2] == np.arange(8)).all()
    assert (labels[2:] != np.arange(8)).any()


@given(st.integers(0, 99), st.sampled_from([1, 2, 4]), st.integers(1, 6))
def test_groups_stay_together_and_loads_follow_their_experts(seed, groups, layers):
    rng = np.random.default_rng(seed)
    labels = block_labels(layers, 2, 8, groups, rng)
    assert (np.sort(labels, axis=1) == np.arange(8)).all()
    size = 8 // groups
    for names in labels:
        for group in range(groups):
            assert len(set(names[group * size : (group + 1) * size] // size)) == 1
    ids = rng.integers(0, 8, (2, 50, 1)).astype(np.uint8)
    load = np.stack([np.bincount(layer.ravel(), minlength=8) for layer in ids])
    deep = ids[np.arange(layers) % 2]
    moved = relabel_ids(deep, labels)
    counted = np.stack([np.bincount(layer.ravel(), minlength=8) for layer in moved])
    assert (counted == relabel_load(load, labels)).all()
