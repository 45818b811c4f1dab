"""Shipped files by name, in a checkout and in an installed wheel."""

import pytest

from moesim.errors import InvalidInput
from moesim.spec.reading import library


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """An installed package that carries one profile and one capture."""
    package = tmp_path / "moesim"
    for name in ("hardware_profiles/mine.yaml", "routing/captures/some-trace.safetensors"):
        (package / name).parent.mkdir(parents=True)
        (package / name).touch()
    monkeypatch.setattr(library, "_PACKAGE", package)
    return package


def test_a_checkout_keeps_them_beside_the_package():
    assert library.folder("hardware").name == "hardware_profiles"
    assert "h100" in library.names("hardware")
    assert library.find("hardware", "h100").read_text().startswith("#")


def test_a_wheel_carries_them_inside(wheel):
    assert library.find("hardware", "mine") == wheel / "hardware_profiles" / "mine.yaml"
    assert library.find("trace", "Some_Trace") == wheel / "routing" / "captures" / "some-trace.safetensors"
    assert library.names("scenario") == ()
    with pytest.raises(InvalidInput, match="no scenario is named 'quickstart'; write a path or one of none"):
        library.find("scenario", "quickstart")


def test_a_path_works_wherever_a_name_does(wheel, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert library.find("hardware", "own.yaml").name == "own.yaml"
    monkeypatch.chdir("/")
    assert library.find("hardware", "own.yaml", beside=tmp_path / "scenario.yaml") == tmp_path / "own.yaml"
    with pytest.raises(InvalidInput, match=r"cluster: no such file: other\.yaml"):
        library.find("hardware", "other.yaml", beside=tmp_path / "scenario.yaml", field="cluster")


def test_a_name_wins_over_a_file_of_that_name(wheel, tmp_path, monkeypatch):
    (tmp_path / "mine").touch()
    monkeypatch.chdir(tmp_path)
    assert library.find("hardware", "mine").parent.name == "hardware_profiles"
    assert library.find("hardware", "./mine").resolve() == tmp_path / "mine"
