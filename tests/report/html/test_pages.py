"""What the reports say and draw is what the studies found."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moesim.report.html.comparison import comparison_page, number
from moesim.report.html.placement import placement_page
from moesim.report.html.plan import plan_page
from moesim.report.html.service_weeks import service_weeks_page
from moesim.report.html.serving import serving_page
from moesim.report.html.step import link_grid, step_page
from moesim.report.html.sweep import sweep_page
from moesim.report.html.training import training_page
from moesim.report.html.training_plan import training_plan_page
from moesim.report.html.training_weeks import training_weeks_page
from moesim.study.step.metrics import expert_load


def plot_of(page, heading):
    return next(section for section in page.sections if section.heading.startswith(heading)).plot


def section_of(page, heading):
    return next(section for section in page.sections if section.heading.startswith(heading))


def headings(page):
    return [section.heading for section in page.sections]


def test_a_step_tells_its_interval_and_where_its_inputs_come_from(step):
    page = step_page(step)
    assert page.headline[0].name == "step time"
    assert "80 % interval" in page.headline[0].note
    assert "h100, vllm: measured" in page.sure
    assert headings(page)[-3:] == ["Assumptions: the scenario", "Assumptions: defaults", "Provenance"]
    assert "slots_per_rank: 2" in page.sections[-3].code  # with the changes
    assert "network.fidelity" in page.sections[-2].table["field"].tolist()


def test_the_breakdown_and_the_timeline_are_those_of_the_run(step):
    page = step_page(step)
    bars = plot_of(page, "Where the time goes").data
    total = sum(np.sum(bar.x) for bar in bars)
    assert total == pytest.approx(sum(step.metrics["breakdown_s"].values()) * 1e3)
    timeline = plot_of(page, "Timeline of layer")
    track = step.timeline.tracks[0]
    ops = [op for op in track.program.ops if op.layer == 16]
    assert sum(len(bar.x) for bar in timeline.data) == len(ops) * 4
    assert {bar.name for bar in timeline.data} == {op.kind for op in ops}


def test_heat_maps_show_loads_over_the_mean_of_their_layer(step):
    page = step_page(step)
    load = expert_load(step.step, step.assembly.deployment.placement)
    shown = np.asarray(plot_of(page, "Load of experts").data[0].z)
    np.testing.assert_allclose(shown, load / load.mean(axis=1, keepdims=True), rtol=1e-6)
    ranks = np.asarray(plot_of(page, "Load of ranks").data[0].z)
    assert ranks.max(axis=1).mean() == pytest.approx(step.metrics["hottest_rank"]["per_layer_over_mean"], rel=1e-6)


def test_links_are_sorted_by_what_they_join_and_the_fullest_plane_counts():
    ends = [("device0", "nvlink0.0"), ("device0", "nvlink0.1"), ("device1", "nvlink0.0"), ("nvlink0.0", "device1")]
    rows, table = link_grid(ends, np.array([0.1, 0.3, 0.2, 0.4]))
    assert rows == ["device → nvlink", "nvlink → device"]
    np.testing.assert_array_equal(table, [[0.3, 0.2], [0.4, np.nan]])


def test_a_training_step_shows_its_pipeline_and_parts_that_add_up(training):
    page = training_page(training)
    bars = plot_of(page, "Where the time goes").data
    assert sum(np.sum(bar.x) for bar in bars) == pytest.approx(training.metrics["step_time_s"] * 1e3, rel=1e-6)
    assert {bar.name for bar in plot_of(page, "Timeline")["data"]} >= {"forward", "backward", "optimizer"}
    assert [figure.name for figure in page.headline][:3] == ["step time", "throughput per device", "MFU"]


def test_a_comparison_falls_from_one_step_to_the_other(comparison):
    page = comparison_page(comparison)
    fall = plot_of(page, "By operation").data[0]
    assert fall.y[0] + sum(fall.y[1:-1]) == pytest.approx(fall.y[-1], rel=1e-6)
    assert page.sections[0].table.iloc[0].tolist() == ["workload.context", "2048", "512"]
    assert [heading for heading in headings(page) if heading.startswith("Timeline")][1].endswith("every rank, B")
    assert "attention" in page.why


def test_figures_read_in_the_unit_of_their_name():
    assert number("ttft_s.p99", 0.25) == "250 ms"
    assert number("tokens_per_s_per_device", 123456.0) == "123,456"
    assert number("hbm.by_kind.experts", 2e9) == "2 GB"
    assert number("hottest_rank.over_mean", 1.25) == "1.25"
    assert number("step_time_s", float("nan")) == "–"


def test_a_placement_study_recommends_the_fastest_with_re_balancing(study):
    page = placement_page(study)
    best = study.table.loc[study.table["amortised_step_time_s"].idxmin(), "name"]
    assert page.headline[0].value == best
    first = plot_of(page, "Load of ranks under contiguous").data[0]
    load = study.judged[0].rank_load
    np.testing.assert_allclose(np.asarray(first.z), load / load.mean(axis=1, keepdims=True), rtol=1e-6)
    bars, other = plot_of(page, "Step time").data
    np.testing.assert_allclose(bars.x, study.table["step_time_s"] * 1e3)
    assert other.name == "on python"
    assert "python" in page.sure
    second = study.table.sort_values("amortised_step_time_s", kind="stable")["name"].iloc[1]
    assert f"Next comes {second}, " in page.sure


def test_a_plan_shows_every_candidate_that_meets_and_marks_the_cheapest(planned):
    page = plan_page(planned)
    best, meeting = planned.metrics["best"], planned.candidates[planned.candidates["meets"]]
    assert page.answer.startswith(f"Take {best['servers']} servers of {best['label']}")
    frontier, points, star = plot_of(page, "Throughput of a device").data
    assert len(points.x) == len(meeting)
    assert set(zip(frontier.x, frontier.y, strict=True)) <= set(zip(points.x, points.y, strict=True))
    assert star.x[0] == meeting["tokens_per_s_per_user"].iloc[0]
    low, high = planned.metrics["intervals"]["tpot"]
    assert f"{low:.2f} to {high:.2f} ×" in page.sure
    assert "nobody measured" not in page.sure
    table = next(section.table for section in page.sections if section.heading.endswith("prices and power"))
    assert table["USD/h a device"].tolist() == [f"{best['usd_per_hour'] / best['devices']:.3g}"]


def test_a_plan_shows_the_best_of_each_product_alone(planned):
    best = planned.candidates.iloc[0].to_dict() | {"product": "H100, HGX", "closest": ""}
    other = {"product": "H200, HGX", "closest": "8 × h200: TPOT 2 ×"}
    page = plan_page(planned, pd.DataFrame([best, other]))
    assert page.answer.endswith("On one product alone: H200 cannot.")
    table = next(section.table for section in page.sections if section.heading == "On each product alone")
    assert table["product"].tolist() == ["H100", "H200"]
    assert table["of the cheapest"].tolist() == ["1.00 ×", "–"]
    assert table["a server less"].iloc[1] == "closest: 8 × h200: TPOT 2 ×"


def test_a_plan_that_nothing_meets_says_how_close_one_gets(unmet):
    page = plan_page(unmet)
    assert page.answer.startswith("Nothing that was searched meets the objectives. Closest comes ")
    assert unmet.metrics["closest"]["label"] in page.answer
    assert not [section for section in page.sections if section.plot is not None]


def test_a_served_load_shows_its_queue_and_latencies(served):
    page = serving_page(served)
    latencies = plot_of(page, "Latencies").data
    assert latencies[0].x[-1] == pytest.approx(served.table.loc[~served.table["warmup"], "ttft_s"].max())
    queue = plot_of(page, "Queue").data
    assert len(queue) == 4 * len(served.run.journals)
    assert page.headline[0].note.endswith("80 % interval")


def test_weeks_of_training_show_where_every_second_went(weeks):
    document, result = weeks
    page = training_weeks_page(document, result)
    spent = plot_of(page, "Where the time goes").data
    np.testing.assert_allclose(sum(bar.y for bar in spent), 1 - np.sort(result.table["goodput"])[::-1], atol=1e-12)
    curve = next(line for line in plot_of(page, "Goodput against").data if line.name == "simulated")
    np.testing.assert_allclose(curve.y, result.curve["goodput"])
    lanes = plot_of(page, "The first run").data
    assert sum(np.sum(bar.x) for bar in lanes) == pytest.approx(result.first.wall_s / 86400)
    assert page.answer.startswith(f"{result.metrics['goodput']['mean']:.2%} of the wall time")


def test_an_interrupted_study_of_weeks_is_said_to_be_partial(weeks):
    document, result = weeks
    assert (
        "partial" in training_weeks_page(document, replace(result, metrics=result.metrics | {"complete": False})).answer
    )


def test_a_job_that_nothing_stops_is_said_to_run_on(weeks):
    document, result = weeks
    page = training_weeks_page(document, replace(result, metrics=result.metrics | {"mtbf_s": None}))
    assert page.why.startswith("Nothing stops the job. It saves")


def test_a_state_without_a_server_has_no_latencies_and_no_good_request(service):
    document, result = service
    gone = {"up": 0, "slowed": 0, "share": 0.25, "good_share": 0.0, "requests": None, "ttft_p50_s": None}
    one = result.metrics["one_failure"]
    one = one | {"before": one["before"] | {"requests": 0, "good_share": 0.0}}
    metrics = result.metrics | {"states": [*result.metrics["states"], gone], "one_failure": one}
    page = service_weeks_page(document, replace(result, metrics=metrics))
    *_, good, number = section_of(page, "States").table.iloc[-1]
    assert (good, number) == ("0.0%", "–")
    *_, good, number = section_of(page, "One failure").table.iloc[0]
    assert (good, number) == ("–", "0")  # of no requests nothing can be said


def test_a_service_shows_one_failure_and_all_its_states(service):
    document, result = service
    page = service_weeks_page(document, result)
    drawn = plot_of(page, "TTFT through one failure")
    assert [shape.x0 for shape in drawn.layout.shapes] == [outage.at_s for outage in result.outages]
    states = next(section for section in page.sections if section.heading.startswith("States"))
    assert len(states.table) == len(result.states)
    np.testing.assert_allclose(states.plot.data[0].x, result.states["share"])
    assert "without a rank" in page.why


def test_a_sweep_draws_its_runs_and_says_why_some_have_no_result(swept):
    grid, table = swept
    page = sweep_page(grid, table, "step_time_s", ("tokens_per_s_per_device",))
    lines = plot_of(page, "step_time_s over").data
    drawn = sorted(value for line in lines for value in line.y)
    assert drawn == sorted(table.loc[table["status"] == "ok", "step_time_s"])
    assert "4 ok; 2 infeasible" in page.sure
    assert page.why.startswith("Averaged over all other fields, step_time_s moves with workload.")
    assert sum(map(int, section_of(page, "Runs without").table["runs"])) == 2


def test_a_figure_that_begins_at_zero_moves_by_a_difference(swept):
    grid, table = swept
    known = table[table["status"] == "ok"].assign(dropped=[0.0, 0.0, 0.5, 0.5])
    assert (
        "dropped moves with workload.context by 0.5, workload.sequences_per_rank by 0 from"
        in sweep_page(grid, known, "dropped", ()).why
    )


def test_a_sweep_without_any_result_says_so(swept):
    grid, table = swept
    none = table[[*grid.fields, "key"]].assign(status="infeasible", reason="too large")
    page = sweep_page(grid, none, "step_time_s", ("step_time_s",))
    assert page.answer.startswith("No run has a step_time_s")
    assert all(section.plot is None for section in page.sections)


def test_a_training_plan_compares_days_and_money(training_planned):
    page = training_plan_page(training_planned)
    table = training_planned.table
    assert page.answer.startswith(f"{table['name'].iloc[0]} is the cheapest: {table['days'].iloc[0]:.1f} (")
    assert f"{table['over_cheapest'].iloc[1]:.2f} × the money" in page.answer
    np.testing.assert_allclose(plot_of(page, "Money").data[0].x, table["usd"] / 1e6, rtol=1e-6)
    assert section_of(page, "Alternatives").table["train on"].tolist() == table["name"].tolist()


def test_a_run_that_never_ends_has_no_days(training_planned):
    rows = [{**row, "days": None, "stopped": "memory"} for row in training_planned.metrics["alternatives"]]
    page = training_plan_page(replace(training_planned, metrics=training_planned.metrics | {"alternatives": rows}))
    assert page.answer == "No alternative comes to an end."
    assert section_of(page, "Alternatives").table["days"].tolist() == ["never"] * 2
    assert len(section_of(page, "Stopped").table) == 2
