"""Predictions held against measurements, and the fits that measurements give."""
