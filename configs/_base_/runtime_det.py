"""Runtime of detection: as runtime_seg.py, with the check that mmcv's compiled operations are there."""

default_scope = 'mmdet'
custom_imports = dict(
    imports=['mmdistill_dense.ops_check', 'mmdistill_dense.engine.launch'], allow_failed_imports=False
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
model_wrapper_cfg = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False, find_unused_parameters=False)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
# The pipeline of --tta is the test pipeline of the data set with a flip, made by the test script.
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
randomness = dict(seed=0)
load_from = None
resume = False
