"""One step, of inference or training: from a scenario to a timeline and its metrics."""
