"""Seconds of one kernel or exchange, with an 80 % interval: equations, their fits, and a machine to apply them on."""
