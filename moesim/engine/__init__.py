"""Programs of operations on the SimPy engine, and the timeline that comes out. Knows no MoE."""
