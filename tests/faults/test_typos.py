"""Misspelt keys of a config: refused before anything is loaded, with the nearest name."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.config.unknown_keys import check_keys
from tests import toys
from tests.isolation import ROOT


def pair(kd: dict | None = None, student: dict | None = None, teacher: dict | None = None, **keys) -> dict:
    taught = toys.seg_net('fcn', width=16, **teacher) if teacher else toys.seg_teacher('fcn')
    distillers = dict(kd=dict(type='LogitKD') | (kd or {}))
    return toys.model_config(toys.seg_net('fcn', **(student or {})), taught, distillers, **keys)


@pytest.mark.parametrize(('options', 'words'), [
    (dict(kd=dict(loss_wieght=2)), "model.distillers.kd: LogitKD has no option 'loss_wieght'; .*'loss_weight'"),
    (dict(kd=dict(schedule=dict(warmpu=2))), "model.distillers.kd: schedule has no option 'warmpu'; .*warmup"),
    (dict(kd=dict(type='LogitsKD')), "model.distillers.kd.type='LogitsKD' .*Did you mean 'LogitKD'"),
    (dict(kd=dict(student_tap='decod_head')), r"kd\.student_tap='decod_head'.*Close names: decode_head.*mmdistill tap"),
    (dict(decod_head=dict(num_classes=7)), "'decod_head'. Did you mean 'decode_head'"),
    (dict(decode_head=dict(num_clases=7)), "'num_classes'. It is the key model.decode_head.num_clases."),
    (dict(backbone=dict(stem_chanels=8)), "Did you mean 'stem_channels'. .*model.backbone.stem_chanels"),
    (dict(backbone=dict(type='ResNetV1d3')), "model.backbone.type='ResNetV1d3' is not .* 'ResNetV1d'"),
    (dict(techer=dict(checkpoint='a.pth')), "'techer'. Did you mean 'teacher'"),
    (dict(unlabeled=dict(data_root='d')), 'It is the key model.unlabeled; write model.unlabelled.$'),
    (dict(student=dict(decode_head=dict(num_clases=7))), 'It is the key model.student.decode_head.num_clases.'),
    (dict(teacher=dict(chekpoint='a.pth')), "'chekpoint'. Did you mean 'checkpoint'"),
])  # fmt: skip
def test_a_misspelt_option_of_the_model_names_the_nearest(options: dict, words: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError), match=words):
        toys.build(pair(**options))


@pytest.mark.parametrize(('changes', 'words'), [
    (dict(train_dataloader=dict(bach_size=3)), 'bach_size'),
    (dict(optim_wrapper=dict(clip_grads=dict(max_norm=1))), 'clip_grads'),
    (dict(train_cfg=dict(max_iter=3)), 'max_iter'),
    (dict(default_hooks=dict(distill=dict(skip_nonfinit=1))), 'default_hooks.distill has no option .skip_nonfinit'),
    (dict(default_hooks=dict(checkpoint=dict(intervall=1))), "checkpoint.intervall is not an option .* 'interval'"),
])  # fmt: skip
def test_a_key_that_mmengine_ignores_stops_a_run(tmp_path, changes, words) -> None:
    runner = None
    with pytest.raises((TypeError, ValueError), match=f"unexpected keyword argument '{words}|{words}"):
        runner = toys.make_runner(tmp_path, pair(), iters=1, **changes)
        runner.train()
    assert runner is None or toys.teacher_of(runner.model).network is None, 'nothing was loaded'


def test_other_keys_of_the_runner_are_known_as_well() -> None:
    keys = ('load_frm', 'custom_hook', 'resme', 'randomnes', 'param_schedular', 'optim_wraper', 'auto_scale_lrs')
    for key in keys:
        with pytest.raises(ValueError, match=f'{key} is a key that nothing reads. Did you mean '):
            check_keys({key: 1})
    with pytest.raises(ValueError, match=r"default_hooks\.checkpoints .* 'checkpoint'"):
        check_keys(dict(default_hooks=dict(checkpoints=dict(type='CheckpointHook', interval=1))))
    for key in ('test_dataloader2', 'val_evaluator_2', '_param_scheduler', 'optim_wrapper_ablation'):
        check_keys({key: 1})  # variants are names of one's own


def test_names_in_the_configs_of_the_stack_are_no_typos() -> None:
    stack = [Path(find_spec(name).submodule_search_locations[0], '.mim/configs') for name in ('mmseg', 'mmdet')]
    files = [path for folder in (ROOT / 'configs', *stack) for path in folder.rglob('*.py')]
    names = {
        name for path in files for name in re.findall(r'^(\w+) = ', path.read_text(encoding='utf-8'), re.MULTILINE)
    }
    assert len(names) > 100
    check_keys(Config(dict.fromkeys(names - {'default_hooks'}, 1)))
