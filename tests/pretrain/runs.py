"""A pre-training run of CPU seconds on generated pictures, with the real parts."""

import functools
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tests import toys
from tests.pretrain import files

R10 = dict(type='mmdet.ResNet', depth=10, base_channels=4, stem_channels=4)
NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
SIDE = 64


@functools.cache
def teacher_file() -> str:
    """A synthetic MoCo v3 file."""
    return files.saved(files.synthetic('mocov3_r50')[0])


def model(**pcd: Any) -> dict:
    """A tiny ResNet-10 that learns from a tiny MoCo v3 ResNet-50."""
    options = dict(student_tap='backbone[-1]', teacher_tap='head', queue_size=30, queue_init='random', num_pixels=None)
    head = dict(head=dict(type='mlp2', hidden=16), attention=dict(num_heads=8))
    preprocessor = dict(type='mmdistill_dense.MultiViewPreprocessor', **NORM, size=(SIDE, SIDE))
    return dict(
        type='mmdistill_dense.DistillModel',
        student=dict(type='mmdistill_dense.BackboneStudent', backbone=R10, data_preprocessor=preprocessor),
        teacher=dict(
            type='mmdistill_dense.SSLTeacher',
            backbone=files.R50,
            layout='mocov3',
            head=dict(widths=[64, 20, 12]),
            checkpoint=teacher_file(),
        ),
        distillers=dict(pcd=dict(type='PCD', **dict(options, **head, **pcd))),
    )


def view(blur: float, solarize: float) -> list[dict]:
    """One of the two pipelines."""
    return [
        dict(type='mmdistill_dense.RandomResizedCrop', size=SIDE),
        dict(type='RandomFlip', prob=0.5),
        dict(type='mmdistill_dense.ColorJitter', prob=0.8),
        dict(type='mmdistill_dense.GaussianBlur', prob=blur),
        dict(type='mmdistill_dense.Solarize', prob=solarize),
    ]


def config(work_dir: Path | str, epochs: int = 2, workers: int = 0, **changes: Any) -> Config:
    """``epochs`` of four iterations."""
    flat = toys.run_config(work_dir, model(), epochs=epochs)._cfg_dict.to_dict()
    for name in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        del flat[name]
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='mmdistill_dense.MultiView', views=[view(1.0, 0.0), view(0.1, 0.2)]),
        dict(type='mmdistill_dense.PackViews'),
    ]
    flat['default_scope'] = 'mmdet'
    dataset = dict(type='mmdistill_dense.UnlabeledImages', data_root=toys.picture_folder(8), pipeline=pipeline)
    flat['train_dataloader'].update(num_workers=workers, dataset=dataset, collate_fn=dict(type='pseudo_collate'))
    flat['optim_wrapper']['optimizer'] = dict(type='mmdistill_dense.LARS', lr=0.5, weight_decay=1e-5)
    return Config(toys.merged(flat, changes))
