"""Claims: what a file may hold, how verdicts follow from figures, what is kept."""

import json
from pathlib import Path

import pytest

from moesim.errors import InvalidInput
from moesim.spec.reading.formula import parse_formula
from moesim.study.claims import running
from moesim.study.claims.reading import read_claims, shipped_files
from moesim.study.claims.running import measure_all
from moesim.study.claims.verdict import FAILS, HOLDS, ONLY_WHEN, OPEN, decide

GRID = """
claims:
  c:
    says: Something.
    over: [{system: [A, B], factor: [1, 10]}, {batch: [1, 2, 4, 8]}]
    runs: {stated: {kind: arithmetic, values: {limit: 4}}}
    figures: {figure: {formula: batch * factor, %s}}
"""


def decided(tmp_path, text, name="c"):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    claims = read_claims([path])
    measured = measure_all(claims, tmp_path / "out")
    return {claim.id: decide(claim, measured) for claim in claims}[name]


def test_a_claim_that_is_met_everywhere_holds(tmp_path):
    assert decided(tmp_path, GRID % "least: 1").verdict == HOLDS


def test_a_claim_that_is_met_nowhere_does_not(tmp_path):
    found = decided(tmp_path, GRID % "least: 100")
    assert found.verdict == FAILS
    assert [row["figure"] for row in found.rows] == [1, 2, 4, 8, 10, 20, 40, 80]


@pytest.mark.parametrize(
    ("bounds", "when"),
    [
        ("most: 4", "A: batch ≤ 4 (no more at 8)"),
        ("least: 40", "B: batch ≥ 4 (not yet at 2)"),
        ("least: 2, most: 4", "A: batch 2–4 (not at 1 or 8)"),
        ("least: 8, most: 10", "A: batch ≥ 8 (not yet at 4); B: batch ≤ 1 (no more at 2)"),
        ("most: 10", "A: any batch; B: batch ≤ 1 (no more at 2)"),
        ("most: 5", "A: batch ≤ 4 (no more at 8, crossing near 5)"),
        ("least: 3, most: 5", "A: batch 4 (not at 2, crossing near 3 or 8, crossing near 5)"),
    ],
)
def test_the_boundary_is_where_the_steps_change(tmp_path, bounds, when):
    found = decided(tmp_path, GRID % bounds)
    assert (found.verdict, found.when) == (ONLY_WHEN, when)


def test_several_conditions_are_told_one_by_one(tmp_path):
    text = (GRID % "most: 1000").replace(
        "figures: {", "figures: {other: {formula: batch - 9, least: 0, label: the other}, "
    )
    assert decided(tmp_path, text).when == "said of figure; not of the other"


def test_what_does_not_fit_decides_nothing_but_fits(tmp_path):
    text = """
claims:
  c:
    says: It fits.
    over: [{format: [bf16, int4]}]
    runs: {step: {kind: scenario, scenario: mixtral-8x7b-h100, set: {cluster.devices: 1, cluster.hardware: h100,
      parallelism: {}, placement.slots_per_rank: 8, workload.sequences_per_rank: 1, precision.experts: $format}}}
    figures: {fits: {formula: step.fits, least: 1}, bytes: {formula: step.hbm_bytes, most: 1.0e+11}}
"""
    found = decided(tmp_path, text)
    assert found.verdict == ONLY_WHEN
    assert [row["fits"] for row in found.rows] == [0, 1]
    assert found.reason.startswith("format bf16: ")


def test_a_claim_may_be_undecidable(tmp_path):
    found = decided(tmp_path, "claims: {c: {says: Something., undecidable: nobody measured it}}")
    assert (found.verdict, found.reason) == (OPEN, "nobody measured it")


def test_a_claim_stays_open_where_a_package_is_missing(tmp_path, monkeypatch):
    def measure(place, *, values):
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setitem(running.MEASURES, "arithmetic", measure)
    found = decided(tmp_path, (GRID % "least: 1").replace("batch * factor", "stated.limit"))
    assert found.verdict == OPEN
    assert found.reason.endswith("needs torch; pip install 'moesim[lab]'")
    assert not list((tmp_path / "out" / "measurements").glob("*.json"))  # so that it is measured once it can be


@pytest.mark.parametrize(
    ("change", "line", "field", "message"),
    [
        (("kind: arithmetic", "kind: arithmetik"), 6, "claims.c.runs.stated", "did you mean 'arithmetic'"),
        (("values:", "value:"), 6, "claims.c.runs.stated", "unknown key; did you mean 'values'"),
        (("limit: 4", "limit: $lot"), 6, "claims.c.runs.stated.values.limit", "no variable is named 'lot'"),
        (("batch * factor", "batch * faktor"), 7, "claims.c.figures.figure.formula", "'faktor' is no variable"),
        (("batch * factor", "moe.step_time_s"), 7, "claims.c.figures.figure.formula", "no run is named 'moe'"),
        (("batch * factor", "batch if factor else 1"), 7, "claims.c.figures.figure.formula", "is no arithmetic"),
        (("factor: [1, 10]", "factor: [1]"), 5, "claims.c.over.0", "need as many values"),
        (("least: 1", "unit: s"), 7, "claims.c.figures", "nothing decides"),
        (("least: 1", "least: 1, most: 0"), 7, "claims.c.figures.figure.most", "is below least"),
    ],
)
def test_mistakes_are_named_where_they_stand(tmp_path, change, line, field, message):
    path = tmp_path / "claims.yaml"
    path.write_text((GRID % "least: 1").replace(*change))
    with pytest.raises(InvalidInput) as error:
        read_claims([path])
    problem = error.value.problems[0]
    assert (problem.file, problem.line) == (str(path), line)
    assert problem.field.startswith(field)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("{kind: scenario, scenario: no-such}", "no scenario is named 'no-such'"),
        ("{kind: scenario, scenario: quickstart, set: {workload.contxt: 5}}", "unknown key; did you mean 'context'"),
    ],
)
def test_an_unknown_scenario_is_named_before_anything_runs(tmp_path, run, message):
    path = tmp_path / "claims.yaml"
    path.write_text((GRID % "least: 1").replace("{kind: arithmetic, values: {limit: 4}}", run))
    with pytest.raises(InvalidInput, match=message) as error:
        read_claims([path])
    assert {problem.line for problem in error.value.problems} == {6}


def test_a_figure_that_a_run_does_not_give_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"the run gives no 'limt'; did you mean 'limit'"):
        decided(tmp_path, (GRID % "least: 1").replace("batch * factor", "batch * stated.limt"))


def test_an_unknown_id_names_the_closest():
    with pytest.raises(InvalidInput, match="did you mean 'claim-17'"):
        read_claims(wanted=["claim17"])


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "claims.yaml"
    path.write_text(
        "claims:\n  c:\n    says: Experts are many.\n    over: [{model: [mixtral-8x7b, deepseek-v3, dbrx]}]\n"
        "    runs: {sheet: {kind: model, model: $model}}\n    "
        "figures: {experts: {formula: sheet.experts, least: 100}}\n"
    )
    claims = read_claims([path])
    measured = []

    def interrupted(run):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(run.options["model"])
        return real(run)

    real = running.measure
    monkeypatch.setattr(running, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_all(claims, tmp_path / "out")
    assert len(list((tmp_path / "out" / "measurements").glob("*.json"))) == 2
    monkeypatch.setattr(running, "measure", lambda run: (measured.append(run.options["model"]), real(run))[1])
    found = measure_all(claims, tmp_path / "out")
    assert measured == ["mixtral-8x7b", "deepseek-v3", "dbrx"]  # none twice
    assert decide(claims[0], found).when == "model is deepseek-v3"


def test_what_shows_only_when_it_runs_is_named_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(
        "claims:\n  c:\n    says: Chips are fast.\n    over: [{devices: [3, 4]}]\n"
        "    runs: {chip: {kind: hardware, hardware: tpu_v5p, devices: $devices}}\n"
        "    figures: {rate: {formula: chip.injection_bytes_per_s, least: 1}}\n"
    )
    with pytest.raises(InvalidInput, match="offers no 3 chips") as error:
        measure_all(read_claims([path]), tmp_path / "out")
    assert [(p.file, p.line, p.field) for p in error.value.problems] == [(str(path), 5, "claims.c.runs.chip")]
    assert len(list((tmp_path / "out" / "measurements").glob("*.json"))) == 1


def test_a_file_that_is_not_whole_is_measured_again(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(GRID % "least: 1")
    claims = read_claims([path])
    first = measure_all(claims, tmp_path / "out")
    kept = next((tmp_path / "out" / "measurements").glob("*.json"))
    kept.write_text(kept.read_text()[:20])
    again = measure_all(claims, tmp_path / "out")
    assert {key: value.figures for key, value in again.items()} == {key: value.figures for key, value in first.items()}
    assert json.loads(kept.read_text())["status"] == "ok"


def test_all_73_claims_are_there_and_most_can_be_decided():
    claims = [read_claims([path]) for path in shipped_files()]
    ids = [claim.id for file in claims for claim in file]
    assert sorted(ids) == [f"claim-{number:02}" for number in range(1, 74)]
    assert sum(not claim.undecidable for file in claims for claim in file) >= 60


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("claim-10", FAILS),
        ("claim-22", FAILS),
        ("claim-35", FAILS),
        ("claim-60", HOLDS),
        ("claim-25", ONLY_WHEN),
        ("claim-45", FAILS),
    ],
)
def test_what_arithmetic_decides(tmp_path, claim, verdict):
    claims = read_claims(wanted=[claim])
    assert decide(claims[0], measure_all(claims, tmp_path)).verdict == verdict


def test_shipped_claims_share_no_words_with_the_list_they_answer():
    """Runs of eight words of the list do not occur in the files; skipped without the list."""
    listed = Path(__file__).parents[4] / "shared" / "claims.yaml"
    if not listed.exists():
        pytest.skip("needs ../shared")
    shipped = " ".join(" ".join(path.read_text().split()) for path in shipped_files()).lower()
    words = listed.read_text().lower().split()
    runs = {" ".join(words[start : start + 8]) for start in range(len(words) - 7)}
    assert [run for run in runs if run in shipped] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 + 2 * 3", 7), ("-(2 ** 3)", -8), ("max(1, a.b) / 4", 1.5), ("sqrt(16) - log(1)", 4), ("ceil(1.2)", 2)],
)
def test_formulas_compute(text, value):
    assert parse_formula(text).value({"a.b": 6.0}.__getitem__) == value


@pytest.mark.parametrize(
    "text", ["", "1 +", "a[0]", "'a'", "f(1)", "True", "a if b else c", "__import__('os')", "(1, 2)"]
)
def test_formulas_do_nothing_else(text):
    with pytest.raises(ValueError, match=r"write|number"):
        parse_formula(text)
