"""The table of a suite: paired gains, intervals, notes, plot."""
