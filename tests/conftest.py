"""Property tests draw the same examples on every run and everywhere, and are not judged by the clock."""

from hypothesis import settings

settings.register_profile("moesim", derandomize=True, deadline=None)
settings.load_profile("moesim")
