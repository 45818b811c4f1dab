"""moesim: throughput and latency of Mixture-of-Experts models on clusters, by discrete-event simulation."""

__version__ = "0.1.0"
