"""Devices, number formats, and clusters as graphs of links."""
