"""The runs of a suite, their configs and their results."""
