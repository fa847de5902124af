"""The demonstration on generated pictures; ``tools/demo.py`` runs it."""
