_base_ = [
    '../_base_/models/retinanet_mobilenetv2_fpn64.py',
    '../_base_/datasets/nuclei_detection.py',
    '../_base_/schedules/adamw_12e.py',
    '../_base_/runtime_det.py',
]
# boxes are 6 to 37 pixels at the enlarged size
model = dict(bbox_head=dict(num_classes=1, anchor_generator=dict(octave_base_scale=1)))
