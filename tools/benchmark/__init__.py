"""Measures steps and losses; ``tools/benchmark.py`` runs it."""
