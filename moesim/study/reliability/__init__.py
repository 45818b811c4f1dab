"""Runs over weeks of failures: goodput and availability of training jobs and of services."""
