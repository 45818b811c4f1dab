"""Grids over the fields of a scenario, and where their runs are computed."""
