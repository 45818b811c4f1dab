"""Short descriptions of a stack expand to the layers that papers mean."""

from moesim.model.architecture import Attention, Experts
from moesim.model.stack import FeedForward, alternate, build_layers, moe_layers

FULL = Attention("gqa", 8, 8, 64)
WINDOWED = Attention("gqa", 8, 8, 64, window=128)
EXPERTS = Experts(routed=8, top_k=2, ffn=64)


def test_which_layers_have_experts():
    assert moe_layers(5) == (0, 1, 2, 3, 4)
    assert moe_layers(5, first_dense=3) == (3, 4)
    assert moe_layers(6, every=2) == (1, 3, 5)
    assert moe_layers(8, first_dense=4, every=4) == (7,)


def test_the_last_of_every_few_layers_attends_to_everything():
    assert [a.window for a in alternate(6, FULL, WINDOWED, full_every=3)] == [128, 128, 0, 128, 128, 0]


def test_feed_forward_parts_go_where_they_belong():
    feed_forward = FeedForward(dense_ffn=256, experts=EXPERTS, parallel_ffn=32)
    layers = build_layers((FULL,) * 3, feed_forward, with_experts=(1,), decoder_from=2)
    assert [layer.dense_ffn for layer in layers] == [256, 32, 256]
    assert [layer.experts for layer in layers] == [None, EXPERTS, None]
    assert [layer.cross_attention for layer in layers] == [None, None, FULL]
