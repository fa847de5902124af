"""The definition of a suite, and the weights that its runs start from."""
