"""Training scenarios."""
