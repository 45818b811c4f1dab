"""Predictions of published figures, of entries and of scenario files."""
