"""Monitor of a pre-training run: spread and similarities of the features, once an epoch."""

custom_hooks = [dict(type='mmdistill_dense.DenseMonitor')]
