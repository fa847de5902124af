"""Do the unfinished runs of a suite, here or by slurm, and measure the cost of a step."""
