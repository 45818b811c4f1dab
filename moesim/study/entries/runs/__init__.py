"""Runs of scenarios that stand for published figures, and the outcomes that figures are read off."""
