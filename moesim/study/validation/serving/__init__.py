"""Serving against measured closed-loop runs: predictions, fits of stacks, judgement on what no fit has seen."""
