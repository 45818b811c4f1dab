"""The tables behind ``moesim profiles``."""

import pytest

from moesim.errors import InvalidInput
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading import library
from moesim.study.inspection.profiles import drawn_devices, profile_sheet, profiles_table


def test_one_row_a_profile_with_units_in_the_names():
    table = profiles_table()
    assert list(table.index) == list(library.names("hardware"))
    assert table.loc["gb200_nvl72", "scale_up_bytes_per_s"] == pytest.approx(9e11)
    assert table.loc["mi300x", "scale_up_bytes_per_s"] == pytest.approx(7 * 64e9)
    assert table.loc["tpu_v5p", "scale_up_bytes_per_s"] == pytest.approx(6e11)
    assert table.loc["h800", "calibration"] == "like h100"
    assert table["fp4_flops_per_s"].notna().sum() == 5


def test_a_sheet_shows_each_figure_with_its_source():
    sheet = profile_sheet("gb200-nvl72").set_index("field")
    assert sheet.loc["device.hbm.bandwidth", "value"] == "8 TB/s"
    assert "NCCL" in sheet.loc["topology.link.latency", "source"]
    assert sheet.loc["device.cores", "unverified"]
    assert not sheet.loc["device.hbm.bandwidth", "unverified"]
    assert sheet.loc["title", "source"] == ""


def test_an_unknown_profile():
    with pytest.raises(InvalidInput, match="did you mean 'h100'"):
        profile_sheet("h10")


def test_sizes_that_show_the_fabric():
    sizes = {name: drawn_devices(load_profile(name)) for name in ("h100", "gb200_nvl72", "tpu_v5p", "tpu_v6e", "wse3")}
    assert sizes == {"h100": 8, "gb200_nvl72": 72, "tpu_v5p": 64, "tpu_v6e": 256, "wse3": 1}
