"""Recording: what the routers chose is what the arrays hold."""

import numpy as np
import pytest
import torch

from moesim.lab.capture import Recorder, capture_sequences
from moesim.lab.corpus import held_out_sequences
from moesim.lab.reference import ReferenceModel
from moesim.lab.routers import Routing
from moesim.routing.trace import decode_gates


def routing(ids, gates, kept=None):
    kept = None if kept is None else torch.tensor(kept)
    return Routing(torch.tensor(ids), torch.tensor(gates), torch.zeros(()), kept)


def test_layers_stand_beside_each_other_and_passes_below():
    recorder = Recorder(experts=300)
    first = [routing([[1, 2], [3, 4]], [[0.5, 0.5], [1.0, 0.0]]), routing([[5, 6], [7, 299]], [[0.25, 0.75]] * 2)]
    recorder.add(first)
    recorder.add([routing([[8, 9]], [[0.5, 0.5]]), routing([[0, 1]], [[0.5, 0.5]])])
    arrays = recorder.arrays()
    assert arrays["ids"].tolist() == [[[1, 2], [5, 6]], [[3, 4], [7, 299]], [[8, 9], [0, 1]]]
    assert arrays["ids"].dtype == np.uint16
    assert arrays["count"] is None
    np.testing.assert_allclose(decode_gates(arrays["gates"])[0, 1], [0.25, 0.75], atol=0.004)


def test_dropped_choices_go_behind_the_counted_ones():
    recorder = Recorder(experts=8)
    recorder.add([routing([[1, 2, 3], [4, 5, 6]], [[0.2, 0.3, 0.5]] * 2, [[False, True, True], [True, False, False]])])
    recorder.add([routing([[7, 0]], [[0.5, 0.5]])])  # a pass with fewer columns is padded
    arrays = recorder.arrays()
    assert arrays["count"].tolist() == [[2], [1], [2]]
    assert arrays["ids"][0, 0, :2].tolist() == [2, 3]
    assert arrays["ids"][1, 0, 0] == 4
    assert arrays["ids"][2, 0, :2].tolist() == [7, 0]


def test_a_capture_is_the_forward_pass_whatever_its_batch(corpus, small_config):
    model = ReferenceModel(small_config(), torch.Generator().manual_seed(0)).eval()
    rows, _ = held_out_sequences(corpus, length=16, tokens_per_domain=80)
    captured = capture_sequences(model, rows, batch=3)
    with torch.inference_mode():
        logits, routings = model(torch.from_numpy(rows[:, :-1]))
    for layer, (expected,) in enumerate(routings):
        np.testing.assert_array_equal(captured.arrays["ids"][:, layer], expected.ids)
    targets = torch.from_numpy(rows[:, 1:]).flatten()
    assert captured.dropped == 0
    assert captured.loss == pytest.approx(
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).item(), rel=1e-5
    )
