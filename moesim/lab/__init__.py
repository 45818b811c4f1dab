"""PyTorch lives here alone: reference models, routers, captures, timings of this machine."""
