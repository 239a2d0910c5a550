"""The suite's own speed record: scoring, ranking and training against what one would use instead."""
