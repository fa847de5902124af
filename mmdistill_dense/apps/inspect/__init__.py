"""Diagnostics for users: the gradients of each term, and the cost of a step."""
