_base_ = [
    '../pairs/rtmdet_x_to_l_coco.py',
    '../datasets/coco_rtmdet_m.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
