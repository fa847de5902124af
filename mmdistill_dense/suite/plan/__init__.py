"""Which runs a suite has, their configs and their results."""
