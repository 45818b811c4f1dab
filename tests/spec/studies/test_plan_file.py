"""Shipped plans agree with their schemas."""

import json
from pathlib import Path

import pytest

from moesim.spec.reading import library
from moesim.spec.reading.loading import read

SCHEMAS = Path(__file__).parents[3] / "docs" / "schema"


@pytest.mark.parametrize("name", library.names("plan"))
def test_a_shipped_plan_agrees_with_the_schema_that_it_names(name):
    jsonschema = pytest.importorskip("jsonschema")
    text = library.find("plan", name).read_text()
    schema = text.split("docs/schema/")[1].split(".json")[0]
    jsonschema.validate(read(library.find("plan", name)).data, json.loads((SCHEMAS / f"{schema}.json").read_text()))
