"""Balance losses: hand-made cases."""

import pytest
import torch

from moesim.lab.routers import losses


def test_switch_loss_is_one_when_balanced_and_n_when_collapsed():
    uniform = torch.full((8, 4), 0.25)
    assert losses.switch_loss(uniform, torch.arange(8)[:, None] % 4).item() == pytest.approx(1)
    certain = torch.eye(4)[torch.zeros(8, dtype=torch.long)]
    assert losses.switch_loss(certain, torch.zeros(8, 1, dtype=torch.long)).item() == pytest.approx(4)


def test_sequence_loss_sees_imbalance_that_the_batch_hides():
    certain = torch.eye(2)[torch.tensor([0, 0, 1, 1])]  # two sequences, each with one expert
    ids = torch.tensor([[0], [0], [1], [1]])
    assert losses.switch_loss(certain, ids).item() == pytest.approx(1)
    assert losses.sequence_loss(certain, ids, sequences=2).item() == pytest.approx(2)


def test_coefficient_of_variation_and_z_loss():
    values = torch.tensor([1.0, 3.0])
    assert losses.squared_coefficient_of_variation(values).item() == pytest.approx(0.25)
    gates = torch.tensor([[0.25, 0.75], [0.75, 2.25]])
    assert losses.importance_loss(gates).item() == pytest.approx(0.25)
    assert losses.z_loss(torch.zeros(3, 4)).item() == pytest.approx(torch.log(torch.tensor(4.0)).square().item())
