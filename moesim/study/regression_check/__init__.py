"""The check against a baseline: what moved, and whether it blocks."""
