"""Reading configs: names of zoo configs, inheritance, unknown keys."""
