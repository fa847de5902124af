"""Measures steps, teachers and losses; ``tools/benchmark.py`` runs it."""
