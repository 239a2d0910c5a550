"""Timings of the suite's scoring and ranking, compared with common alternatives."""
