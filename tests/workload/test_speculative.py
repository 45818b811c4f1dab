"""Drafted and checked tokens: the program, its tokens, its memory, its worth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hardware.precision import PRECISIONS
from moesim.workload.footprint import footprint
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS
from moesim.workload.speculative import Draft, mtp_deployment, speculative_footprint, speculative_step

DECODE = "{kind: decode, sequences_per_rank: 4, context: 100"
DRAFTS = ", speculative: {draft_tokens: 2, acceptance: 0.5, draft: {kind: lookup}}}"


@given(st.integers(1, 8), st.floats(0, 0.99))
def test_accepted_tokens_are_the_geometric_sum(tokens, acceptance):
    accepted = Draft(tokens, acceptance, None).accepted
    assert accepted == pytest.approx((1 - acceptance ** (tokens + 1)) / (1 - acceptance))
    assert 1 <= accepted <= tokens + 1
    assert Draft(tokens, 1.0, None).accepted == tokens + 1


def built(scenario, kind="lookup"):
    """The assembly of a checked step with two drafts; `mtp` gives the tiny model an MTP layer."""
    assembly = scenario(workload=DECODE + DRAFTS)
    if kind == "lookup":
        return assembly, assembly.draft
    deployment = replace(assembly.deployment, model=replace(assembly.deployment.model, mtp_layers=1))
    return assembly, Draft(2, 0.5, mtp_deployment(deployment), shares_ends=True)


def test_a_check_routes_every_drafted_token(scenario):
    plain, (assembly, draft) = scenario(workload=DECODE + "}"), built(scenario)
    assert assembly.batch.new_tokens == 3
    step, drafting = speculative_step(
        assembly.deployment, draft, assembly.batch, assembly.routes, OVERLAPS["shared_expert"]
    )
    assert drafting == 0
    alone = inference_step(plain.deployment, plain.batch, plain.routes, OVERLAPS["shared_expert"])
    for checked, once in zip(step.traffic[0], alone.traffic[0], strict=True):
        assert checked.tokens.sum() == 3 * once.tokens.sum()
        assert (checked.tokens > 0).sum() >= (once.tokens > 0).sum()  # more tokens touch more experts
    # the first token of each sequence is the one that a step without drafts computes
    assert (assembly.routes.ids[:, ::3] == plain.routes.ids).all()


def test_an_mtp_layer_runs_once_a_token_before_the_check(scenario):
    assembly, draft = built(scenario, "mtp")
    step, drafting = speculative_step(
        assembly.deployment, draft, assembly.batch, assembly.routes, OVERLAPS["shared_expert"]
    )
    kinds = [op.kind for op in step.program.ops]
    assert kinds[:drafting].count("draft_projection") == kinds[:drafting].count("head") == 2
    assert kinds[:drafting].count("experts") == 2  # one MoE layer each
    assert kinds[drafting:].count("experts") == 3
    assert kinds[-1] == "head"
    first = step.program.ops[drafting]
    assert first.after == (drafting - 1,)  # the check waits for the last draft
    assert step.work.keys() == set(kinds)
    total = sum(op.seconds.max() for op in step.program.ops if op.seconds is not None)
    local = (work.seconds for kind, work in step.work.items() if kind not in ("dispatch", "combine"))
    assert sum(local) == pytest.approx(total)


def test_a_draft_needs_memory_but_shares_embedding_and_head(scenario):
    assembly, draft = built(scenario, "mtp")
    needs = footprint(assembly.deployment, assembly.batch, 0, reserve=0.1)
    more = speculative_footprint(needs, draft, assembly.batch)
    expert = 3 * 64 * 32
    assert more.experts - needs.experts == 2 * expert * 2  # two slots, BF16
    attention = 64 * (128 + 2 * 64) + 64 * 128
    shared, router, entry = expert, 64 * 16, 2 * 64 * 64
    assert more.dense_weights - needs.dense_weights == 2 * (attention + shared + router + entry)
    assert more.kv_cache - needs.kv_cache == 4 * 2 * 4 * 16 * 101 * 2  # one layer, 4 sequences
    assert speculative_footprint(needs, Draft(2, 0.5, None), assembly.batch) == needs


def test_the_shared_head_is_left_out_in_its_own_format(scenario):
    """A head in FP8 is subtracted as FP8: what is left is a layer, never less than nothing."""
    assembly, draft = built(scenario, "mtp")
    fp8 = replace(assembly.deployment.precision, dense=PRECISIONS["fp8"])
    draft = replace(draft, deployment=replace(draft.deployment, precision=fp8))
    needs = footprint(replace(assembly.deployment, precision=fp8), assembly.batch, 0, reserve=0.1)
    attention, shared, entry = 64 * (128 + 2 * 64) + 64 * 128, 3 * 64 * 32, 2 * 64 * 64
    router = 64 * 16  # stays in BF16
    assert speculative_footprint(needs, draft, assembly.batch).draft_weights == pytest.approx(
        attention + shared + entry + 2 * router
    )


def test_several_tokens_of_a_sequence_read_its_cache_once(scenario):
    def attention(workload):
        assembly = scenario(workload=workload)
        step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
        return max(op.seconds.max() for op in step.program.ops if op.kind == "attention")

    long = "{kind: decode, sequences_per_rank: 64, context: 60000"
    once, thrice, apart = (
        attention(long + "}"), attention(long + DRAFTS), attention(long.replace("64", "192") + "}"),
    )  # fmt: skip
    assert once <= thrice < 0.7 * apart
    # kernels that were not made for it read the cache for each token, as many sequences of 60,002 tokens would
    each = attention(long + DRAFTS.replace("draft:", "cache_reads: each_token, draft:"))
    assert each == pytest.approx(apart, rel=1e-3)


def test_seconds_of_a_step_grow_with_drafted_tokens(scenario):
    times = []
    for tokens in (1, 2, 5):
        workload = DECODE + DRAFTS.replace("draft_tokens: 2", f"draft_tokens: {tokens}")
        assembly = scenario(workload=workload)
        step, _ = speculative_step(
            assembly.deployment, assembly.draft, assembly.batch, assembly.routes, OVERLAPS["none"]
        )
        times.append(sum(float(np.max(work.seconds)) for work in step.work.values()))
    assert times == sorted(times)
