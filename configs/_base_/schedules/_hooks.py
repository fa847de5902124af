"""DistillHook, for every schedule: tells distillers where the run is, keeps their state. Silent for ordinary models."""

default_hooks = dict(distill=dict(type='mmdistill_dense.DistillHook'))
