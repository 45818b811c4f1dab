"""What all results share: the scenario they record, rounding, whole files, notebook views, hashes of inputs."""
