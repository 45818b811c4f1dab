"""What each placement policy does to a step, and what it costs to get there."""
