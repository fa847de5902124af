_base_ = [
    '../pairs/rtmdet_m_to_s_coco.py',
    '../datasets/coco_rtmdet.py',
    '../schedules/rtmdet_300e.py',
    '../runtime_det.py',
]
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'
