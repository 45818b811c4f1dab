import shutil
import subprocess
import sys
from pathlib import Path

import moesim

SHOW = "from moesim.study.results.code import code_hash; print(code_hash())"


def _hash(folder: Path) -> str:
    return subprocess.run([sys.executable, "-c", SHOW], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_results_of_other_code_have_another_hash_and_drawing_is_no_part_of_it(tmp_path):
    shutil.copytree(Path(moesim.__file__).parent, tmp_path / "moesim", ignore=shutil.ignore_patterns("__pycache__"))
    first = _hash(tmp_path)
    (tmp_path / "moesim/report/figures/canvas.py").write_text("# changed\n", encoding="utf-8")
    assert _hash(tmp_path) == first
    engine = tmp_path / "moesim/engine/simulate.py"
    engine.write_text(engine.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert _hash(tmp_path) != first


def test_results_of_other_constants_have_another_hash(tmp_path):
    shutil.copytree(Path(moesim.__file__).parent, tmp_path / "moesim", ignore=shutil.ignore_patterns("__pycache__"))
    first = _hash(tmp_path)
    constants = tmp_path / "moesim/serving/constants.yaml"
    constants.write_text(constants.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert _hash(tmp_path) != first
