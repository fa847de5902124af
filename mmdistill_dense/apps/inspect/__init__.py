"""Diagnostics for users: the gradients of each term, and the cost of a step."""

from mmdistill_dense.utils import required  # first: a missing stack is explained
