"""Builds docs/moesim.ipynb and runs it, so that the committed outputs are those of the committed code.

    pip install '.[report,docs]' && python docs/build_notebook.py

`CELLS` is the notebook: texts in Markdown and code, in order. A test compares the committed notebook with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).with_name("moesim.ipynb")

CELLS = (
    """# moesim in Python

Every command of `moesim` is a function that returns a value with `metrics` (what `--json` prints) and tables as
pandas DataFrames. At the end of a cell a result shows itself.""",
    """
from moesim.study.step.run import run_scenario

result = run_scenario("quickstart")
result""",
    "The numbers behind it, here the breakdown of the step (mean over ranks):",
    """
import pandas as pd

pd.Series(result.metrics["breakdown_s"], name="seconds").to_frame()""",
    """Plots of the HTML reports (`moesim run quickstart --html run.html`) are plotly figures; the pictures of `--out`
are PNG files. Here is one layer on every rank:""",
    """
import tempfile
from pathlib import Path

from IPython.display import Image

from moesim.report.step import write_step_report

folder = Path(tempfile.mkdtemp())
write_step_report(result, folder)
Image(filename=folder / "timeline.png", width=800)""",
    "## What changes, and why",
    """
from moesim.study.comparison.compare import compare

found = compare("quickstart", None, ["placement={kind: contiguous, slots_per_rank: 4}"])
found.operations.head()""",
    "## Where to put experts",
    """
from moesim.study.placing.place import place

study = place("placement-mixtral-h100", policies=["contiguous", "random", "eplb", "affinity"])
columns = ["name", "step_time_s", "hottest_rank_over_mean", "cross_node_bytes", "migration_bytes"]
study.table[columns]""",
    "## A sweep, as one table",
    """
from moesim.study.sweeps.sweep import sweep

over = {"workload.sequences_per_rank": [16, 64, 256], "workload.context": [1024, 4096]}
table = sweep("mixtral-8x7b-h100", over, folder=folder / "sweep", jobs=1)
table[[*over, "status", "tpot_s", "tokens_per_s_per_device"]]""",
    "## What users get under load",
    """
from moesim.study.serving_load.serve import serve_scenario

serve_scenario("serving-qwen3-h100-bursty", ["load.requests=400", "load.warmup=50"])""",
    """
from moesim.study.serving_load.pareto import pareto

pareto("serving-qwen3-h100-bursty", [1, 8, 32])""",
    "## A capacity plan",
    """
from moesim.spec.reading.loading import parse
from moesim.study.planning.plan import plan_of

plan = parse('''
model: gpt-oss-120b
load: {rate: 30, input: {kind: fixed, tokens: 800}, output: {kind: fixed, tokens: 200}, requests: 120}
slo: {percentile: 90, ttft: 1 s, tpot: 25 ms}
search:
  - hardware: h100
    software: vllm
    devices: [1, 2]
    precision: [{experts: mxfp4, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}]
routing: {kind: lognormal, sigma: 0.8}
finalists: 0
runners_up: 2
''')
plan_of(plan)""",
    """## Bad input

Every mistake of a file comes at once, with its place and what to write; `moesim.errors.InvalidInput.problems` holds
them as values.""",
    """
from moesim.errors import InvalidInput

try:
    run_scenario("quickstart", ["workload.contxt=8192", "seed=seven"])
except InvalidInput as error:
    for problem in error.problems:
        print(f"{problem.field}: {problem.message}")""",
)


def notebook():
    """`CELLS` as a notebook without outputs: a cell that begins with a line break is code."""
    import nbformat

    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for number, text in enumerate(CELLS):
        cell = nbformat.v4.new_code_cell if text.startswith("\n") else nbformat.v4.new_markdown_cell
        book.cells.append(cell(text.strip("\n"), id=f"cell-{number}"))
    return book


def main() -> int:
    """Run the notebook in a fresh kernel and write it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    book = notebook()
    NotebookClient(book, timeout=600, kernel_name="python3", record_timing=False).execute()
    for cell in book.cells:
        cell.metadata.clear()
    book.metadata.pop("language_info", None)
    nbformat.write(book, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
