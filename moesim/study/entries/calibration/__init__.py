"""What published figures of a stack say beyond the simulation: its factors, and their file."""
