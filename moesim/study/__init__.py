"""What one asks of the simulator, a room a question; docs/architecture.md draws them."""
