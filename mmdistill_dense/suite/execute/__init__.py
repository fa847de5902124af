"""Runs what is not finished, on this machine or by slurm, and measures what a step costs."""
