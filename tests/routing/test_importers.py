"""Every format, from files as the systems write them."""

import base64
import io
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from moesim.errors import InvalidInput
from moesim.routing.formats import FORMATS
from moesim.routing.importers import import_routes
from moesim.routing.load import LoadTable
from moesim.routing.trace import decode_gates

LAYERS, K, EXPERTS = 3, 4, 16


def some_ids(tokens, layers=LAYERS, experts=EXPERTS, seed=0):
    """[token, layer, k]"""
    return np.argsort(np.random.default_rng(seed).random((tokens, layers, experts)), axis=-1)[..., :K]


def some_weights(tokens, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(K), (tokens, LAYERS))


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def save_pt(tmp_path):
    torch = pytest.importorskip("torch")

    def save(content):
        torch.save(content, tmp_path / "log.pt")
        return tmp_path / "log.pt"

    return save


def import_pt(path, **options):
    from moesim.lab.pt_files import read_pt

    return import_routes(path, read_pt=read_pt, **options)


def test_arrays(tmp_path):
    ids, weights = some_ids(30), some_weights(30)
    path = tmp_path / "log.npz"
    np.savez(path, ids=ids.transpose(1, 0, 2), weights=weights.transpose(1, 0, 2), seq_len=[10, 20])
    trace = import_routes(path)
    np.testing.assert_array_equal(trace.ids, ids)
    np.testing.assert_allclose(decode_gates(trace.gates), weights, atol=0.004)
    assert trace.offsets.tolist() == [0, 10, 30]
    assert trace.source == "imported from log.npz (ids)"
    np.savez(path, ids=ids.transpose(1, 0, 2), seq_len=[10, 21])
    with pytest.raises(InvalidInput, match=r"log\.npz: seq_len sums to 31"):
        import_routes(path)


@pytest.mark.parametrize("steps", [None, 5])
def test_counts_become_load_tables(tmp_path, steps):
    count = np.random.default_rng(0).integers(1, 100, (5, 4, 8))
    count[:, 0] = 0  # a dense layer
    count[2] = 0  # an idle step
    np.savez(tmp_path / "log.npz", logical_count=count if steps else count.sum(axis=0))
    table = import_routes(tmp_path / "log.npz")
    assert isinstance(table, LoadTable)
    np.testing.assert_array_equal(table.load, count.sum(axis=0)[1:])
    assert table.metadata["moe_layers"] == [1, 2, 3]
    assert table.dropped == (1 if steps else 0)


def test_sglang_stat(save_pt):
    torch = pytest.importorskip("torch")
    count = torch.randint(1, 100, (7, 4, 8))
    table = import_pt(save_pt({"rank": 0, "logical_count": count, "average_utilization_rate_over_window": None}))
    np.testing.assert_array_equal(table.load, count.sum(0).numpy())


def sglang_pass(number, mode, positions, ids, lengths=None, rank=0):
    torch = pytest.importorskip("torch")
    return {
        "forward_pass_id": number,
        "rank": rank,
        "forward_mode": mode,
        "input_ids": list(range(len(positions))),
        "positions": positions,
        "extend_seq_lens": lengths,
        "topk_ids_of_layer": torch.from_numpy(ids.transpose(1, 0, 2).astype(np.int32)),
        "misc_objects": [],
    }


def test_sglang_per_token_follows_requests_and_maps_slots_to_experts(save_pt):
    torch = pytest.importorskip("torch")
    slots = np.stack([np.random.default_rng(layer).permutation(EXPERTS) for layer in range(LAYERS)])
    slots = np.concatenate([slots, slots[:, :2]], axis=1)  # two replicas
    prefill, first, second, third = some_ids(9, seed=1), some_ids(2, seed=2), some_ids(3, seed=3), some_ids(2, seed=4)
    first[1, 0, 0] = EXPERTS  # the replica of the expert in slot 0 …
    first[1, 0, 1:] = (3, 4, 5)
    records = [
        sglang_pass(4, 2, [6, 4], third),  # the request with 4 tokens has left; passes may stand in any order
        sglang_pass(1, 1, list(range(4)) + list(range(5)), prefill, [4, 5]),
        sglang_pass(2, 2, [4, 5], first),
        sglang_pass(3, 2, [5, 6, 3], second),  # and a request whose prefill nobody recorded joins
        sglang_pass(5, 4, [], some_ids(0)),  # idle
    ]
    records[0]["positions"] = [7, 4]
    path = save_pt({"records": records, "last_physical_to_logical_map": torch.from_numpy(slots)})
    trace = import_pt(path)
    assert trace.experts == EXPERTS
    assert trace.offsets.tolist() == [0, 6, 14, 16]
    assert trace.positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 3, 4]
    assert trace.phase.tolist() == [0] * 4 + [1] * 2 + [0] * 5 + [1] * 3 + [1] * 2
    assert trace.step.tolist() == [1, 1, 1, 1, 2, 3, 1, 1, 1, 1, 1, 2, 3, 4, 3, 4]
    everything = np.concatenate([prefill[:4], first[:1], second[:1], prefill[4:], first[1:], second[1:2], third[:1],
                                 second[2:], third[1:]])  # fmt: skip
    np.testing.assert_array_equal(trace.ids, slots[np.arange(LAYERS)[:, None], everything])
    assert trace.ids[11, 0, 0] == slots[0, 0]


def test_sglang_per_token_drops_unused_rows(save_pt):
    ids = some_ids(6)
    ids[4:] = -1
    trace = import_pt(save_pt({"records": [sglang_pass(0, 1, list(range(6)), ids, [6])]}))
    assert trace.tokens == 4
    assert trace.metadata["dropped"]["padding"] == 2


def with_dense_layer(ids):
    return np.concatenate([np.zeros((len(ids), 1, K), ids.dtype), ids], axis=1)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint8])
def test_sglang_answers_in_base64(tmp_path, dtype):
    answers, wanted = [], []
    for number, (prompt, written) in enumerate([(6, 5), (9, 2)]):
        ids = with_dense_layer(some_ids(prompt + written - 1, seed=number).astype(dtype))
        told = {"prompt_tokens": prompt, "completion_tokens": written}
        answers.append({"text": "…", "meta_info": told | {"routed_experts": base64.b64encode(ids.tobytes()).decode()}})
        wanted.append(ids[:, 1:])
    trace = import_routes(write_lines(tmp_path / "answers.jsonl", answers))
    np.testing.assert_array_equal(trace.ids, np.concatenate(wanted))
    assert trace.offsets.tolist() == [0, 10, 20]
    assert trace.phase.tolist() == [0] * 6 + [1] * 4 + [0] * 9 + [1]
    assert trace.metadata["moe_layers"] == [1, 2, 3]


def test_chat_answers(tmp_path):
    ids = some_ids(7)
    buffer = io.BytesIO()
    np.save(buffer, ids.astype(np.uint16))
    text = base64.b64encode(buffer.getvalue()).decode()
    answer = {"usage": {"prompt_tokens": 5, "completion_tokens": 3}, "choices": [{"sgl_ext": {"routed_experts": text}}]}
    (tmp_path / "chat.json").write_text(json.dumps(answer))
    trace = import_routes(tmp_path / "chat.json")
    np.testing.assert_array_equal(trace.ids, ids)
    assert trace.phase.tolist() == [0] * 5 + [1] * 2


def test_vllm_arrays(tmp_path):
    first, second = with_dense_layer(some_ids(12)), with_dense_layer(some_ids(5, seed=1))
    np.save(tmp_path / "one.npy", first.astype(np.int16))
    np.testing.assert_array_equal(import_routes(tmp_path / "one.npy").ids, first[:, 1:])
    np.savez(tmp_path / "many.npz", **{"cmpl-1": first, "cmpl-2": second})
    assert import_routes(tmp_path / "many.npz").offsets.tolist() == [0, 12, 17]
    write_lines(tmp_path / "lists.jsonl", [{"routed_experts": first.tolist()}, {"routed_experts": second.tolist()}])
    assert import_routes(tmp_path / "lists.jsonl").offsets.tolist() == [0, 12, 17]
    np.savez(tmp_path / "mixed.npz", one=first, other=second[:, :2])
    with pytest.raises(InvalidInput, match=r"mixed\.npz: requests differ in \[layer, k\]: \(3, 4\), \(4, 4\)|\(2, 4\)"):
        import_routes(tmp_path / "mixed.npz")


def test_megatron(save_pt):
    torch = pytest.importorskip("torch")
    ids = some_ids(20)
    path = save_pt([torch.from_numpy(ids[:, layer]) for layer in range(LAYERS)])
    np.testing.assert_array_equal(import_pt(path).ids, ids)
    with pytest.raises(InvalidInput, match="layers differ in shape"):
        import_pt(save_pt([torch.zeros(4, 2), torch.zeros(5, 2)]))


@pytest.mark.parametrize("mask", [True, False])
def test_rollouts(save_pt, tmp_path, mask):
    torch = pytest.importorskip("torch")
    ids = some_ids(20).reshape(2, 10, LAYERS, K)
    valid = np.ones((2, 10), dtype=int)
    valid[1, 7:] = 0
    ids[valid == 0] = 0
    content = {"routed_experts": torch.from_numpy(ids), "attention_mask": torch.from_numpy(valid)}
    if not mask:
        np.save(tmp_path / "rollouts.npy", ids)
    trace = import_pt(save_pt(content)) if mask else import_routes(tmp_path / "rollouts.npy")
    assert trace.offsets.tolist() == [0, 10, 17]
    np.testing.assert_array_equal(trace.ids, ids[valid == 1])
    assert trace.metadata["dropped"]["masked" if mask else "padding"] == 3


def test_tensorrt_llm(tmp_path):
    ids = {f"{iteration}_{layer}": some_ids(5, 1, seed=iteration * 9 + layer)[:, 0].astype(np.int32)
           for iteration in (10, 9) for layer in (3, 4, 10)}  # fmt: skip
    del ids["10_10"]
    save_file(ids, tmp_path / "rank0_raw.safetensors")
    save_file({"9_3": np.ones(EXPERTS, np.int64)}, tmp_path / "rank0.safetensors")
    trace = import_routes(tmp_path / "rank0_raw.safetensors")
    np.testing.assert_array_equal(trace.ids, np.stack([ids["9_3"], ids["9_4"], ids["9_10"]], axis=1))
    assert trace.sequences == trace.tokens == 5  # rows of a batch are not one sequence
    assert trace.metadata["dropped"]["incomplete_iterations"] == 1
    (tmp_path / "meta_info.json").write_text(json.dumps({"num_experts": 64, "num_experts_per_token": K}))
    assert import_routes(tmp_path).experts == 64
    table = import_routes(tmp_path / "rank0.safetensors")
    assert table.load.tolist() == [[1.0] * EXPERTS]


def test_json_lines(tmp_path):
    ids, weights = some_ids(12), some_weights(12)
    records = [
        {"type": "route", "req_id": f"r{token // 6}", "token_idx": token % 6, "layer": layer + 1,
         "topk_ids": ids[token, layer].tolist(), "topk_weights": weights[token, layer].tolist()}
        for token in range(12) for layer in range(LAYERS)
    ]  # fmt: skip
    shuffled = [records[i] for i in (0, *np.random.default_rng(0).permutation(len(records) - 2) + 1)]
    path = write_lines(tmp_path / "routes.jsonl", [{"type": "meta", "top_k": K}, *shuffled])
    path.write_text(path.read_text() + '{"type": "route", "req_id": "r1", "tok')  # the log was interrupted
    trace = import_routes(path)
    np.testing.assert_array_equal(trace.ids, ids[:11])
    np.testing.assert_allclose(decode_gates(trace.gates), weights[:11], atol=0.004)
    assert trace.offsets.tolist() == [0, 6, 11]
    assert trace.metadata["dropped"]["incomplete"] == 1
    path.write_text("{}\nnot json\n{}\n")
    with pytest.raises(InvalidInput, match="line 2 is not JSON"):
        import_routes(path)


def test_transformers_hooks(save_pt):
    torch = pytest.importorskip("torch")
    ids, weights = some_ids(20), some_weights(20)
    layers = [(torch.zeros(20, 32), torch.from_numpy(weights[:, layer]).bfloat16(), torch.from_numpy(ids[:, layer]))
              for layer in range(LAYERS)]  # fmt: skip
    for content in (layers, {f"model.layers.{i}.mlp.gate": layer for i, layer in enumerate(layers)}):
        trace = import_pt(save_pt(content))
        np.testing.assert_array_equal(trace.ids, ids)
        assert trace.experts == 32
        np.testing.assert_allclose(decode_gates(trace.gates), weights, atol=0.008)


def test_pickles_are_never_opened(tmp_path, save_pt):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    with pytest.raises(InvalidInput, match=r"log\.pt: not a PyTorch file of tensors and plain values"):
        import_pt(save_pt({"records": Payload()}))
    np.save(tmp_path / "object.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match=r"object\.npy"):
        import_routes(tmp_path / "object.npy")
    assert not (tmp_path / "harm").exists()


def test_what_is_no_log_says_so(tmp_path):
    with pytest.raises(InvalidInput, match=r"gone\.npz: cannot be read"):
        import_routes(tmp_path / "gone.npz")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InvalidInput, match=r"notes\.txt: \.txt suffix; give a \.npz"):
        import_routes(tmp_path / "notes.txt")
    np.savez(tmp_path / "weights.npz", w=np.zeros((2, 2)))
    with pytest.raises(
        InvalidInput, match="no known routing log; if it is one, name it with --format: ids, sglang_stat"
    ):
        import_routes(tmp_path / "weights.npz")
    with pytest.raises(InvalidInput, match="format 'sglang' is unknown"):
        import_routes(tmp_path / "weights.npz", format="sglang")
    with pytest.raises(InvalidInput, match="is no ids log: KeyError"):
        import_routes(tmp_path / "weights.npz", format="ids")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(InvalidInput, match=r"bad\.npz"):
        import_routes(tmp_path / "bad.npz")
    (tmp_path / "log.pt").write_bytes(b"")
    with pytest.raises(InvalidInput, match="install the extra lab"):
        import_routes(tmp_path / "log.pt")


def test_formats_are_named_as_documented():
    assert set(FORMATS) == {"ids", "sglang_stat", "sglang_per_token", "verl", "json_lines", "tensorrt_llm",
                            "routed_experts", "transformers", "megatron"}  # fmt: skip
