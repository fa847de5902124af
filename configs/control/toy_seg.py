_base_ = '../afdcd/toy_seg.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'  # the afdcd leaf of that name has its own
