"""Runtime of segmentation: scope, processes, log, pictures, seed."""

default_scope = 'mmseg'
# Opens gloo for processes without a GPU. A config that sets custom_imports replaces this list: repeat the entry there.
custom_imports = dict(imports=['mmdistill_dense.engine.launch'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
model_wrapper_cfg = dict(type='mmdistill_dense.DistillDDP', broadcast_buffers=False, find_unused_parameters=False)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
tta_model = dict(type='SegTTAModel')  # the pipeline of --tta, tta_pipeline, stands with the data set
randomness = dict(seed=0)
load_from = None
resume = False
