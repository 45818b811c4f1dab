"""What can be said without a simulation: models, hardware profiles, traces, and how ranks lie on the topology."""
