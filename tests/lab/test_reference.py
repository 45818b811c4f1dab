"""The reference model: causal, seeded, and with routers that start as asked."""

import pytest
import torch

from moesim.errors import InvalidInput
from moesim.lab.initialisation import initialise_routers
from moesim.lab.reference import ReferenceModel


def build(config, seed=0):
    return ReferenceModel(config, torch.Generator().manual_seed(seed)).eval()


@pytest.mark.parametrize("conv", [0, 3])
def test_no_token_sees_its_future(small_config, conv):
    model = build(small_config(conv=conv))
    tokens = torch.randint(32, (2, 12), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 32
    logits, routings = model(tokens)
    other, _ = model(changed)
    torch.testing.assert_close(logits[:, :8], other[:, :8])
    assert not torch.allclose(logits[:, 8], other[:, 8])
    assert [routing.ids.shape for (routing,) in routings] == [(24, 2)] * 2


def test_a_seed_fixes_all_weights(small_config):
    first, same, other = (build(small_config(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_router_rows_start_correlated_inside_groups_and_between_layers(small_config):
    config = small_config(
        hidden=4000, experts=64, groups=8, router_scale=0.1, group_correlation=0.7, layer_correlation=0.5
    )
    weights = [torch.empty(64, 4000) for _ in range(2)]
    initialise_routers(weights, config, torch.Generator().manual_seed(0))
    same = torch.arange(64)[:, None] // 8 == torch.arange(64) // 8
    for weight in weights:
        measured = torch.corrcoef(weight)
        assert measured[same & ~torch.eye(64, dtype=bool)].mean().item() == pytest.approx(0.7, abs=0.02)
        assert measured[~same].mean().item() == pytest.approx(0, abs=0.02)
        assert weight.std().item() == pytest.approx(0.1, rel=0.02)
    across = torch.corrcoef(torch.cat(weights))[:64, 64:]  # each expert has one heir in the next layer, anywhere
    assert across.max(dim=1).values.mean().item() == pytest.approx(0.5**0.5, abs=0.03)
    assert across.argmax(dim=1).unique().numel() == 64


def test_an_unknown_router_is_named(small_config):
    with pytest.raises(InvalidInput, match="no router 'topk_sofmax'; write one of"):
        build(small_config(router="topk_sofmax"))
