"""Training runs planned: days, device-hours, money and energy follow from the step and its failures."""

import pytest

from moesim.errors import InvalidInput
from moesim.spec.reading.loading import parse
from moesim.study.planning.training_plan import training_plan_of

TEXT = """
tokens: 1.0e11
alternatives:
  - {name: as shipped, step: {scenario: mixtral-8x7b-training-h100}, spares: 1}
  - {name: balanced, step: {scenario: mixtral-8x7b-training-h100, set: ['routing={kind: balanced}']}}
failures: {detection: 2 min, device: {mtbf: 20000 h, repair: 2 h}}
recovery: {kind: restart, restart: 5 min}
checkpoint: {interval: 1 h, bandwidth: 50 GB/s, node_bandwidth: 5 GB/s, storage: 100 TB}
economics: {rent: {h100: 2 USD/h}, pue: 1.2, carbon: 400 g/kWh}
seeds: 4
"""


@pytest.fixture(scope="module")
def rows():
    return training_plan_of(parse(TEXT)).table.set_index("name")


def test_days_hours_money_and_carbon_follow_from_each_other(rows):
    row = rows.loc["balanced"]
    assert row["device_hours"] == pytest.approx(row["days"] * 24 * row["devices"])
    assert row["usd"] == pytest.approx(row["device_hours"] * 2)
    assert row["tonnes_co2e"] == pytest.approx(row["mwh"] * 0.4)
    assert row["days_low"] < row["days"] < row["days_high"]
    assert row["days"] == pytest.approx(1e11 / row["tokens_per_s"] / 86400, rel=0.01)


def test_spares_are_paid_and_real_routing_costs_more_than_forced_balance(rows):
    shipped = rows.loc["as shipped"]
    assert shipped["usd"] == pytest.approx(shipped["device_hours"] * 2 * (1 + 8 / shipped["devices"]))
    assert shipped["step_s"] > rows.loc["balanced", "step_s"]
    assert rows["over_cheapest"].min() == 1.0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("scenario: mixtral-8x7b-training-h100}, s", "scenario: nowhere}, s", "alternatives.0.step.scenario"),
        ("tokens: 1.0e11", "tokens: 0", "tokens"),
        ("storage: 100 TB", "storage: 1 GB", "checkpoint.storage"),
    ],
)
def test_mistakes_are_named(old, new, told):
    with pytest.raises(InvalidInput) as error:
        training_plan_of(parse(TEXT.replace(old, new), "plan.yaml"))
    assert told in str(error.value)
