"""From a checked scenario of a step to the values that the simulator runs on."""
