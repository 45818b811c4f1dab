"""What all results share: the scenario they record, rounding, a look in notebooks, hashes of inputs."""
