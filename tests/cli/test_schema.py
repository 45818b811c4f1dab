"""The JSON Schemas in docs/ are those of the code, and they accept what ships."""

import json
from pathlib import Path

import pytest
import yaml

from moesim.spec.reading import library
from moesim.spec.schema import KINDS

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
FOLDERS = {
    "scenario": "scenario",
    "training": "scenario",
    "serving": "scenario",
    "profile": "hardware",
    "model": "model",
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_the_current_one(moesim, kind):
    code, out, _ = moesim("schema", kind)
    assert code == 0
    assert json.loads(out) == json.loads((SCHEMAS / f"{kind}.json").read_text()), (
        f"moesim schema {kind} > docs/schema/{kind}.json"
    )


def test_an_unknown_kind_is_named(moesim):
    code, _, err = moesim("schema", "cluster")
    assert code == 2
    assert "scenario, training, serving, profile, model" in err


@pytest.mark.parametrize("kind", ["scenario", "training", "serving", "profile"])
def test_shipped_files_agree_with_the_schema(kind):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
    for name in library.names(FOLDERS[kind]):
        text = library.find(FOLDERS[kind], name).read_text()
        if f"docs/schema/{kind}.json" not in text and FOLDERS[kind] == "scenario":
            continue  # it names another schema
        data = yaml.safe_load(text)
        jsonschema.validate(data, schema)
