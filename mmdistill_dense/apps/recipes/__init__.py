"""Which method fits which pair, and the configs that follow."""
