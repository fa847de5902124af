"""Every rule on every road: what ``check`` finds, a training by mim or by ``mmdistill`` tells before its first step."""

import io
import runpy
import sys
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import mmseg
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, TRANSFORMS

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.datasets.shapes import CLASSES
from mmdistill_dense.distillers import PCD
from mmdistill_dense.guards.findings import ERROR
from tests import toys
from tests.guards.roads import WARNINGS, warnings_logged

BY_MIM = Path(mmseg.__file__).parent / '.mim/tools/train.py'  # the script that `mim train mmseg` runs
FAST = Options(val=0)
REFUSED = 'REFUSED '


@TRANSFORMS.register_module(force=True)
class LabelAbove(BaseTransform):
    """Gives a corner a label for which the heads have no class."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results['gt_seg_map'][:3, :3] = 9
        return results


@DATA_SAMPLERS.register_module(force=True)
class EndlessOfMine(InfiniteSampler):
    """A subclass under a name of its own."""


def write_config(folder: Path, changes: dict[str, Any], **distillers: Any) -> Path:
    """Write the config of a toy run of one step, with changes by dotted key."""
    student = toys.seg_net('fcn', backbone=dict(init_cfg=None))
    model = toys.model_config(student, toys.seg_teacher('fcn'), distillers or dict(kd=dict(type='LogitKD')))
    config = toys.run_config(folder / 'work', model, iters=1, log_level='WARNING')
    config.merge_from_dict(deepcopy(changes))  # which takes `_delete_` out of them
    config.experiment_name = f'road_{toys.fresh_dir().name}'
    config.dump(folder / 'config.py')
    return folder / 'config.py'


def train_by_mim(file: Path) -> list[str]:
    with warnings_logged() as messages, mock.patch.object(sys, 'argv', ['train.py', str(file)]):
        try:
            runpy.run_path(str(BY_MIM), run_name='__main__')
        except ValueError as error:
            messages.append(f'{REFUSED}{error}')
    return messages


def train_by_command(file: Path) -> list[str]:
    with warnings_logged() as messages, redirect_stderr(io.StringIO()) as stderr:
        status = main(['train', str(file)])
    return messages if status == 0 else [*messages, REFUSED + stderr.getvalue().replace('\n', ' ')]


def check(file: Path) -> list[str]:
    findings = check_config(file, FAST).findings
    return [f'{REFUSED * (finding.level == ERROR)}{finding.message} {finding.advice}' for finding in findings]


ROADS = dict(mim=train_by_mim, train=train_by_command, check=check)
EPOCHS = {
    'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1, val_interval=10**6),
    'default_hooks.checkpoint.by_epoch': True,
}
PICTURES = toys.run_config('none', toys.seg_net('fcn')).train_dataloader.dataset.to_dict()
STEPS = 'train_dataloader.dataset.pipeline'
OTHER_WEIGHTS = dict(_delete_=True, type='Pretrained', checkpoint=toys.teacher_file('fcn'))
TOO_FEW = {  # 8, which count once though they come twice
    'model.distillers': dict(_delete_=True, pcd=dict(type='PCD', student_tap='backbone[3]', queue_size='auto')),
    'train_dataloader.dataset': dict(_delete_=True, type='RepeatDataset', times=2, dataset=PICTURES),
}
STOPS_EARLY = dict(type='EarlyStoppingHook', monitor='mIou', rule='greater')
ERRORS = {
    'endless epoch': (EPOCHS, 'train_cfg counts epochs: the first never ends'),
    'endless epoch of a subclass': ({**EPOCHS, 'train_dataloader.sampler.type': 'EndlessOfMine'}, 'type EndlessOfMine'),
    'endless validation': ({'val_dataloader.sampler.type': 'InfiniteSampler'}, 'an evaluation never ends with it'),
    'best score of no metric': ({'default_hooks.checkpoint.save_best': 'coco/bbox_mAP'}, 'gives no such score'),
    'strict stop of no metric': ({'custom_hooks': [dict(STOPS_EARLY, strict=True)]}, "custom_hooks.0.monitor='mIou'"),
    'plateau of no metric': (
        dict(param_scheduler=[dict(type='ReduceOnPlateauLR')]),
        "param_scheduler.0.monitor='loss'",
    ),
    'classes of another number': ({'model.auxiliary_head': dict(num_classes=9)}, 'auxiliary_head.num_classes=7'),
    'label above the classes': ({f'{STEPS}.2': dict(type='LabelAbove')}, 'has the labels [9]'),
    'crop below the size': ({f'{STEPS}.2': dict(type='RandomCrop', crop_size=(32, 32))}, 'crops to (32, 32)'),
    'weights of another network': ({'model.student.backbone.init_cfg': OTHER_WEIGHTS}, ' fits 0 of the '),
    'start from another network': ({'load_from': toys.teacher_file('fcn')}, 'load_from='),
    'too few pictures': (TOO_FEW, "distillers.pcd.queue_size='auto' needs 12 training pictures or more, found 8"),
}
MGD = dict(type='MGD', student_tap='backbone[3]', schedule=dict(warmup=1000))
POLY = dict(type='PolyLR', eta_min=1e-4, begin=0, end=40000, by_epoch=False)
EVERY_WARNING = {
    'auto_scale_lr': dict(base_batch_size=16),
    'param_scheduler': [POLY],
    'default_hooks.checkpoint.interval': 500,
    'custom_hooks': [STOPS_EARLY],
    'model.teacher': dict(checkpoint=None, allow_random=True),
    'val_dataloader.dataset.metainfo': dict(classes=CLASSES[::-1]),
    'model.decode_head': dict(ignore_index=11),
    'model.auxiliary_head': dict(ignore_index=11),
    'model.student.backbone.frozen_stages': 0,
    'model.backbone': dict(frozen_stages=1),
    'model.data_preprocessor': dict(size=(128, 96), seg_pad_val=11),
}


@pytest.mark.parametrize(('rule', 'road'), [
    *((rule, road) for rule in ERRORS for road in ('mim', 'check')),
    *((rule, 'train') for rule in [*ERRORS][::4]),  # of the guards of mim
])  # fmt: skip
def test_an_error_stops_each_road_before_its_first_step(rule: str, road: str, tmp_path: Path) -> None:
    changes, words = ERRORS[rule]
    file = write_config(tmp_path, changes)
    step = mock.patch.object(torch.optim.SGD, 'step', side_effect=AssertionError('a step was taken'))
    with step, mock.patch.object(PCD, 'prepare', side_effect=AssertionError('prepared')):
        messages = ROADS[road](file)
    assert any(message.startswith(REFUSED) and words in message for message in messages), messages


@pytest.fixture(scope='module', params=ROADS)
def warned(request: pytest.FixtureRequest) -> list[str]:
    """What a road tells of a config with every mistake that only wastes a training."""
    student = toys.fresh_dir() / 'adam.py'
    optimizer = "dict(type='AdamW', lr=6e-5, _delete_=True)"
    student.write_text(
        f"_base_ = '{find_config(toys.seg_net('fcn')['cfg'])}'\noptim_wrapper = dict(optimizer={optimizer})\n"
    )
    changes = {**EVERY_WARNING, 'model.student.cfg': str(student)}
    return ROADS[request.param](write_config(toys.fresh_dir(), changes, mgd=MGD))


@pytest.mark.parametrize('rule', WARNINGS)
def test_a_warning_is_told_on_each_road(rule: str, warned: list[str]) -> None:
    assert [WARNINGS[rule] in message for message in warned].count(True) == 1, warned


@pytest.mark.parametrize('road', ROADS)
def test_a_right_config_is_told_nothing(road: str, tmp_path: Path) -> None:
    weights = {'model.backbone': dict(frozen_stages=-1)}
    messages = ROADS[road](write_config(tmp_path, weights))
    assert not [message for message in messages if any(words in message for words in WARNINGS.values())]
    assert not [message for message in messages if message.startswith(REFUSED)]
