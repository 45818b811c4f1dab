"""A step as programs of operations: what runs, what hides behind what, what fits in HBM."""
