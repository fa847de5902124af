"""Monitor of a run: what each loss contributes, how near the student is to the teacher, and pictures."""

custom_hooks = [dict(type='mmdistill_dense.MonitorHook', interval=50, gradient_interval=500, picture_interval=2000)]
