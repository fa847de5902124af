_base_ = [
    '../pairs/rtmdet_l_to_m_coco.py',
    '../datasets/coco_rtmdet_m.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
