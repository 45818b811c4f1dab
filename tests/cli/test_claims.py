"""``moesim claims`` as a user types it."""

import json
import re

CLAIMS = """
claims:
  many-experts:
    says: Models have at least a hundred experts.
    over: [{model: [mixtral-8x7b, deepseek-v3]}]
    runs: {sheet: {kind: model, model: $model}}
    figures: {experts: {formula: sheet.experts, least: 100}}
  nobody-knows:
    says: It is so.
    undecidable: it was never measured
"""


def write(tmp_path, text=CLAIMS):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    return path


def test_verdicts_and_figures_are_printed(moesim, tmp_path):
    code, out, err = moesim("claims", "--file", write(tmp_path), "--out", tmp_path / "out")
    assert code == 0
    assert "many-experts  HOLDS ONLY WHEN model is deepseek-v3" in out
    assert "experts: 8 – 256 (claimed: at least 100)" in out
    assert "because it was never measured" in out
    assert "0 holds, 1 holds only when, 0 does not hold, 1 not decidable here" in out
    assert "2 measurements" in err


def test_json_is_the_same_when_nothing_is_measured_again(moesim_json, tmp_path):
    arguments = ("claims", "many-experts", "--file", write(tmp_path), "--out", tmp_path / "out")
    first = moesim_json(*arguments)
    assert first == moesim_json(*arguments)
    assert [claim["id"] for claim in first["claims"]] == ["many-experts"]
    assert first["claims"][0]["figures"]["experts"]["values"] == [8, 256]
    assert first["claims"][0]["over"] == {"model": ["mixtral-8x7b", "deepseek-v3"]}


def test_the_page_needs_no_other_file(moesim, tmp_path):
    report = tmp_path / "report"
    code, _, _ = moesim("claims", "--file", write(tmp_path), "--out", tmp_path / "out", "--report", report)
    assert code == 0
    page = (report / "claims.html").read_text()
    assert "data:image/png;base64," in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    text = (report / "claims.md").read_text()
    for picture in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (report / picture).exists()
    assert "**holds only when model is deepseek-v3**" in text


def test_mistakes_end_with_2_and_their_place(moesim, tmp_path):
    path = write(tmp_path, CLAIMS.replace("kind: model, model: $model", "kind: scenario, scenario: nowhere"))
    code, _, err = moesim("claims", "--file", path, "--out", tmp_path / "out")
    assert code == 2
    assert f"{path}:6:" in err
    assert "no scenario is named 'nowhere'" in err
    code, _, err = moesim("claims", "many-expert", "--file", write(tmp_path), "--out", tmp_path / "out")
    assert code == 2
    assert "did you mean 'many-experts'" in err


def test_an_id_completes():
    from moesim.cli.completion import complete_claim

    assert complete_claim("claim-7") == ["claim-70", "claim-71", "claim-72", "claim-73"]
    assert json.dumps(complete_claim("claim-0")).count("claim-0") == 9
