"""Architectures, their parameters and arithmetic, and how a job is cut over ranks."""
