"""What is cheapest on each product alone."""

from moesim.spec.reading.loading import parse
from moesim.study.planning.each_product import cheapest_on_each
from moesim.study.planning.plan import plan_of

TEXT = """
model: gpt-oss-120b
load: {rate: 8, input: {kind: fixed, tokens: 500}, output: {kind: fixed, tokens: 100}, requests: 50}
slo: {ttft: 1 s, tpot: 40 ms}
search:
  - hardware: h100
    software: vllm
    devices: [2]
    precision: [{experts: mxfp4, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}]
  - hardware: h200
    software: vllm
    devices: [2]
    precision: [{experts: mxfp4, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}]
routing: {kind: lognormal, sigma: 0.8}
finalists: 0
runners_up: 1
"""


def test_each_product_shows_its_own_best_and_the_winner_is_not_searched_again():
    result = plan_of(parse(TEXT))
    each = cheapest_on_each(result)
    best = result.metrics["best"]
    assert each["hardware"].tolist() == ["h100", "h200"]
    winner = each.set_index("hardware").loc[best["hardware"]]
    assert winner["label"] == best["label"]
    other = each[each["hardware"] != best["hardware"]].iloc[0]
    assert other["meets"]
    assert other["label"].startswith(f"2 × {other['hardware']}")
    assert other["usd_per_hour"] >= best["usd_per_hour"]


def test_a_product_that_cannot_meet_says_what_comes_closest():
    each = cheapest_on_each(plan_of(parse(TEXT.replace("tpot: 40 ms", "tpot: 4 ms"))))
    assert "TPOT" in each["closest"].iloc[0]  # H100
    assert each["closest"].iloc[1] == ""  # H200 has the bandwidth
