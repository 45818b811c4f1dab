"""What a scenario of one step says."""
