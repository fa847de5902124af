"""Diagnostics for users: the gradients of each term, the modules to tap, and pictures of what a network does."""
