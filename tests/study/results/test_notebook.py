"""Results show themselves in a notebook."""

from moesim.study.results.notebook import plan_html, serving_html, small_table, spread_html
from moesim.study.serving_load.serve import serve_scenario
from moesim.study.step.run import run_scenario

SMALL = (
    "cluster.devices=4", "parallelism={attention_dp: 4, ep: 4}", "workload.sequences_per_rank=8",
    "placement={kind: contiguous, slots_per_rank: 2}",
)  # fmt: skip


def test_a_step_shows_its_interval_and_what_its_costs_stand_on():
    shown = run_scenario("placement-mixtral-h100", SMALL)._repr_html_()
    assert shown.startswith("<h4>Mixtral-8x7B-v0.1 decode on 4 × H100 SXM5 80 GB</h4><table>")
    assert "80 % interval" in shown
    assert "<th>cost models</th><td>h100, vllm: measured</td>" in shown


def test_a_training_step_shows_its_mfu():
    result = run_scenario("mixtral-8x7b-training-h100", ("workload.global_batch=64",))
    assert f"<th>MFU</th><td>{result.metrics['mfu']:.1%}</td>" in result._repr_html_()


def test_a_served_load_shows_latencies_and_goodput():
    result = serve_scenario("serving-qwen3-h100-bursty", ("load.requests=120", "load.warmup=10"))
    shown = result._repr_html_()
    assert shown == serving_html(result.metrics)
    assert "<th>TTFT</th><td>mean " in shown
    assert "<th>goodput</th>" in shown


def test_a_plan_without_an_answer_says_so():
    metrics = {"plan": "a", "best": None, "closest": {"label": "8 × h100", "binds": "TPOT 2 ×"}, "considered": 3}
    shown = plan_html(metrics | {"served": 2})
    assert "nothing meets the objectives" in shown
    assert "8 × h100: TPOT 2 ×" in shown


def test_texts_are_escaped_and_spreads_show_where_there_are_some():
    assert (
        small_table("<a>", [("b&", "<c>")])
        == "<h4>&lt;a&gt;</h4><table><tr><th>b&amp;</th><td>&lt;c&gt;</td></tr></table>"
    )
    shown = spread_html(
        "x", {"goodput": {"mean": 0.9, "p10": 0.8, "p90": 0.95}, "all_up": 1.0}, ("goodput", "all_up", "no")
    )
    assert "0.9 (0.8 – 0.95)" in shown
    assert shown.count("<tr>") == 2
