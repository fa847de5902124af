"""Which runs a suite has, their configs, and what became of them."""
