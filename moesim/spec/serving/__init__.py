"""Serving scenarios, and the constants of serving stacks."""
