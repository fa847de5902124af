"""DeFeat on all levels of an FPN; constants of the authors' VOC config of Faster R-CNN (ggjy/DeFeat.pytorch)."""

# fits: det
distillers = dict(defeat=dict(type='DeFeat', foreground_weight=3.0, background_weight=12.0))
