"""What surveys say of MoE systems, put to the test: a verdict on each statement."""
