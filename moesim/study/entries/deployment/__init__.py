"""Servers of published figures: devices, degrees, formats, placement, and what benchmarks rule."""
