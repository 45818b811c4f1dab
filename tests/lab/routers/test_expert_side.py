"""Expert Choice and Soft MoE: the experts' side of the choice."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from moesim.errors import InvalidInput
from moesim.lab.experts import RoutedExperts
from moesim.lab.routers import ROUTERS, TokenContext

HIDDEN, EXPERTS = 12, 8
CONTEXT = TokenContext(torch.zeros(4, 10, dtype=torch.long))


def build(name, top_k=2, **options):
    torch.manual_seed(0)
    router = ROUTERS[name](HIDDEN, EXPERTS, top_k, **options)
    torch.nn.init.normal_(router.weight)
    return router, torch.randn(40, HIDDEN)


def test_each_expert_takes_its_best_tokens():
    router, x = build("expert_choice", causal=False)
    routing = router(x, CONTEXT)
    scores = softmax(x.numpy() @ router.weight.detach().numpy().T, axis=1)
    expected = {(t, e) for e in range(EXPERTS) for t in np.argsort(-scores[:, e], kind="stable")[:10]}
    got = {(t, e.item()) for t in range(40) for e, kept in zip(routing.ids[t], routing.kept[t], strict=True) if kept}
    assert got == expected
    t, column = routing.kept.nonzero()[0].tolist()
    assert routing.gates[t, column].item() == pytest.approx(scores[t, routing.ids[t, column]], rel=1e-5)


def test_causal_expert_choice_does_the_same_work_position_by_position():
    router, x = build("expert_choice", top_k=2)
    routing = router(x, CONTEXT)
    kept = routing.kept.view(4, 10, -1)
    assert (kept.sum((0, 2)) == 8).all()  # two experts a token, four tokens a position
    load = routing.load(EXPERTS)
    assert (load == 10).all()
    changed = x.view(4, 10, HIDDEN).clone()
    changed[:, 6:] += 1
    other = router(changed.view(40, HIDDEN), CONTEXT)
    before, after = (made.kept.view(4, 10, -1).sum(2) for made in (routing, other))
    assert before[:, :6].equal(after[:, :6])  # the past does not hang on the future
    assert not before.equal(after)


def test_a_share_of_a_token_rotates_over_the_experts():
    router, x = build("expert_choice", top_k=1)  # four choices a position for eight experts
    routing = router(x, CONTEXT)
    assert (routing.kept.view(4, 10, -1).sum((0, 2)) == 4).all()
    assert routing.load(EXPERTS).tolist() == [5.0] * 8


@pytest.mark.parametrize("causal", [True, False])
def test_soft_moe_is_two_softmaxes_around_the_experts(causal):
    router, x = build("soft_moe", top_k=4, sequences=4, positions=10, causal=causal)
    experts = RoutedExperts(HIDDEN, EXPERTS, 8)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    routing = router(x, CONTEXT)
    out = experts(x, routing).detach().numpy().reshape(4, 10, HIDDEN)
    phi = router.weight.detach().numpy()
    phi = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    rows = x.numpy().reshape(4, 10, HIDDEN)
    pools = rows.transpose(1, 0, 2) if causal else rows
    per_expert = router.slots_per_expert
    for pool in range(len(pools)):
        tokens = pools[pool]
        logits = tokens / np.linalg.norm(tokens, axis=1, keepdims=True) @ phi.T
        slots = softmax(logits, axis=0).T @ tokens
        ones, zero = torch.ones(len(slots), 1), torch.zeros(())
        plain = type_routing(torch.arange(len(slots))[:, None] // per_expert, ones, zero)
        outputs = experts(torch.from_numpy(slots.astype(np.float32)), plain).detach().numpy()
        expected = softmax(logits, axis=1) @ outputs
        got = out[:, pool] if causal else out[pool]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def type_routing(ids, gates, loss):
    from moesim.lab.routers import Routing

    return Routing(ids, gates, loss)


def test_slots_are_recorded_as_the_rows_that_experts_compute():
    router, x = build("soft_moe", top_k=4, sequences=4, positions=10)
    rows = router(x, CONTEXT).rows(EXPERTS)
    assert (rows.load(EXPERTS) == 10 * router.slots_per_expert).all()
    assert rows.ids.shape == rows.gates.shape == (40, 4)
    assert all(len(set(ids)) == 4 for ids in rows.ids.tolist())


def test_slots_that_do_not_fill_the_experts_are_refused():
    with pytest.raises(InvalidInput, match="do not fill 8 experts evenly"):
        build("soft_moe", top_k=1, sequences=3)
