_base_ = '../maskd/toy_det.py'
model = dict(distillers=dict(_delete_=True))
work_dir = 'work_dirs/control/{{ fileBasenameNoExtension }}'  # the maskd leaf of that name has its own
