"""The closed loop on this machine: measure it, predict it, run it."""
