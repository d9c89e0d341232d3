"""Judges of drift that need an environment of their own: see `benchmarks.rivals`."""
