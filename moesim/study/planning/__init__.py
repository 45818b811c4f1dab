"""Capacity plans: candidates, bounds that rule most of them out, the rest served, the cheapest that meets the SLO."""
