_base_ = [
    '../_base_/datasets/nuclei.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_det.py',
]
model = dict(
    type='mmdistill_dense.DistillModel',  # without distillers it is the plain network
    student=dict(cfg='mmdistill_dense::_base_/models/mask_rcnn_mobilenetv2_fpn64.py'),
)
