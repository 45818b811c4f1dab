"""A served load: from requests to latency percentiles and goodput, and over many loads to a Pareto curve."""
