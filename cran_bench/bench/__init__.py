"""The suite's own speed record: scoring and ranking against what one would use instead."""
