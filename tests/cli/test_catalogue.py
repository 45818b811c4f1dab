import json


def test_profiles_lists_what_ships(moesim, moesim_json):
    code, out, _ = moesim("profiles")
    assert code == 0
    assert "gb200_nvl72" in out
    table = {row["profile"]: row for row in moesim_json("profiles")["profiles"]}
    assert len(table) >= 13
    assert table["h100"]["fp4_flops_per_s"] is None
    assert table["gb200_nvl72"]["scale_up_devices"] == 72


def test_a_profile_shows_every_figure_with_its_source(moesim, tmp_path):
    code, out, _ = moesim("profiles", "tpu_v5p", "--plot", tmp_path / "torus.png", "--devices", 64)
    assert code == 0
    assert "device.hbm.bandwidth" in out
    assert (tmp_path / "torus.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_profile_and_a_missing_name(moesim, tmp_path):
    code, _, err = moesim("profiles", "h10")
    assert code == 2
    assert "h100" in err
    code, _, err = moesim("profiles", "--plot", tmp_path / "a.png")
    assert code == 2
    assert "name the profile" in err


def test_models_stand_beside_their_published_figures(moesim, tmp_path):
    code, out, _ = moesim("models", "deepseek-v3", "llama-2-70b")
    assert code == 0
    assert "671.03 B" in out
    rows = json.loads(moesim("models", "--json")[1])["models"]
    assert len(rows) >= 40
    close = [row for row in rows if row["total_difference"] is not None and abs(row["total_difference"]) < 0.01]
    assert len(close) >= 30


def test_capture_says_what_it_needs(moesim):
    assert "one of --model" in moesim("capture")[2]
    assert "--text" in moesim("capture", "--transformers", "config.json")[2]
