_base_ = [
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/detr_adamw_24e.py',
    '../_base_/runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',  # without distillers it is the plain network
    student=dict(cfg='mmdistill_dense::_base_/models/dino_mobilenetv2_small.py'),
)
