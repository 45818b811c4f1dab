"""From a published training figure to a training step."""
