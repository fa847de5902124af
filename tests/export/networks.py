"""Networks whose answers hold several classes, with the files and the words of an export."""

import functools

import torch
from torch import nn

from tests import query_nets, toys


@functools.cache
def weights(kind):
    """The option of a network whose class weights give boxes and several classes, and its state; made once."""
    seg = kind in toys.SEG
    build = toys.seg_net if seg else toys.det_net
    option = query_nets.query_net(kind, test_cfg=dict(max_per_img=20)) if kind in query_nets.CONFIGS else build(kind)
    network = toys.build_plain(option, seed=3)
    for name, part in network.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)) and part.bias is not None:
            spread = 3 if name.endswith(('cls', 'cls_score', 'conv_seg')) else 0.5 if name.endswith('reg') else 0
            if spread:
                nn.init.normal_(part.weight, std=spread / part.weight[0].numel() ** 0.5)
                nn.init.zeros_(part.bias)
    return option, network.state_dict()


def config_and_checkpoint(folder, kind, pipeline=None):
    option, state = weights(kind)
    seg = kind in toys.SEG
    config = toys.run_config('x', option) if seg else toys.det_run_config('x', option)
    keys = {} if seg else dict(meta_keys=('ori_shape', 'img_shape', 'scale_factor'))
    steps = pipeline or [dict(type='Resize', scale=(160, 112), keep_ratio=True)]
    pack = dict(type='PackSegInputs' if seg else 'PackDetInputs', **keys)
    config.test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile'), *steps, pack]))
    meta = dict(dataset_meta=dict(classes=['a']))
    torch.save(dict(state_dict=state, meta=meta), folder / 'student.pth')
    config.dump(folder / 'student_config.py')
    return config, folder / 'student.pth'


def words_of(folder, out, *more):
    """The command line that exports it."""
    return ['export', *(str(folder / name) for name in ('student_config.py', 'student.pth', out)), *more]
