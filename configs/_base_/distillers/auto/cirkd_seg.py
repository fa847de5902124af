"""CIRKD on its own tap: queues for several maps would take gigabytes: docs/settings.md."""

distillers = dict(cirkd=dict(type='CIRKD', loss_weight=0.1, schedule=dict(ramp_down=(0, 1.0))))
