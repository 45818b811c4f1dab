"""Decode steps whose experts wait outside HBM: caches, prefetches, copies."""
