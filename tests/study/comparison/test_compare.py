"""Two scenarios side by side: differences add up, and stand in the operations that the change touches."""

import numpy as np
import pandas as pd
import pytest

from moesim.errors import Infeasible, InvalidInput
from moesim.spec.reading import library
from moesim.study.comparison.compare import compare
from moesim.study.comparison.differences import UNSTACKED

SCENARIO = "mixtral-8x7b-h100"


@pytest.fixture(scope="module")
def longer():
    return compare(SCENARIO, changes=["workload.context=4096"], each=True)


def test_what_differs_and_what_it_changes(longer):
    assert longer.fields.to_dict("records") == [{"field": "workload.context", "a": "2048", "b": "4096"}]
    assert longer.names == (SCENARIO, "workload.context=4096")
    figures = longer.figures.set_index("figure")
    assert figures.loc["step_time_s", "b"] > figures.loc["step_time_s", "a"]
    assert figures.loc["step_time_s", "relative"] == pytest.approx(
        figures.loc["step_time_s", "change"] / figures.loc["step_time_s", "a"]
    )
    assert list(longer.figures["figure"][:5]) == list(longer.kind.headline)


def test_changes_of_operations_add_up_to_that_of_the_step(longer):
    step = longer.figures.set_index("figure").loc["step_time_s", "change"]
    assert longer.operations["change_s"].sum() == pytest.approx(step, rel=1e-6)
    # A longer context is more attention and nothing else.
    assert longer.operations["operation"].iloc[0] == "attention"
    assert longer.operations["change_s"].iloc[0] == pytest.approx(step, rel=0.01)
    assert longer.memory["kind"].tolist() == ["kv_cache"]
    assert longer.memory["b_bytes"].iloc[0] / longer.memory["a_bytes"].iloc[0] == pytest.approx(2, rel=0.01)


def test_the_effect_of_the_only_change_is_the_whole(longer):
    assert longer.effects["field"].tolist() == ["workload"]
    step = longer.figures.set_index("figure").loc["step_time_s", "change"]
    assert longer.effects["change"].iloc[0] == pytest.approx(step)


def test_waiting_is_told_apart():
    """Without replicas the step is longer because combine waits for hot ranks, not because it carries more."""
    found = compare("quickstart", changes=["placement={kind: contiguous, slots_per_rank: 4}"])
    assert found.operations["operation"].iloc[-1] == UNSTACKED  # the shared expert lies beside dispatch
    combine = found.operations.set_index("operation").loc["combine"]
    assert found.operations["operation"].iloc[0] == "combine"
    assert combine["waiting_change_s"] > 0.5 * combine["change_s"] > 0
    waiting = found.figures.set_index("figure").loc["waiting_s", "change"]
    assert found.operations["waiting_change_s"].sum() == pytest.approx(waiting, rel=1e-6)
    hottest = found.hot_spots.set_index("spot").loc["hottest rank"]
    assert hottest["a"] != hottest["b"]


def test_keys_that_cannot_change_alone_change_together(tmp_path):
    roomy = tmp_path / "roomy.yaml"
    text = library.find("scenario", SCENARIO).read_text()
    roomy.write_text(text.replace("slots_per_rank: 1", "slots_per_rank: 2"))
    changes = ["cluster.devices=4", "parallelism={tp: 4, ep: 4}", "seed=1"]
    effects = compare(str(roomy), changes=changes, each=True).effects.set_index("field")
    assert set(effects.index) == {"cluster + parallelism", "seed"}
    assert effects.loc["cluster + parallelism", "relative"] > 0
    assert (effects["reason"] == "").all()


def test_serving_scenarios_compare_what_their_servers_went_through():
    less = ["load.requests=12", "load.arrivals.in_flight=4"]
    found = compare("serving-deepseek-v3-b200", changes=less)
    assert found.operations.empty
    figures = found.figures.set_index("figure")
    assert figures.loc["tpot_s.p50", "change"] < 0
    assert figures.loc["servers.0.mean_batch", "change"] < 0


def test_training_steps_compare():
    """Forced balance takes away hot experts' ranks, and nothing from the optimizer."""
    found = compare("qwen3-30b-training-tpu-v5p", changes=["routing={kind: balanced}"])
    assert found.kind.name == "training"
    figures, operations = found.figures.set_index("figure"), found.operations.set_index("operation")
    assert figures.loc["mfu", "change"] > 0
    assert operations["change_s"].sum() == pytest.approx(figures.loc["step_time_s", "change"], rel=1e-6)
    assert operations.loc["optimizer", "change_s"] == 0
    assert found.hot_spots["b"].iloc[0].startswith("1.0")


def test_runs_over_weeks_compare_their_figures(tmp_path):
    short = tmp_path / "short.yaml"
    text = library.find("scenario", "resilience-2048-gpus").read_text()
    assert "seeds: 32" in text
    short.write_text(text.replace("seeds: 32", "seeds: 2").replace("duration: 30 days", "duration: 5 days"))
    found = compare(str(short), changes=["failures.device.mtbf=8000 h"])
    assert found.figures.set_index("figure").loc["goodput.mean", "change"] < 0
    assert set(found.tables()) == {"fields", "figures"}


def test_what_cannot_be_compared():
    with pytest.raises(InvalidInput, match="is of kind step"):
        compare(SCENARIO, "serving-deepseek-v3-b200")
    with pytest.raises(InvalidInput, match="are the same"):
        compare(SCENARIO)
    with pytest.raises(Infeasible, match=f"{SCENARIO}: does not fit"):
        compare(SCENARIO, changes=["workload.sequences_per_rank=1000000"])


def test_a_comparison_shows_in_a_notebook_and_as_json(longer):
    page = longer._repr_html_()
    assert page.count("<table") == len(longer.tables())
    assert "attention" in page
    data = longer.data()
    assert data["a"]["scenario_hash"] != data["b"]["scenario_hash"]
    table = pd.DataFrame(data["operations"])
    assert np.allclose(table["change_s"], longer.operations["change_s"], rtol=1e-6, atol=1e-15)
