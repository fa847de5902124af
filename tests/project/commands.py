"""Networks that tests give to ``new``, in the working folder, and the project that it writes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdistill_dense.__main__ import main
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from tests.project.folders_of_data import seg_folder

FASTSCNN = 'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py'
SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'
RETINANET = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
CASCADE = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
GFL = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
NETWORK = """
_base_ = __import__('mmdistill_dense').base('mmdistill_dense::_base_/models/toy_{side}.py')
default_scope = 'mmseg'
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
train_cfg = dict(max_iters=100)
"""


def call(student: str, teacher: str, *words: str, code: int = 0) -> None:
    """Let ``new`` write a project of the data in ``mine``."""
    argv = ['--data', 'mine', '--student', student, '--teacher', teacher, '--out', 'project', *words]
    assert main(['new', *argv]) == code


def read(name: str) -> Config:
    return Config.fromfile(f'project/{name}.py')


def toy_pair() -> tuple[str, str]:
    """Two small networks of one's own, where it does not matter which."""
    for side in ('student', 'teacher'):
        Path(f'{side}.py').write_text(NETWORK.format(side=side))
    return 'student.py', 'teacher.py'


def project(*words: str, splits: Sequence[str] = ('train', 'val')) -> Path:
    """A project of two toy networks of one's own."""
    seg_folder(Path('mine'), splits=splits)
    call(*toy_pair(), '--iters', '2', '--batch', '2', '--method', 'kd', *words)
    return Path('project')


def own_network(schedule: str = '', classes: int = 3) -> None:
    """A config, which needs no schedule if it is a trained teacher, and a checkpoint of it."""
    Path('network.py').write_text(
        "_base_ = __import__('mmdistill_dense').base('mmdistill_dense::_base_/models/toy_teacher.py')\n"
        f"default_scope = 'mmseg'\n{schedule}"
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        network = build_network(load_model({'cfg': 'network.py', 'decode_head': {'num_classes': classes}}, 'teacher'))
    torch.save({'state_dict': network.state_dict()}, 'mine.pth')
