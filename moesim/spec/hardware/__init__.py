"""Hardware profiles: YAML files of chips and fabrics."""
