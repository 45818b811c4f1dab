"""Training steps: pipeline schedules, forward and backward kernels, sharding, the optimizer."""
