"""Scenarios side by side, and routers side by side."""
