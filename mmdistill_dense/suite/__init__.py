"""One fair table: methods times seeds, each its own ordinary run, with the control run beside them.

``tools/suite.py`` is the command; ``docs/suite.md`` says what a definition holds.
"""
