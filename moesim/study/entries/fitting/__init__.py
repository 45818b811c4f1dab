"""Fits of stacks to published figures, and how good predictions are."""
