"""Refit every measured profile and regenerate reports/validation.md.

    python benchmarks/validation_report.py TABLES [--published FIGURES.yaml] [--out reports] [--cache out/validation]

The folder TABLES holds gemm.parquet, moe.parquet … as docs/measured-tables.md describes them. Fits with five folds take
some 40 minutes of one core; finished tables of the cache are not fitted again. Profiles get `calibration:` blocks.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import pandas as pd
import yaml

from moesim.cost.table_kinds import KINDS
from moesim.errors import InvalidInput
from moesim.report.validation_page import SIBLINGS, write_validation
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading import library
from moesim.study.validation.kernels.calibrate import calibrate, calibration_block, launch_of, write_calibration
from moesim.study.validation.tables import read_table

SOURCE = "measured by NVIDIA, published with AIConfigurator 0.12.0 (Apache-2.0)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path)
    parser.add_argument("--published", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--cache", type=Path, default=Path("out/validation"))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    files = [options.tables / f"{kind}.parquet" for kind in KINDS]
    evidence = [rows for file in files if file.is_file() for rows in _fitted(file, options.cache)]
    figures = yaml.load(options.published.read_text(), yaml.CSafeLoader) if options.published else []
    print("wrote", write_validation(pd.concat(evidence), figures, load_profile, options.out))


def _fitted(file: Path, cache: Path) -> list[pd.DataFrame]:
    """Rows of a table with held-out predictions, one frame a device; profiles are written on the way."""
    found = []
    for hardware in SIBLINGS:
        kept = cache / f"{file.stem}_{hardware}.parquet"
        if not kept.is_file():
            try:
                calibration = calibrate({file.name: read_table(file)}, load_profile(hardware), load_profile)
            except InvalidInput as error:
                print(f"{file.stem} {hardware}: {error}")
                continue
            path = library.find("hardware", hardware)
            old = load_profile(hardware)
            launch, today = launch_of(old, calibration.fits), date.today().isoformat()
            block = calibration_block(old.calibration, calibration.fits, source=SOURCE, date=today, launch=launch)
            write_calibration(path, block, load_profile, launch)
            calibration.rows.to_parquet(kept)
            print(f"{file.stem} {hardware}: {len(calibration.summary)} kernels", *calibration.skipped, sep="\n  ")
        found.append(pd.read_parquet(kept))
    return found


if __name__ == "__main__":
    main()
