"""Experts and replicas on ranks, sequences on ranks, and the traffic that follows."""
