"""Requests, batching, KV caches, servers behind a balancer, on one SimPy clock."""
