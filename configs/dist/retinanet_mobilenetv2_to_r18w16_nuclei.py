_base_ = ['../control/retinanet_mobilenetv2_to_r18w16_nuclei.py', '../_base_/distillers/dist_retinanet.py']
model = dict(distillers=_base_.distillers)
work_dir = 'work_dirs/dist/{{ fileBasenameNoExtension }}'
