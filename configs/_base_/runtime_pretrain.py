"""Runtime of pre-training without labels: as runtime_seg.py, its log by epoch."""

_base_ = './runtime_seg.py'
log_processor = dict(by_epoch=True)
