"""Texts of published figures: what an entry says, word by word, and the case that comes of it."""
