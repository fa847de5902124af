"""The texts of ``pair.py``, ``control.py``, ``teacher.py``, the methods' files and ``suite.yaml``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from mmdistill_dense.project.zoo_schedule import Schedule
from mmdistill_dense.utils.literals import assignments, remark

WORK = 'work'  # folder of all runs
SUITE = 'suite.yaml'
VALIDATIONS, SAVES = 5, 10  # in a training
FEW = 50  # steps: shorter trainings, for a trial, validate and save at the end alone


def pair_file(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> str:
    """Return the text of ``pair.py``."""
    model = {'type': 'mmdistill_dense.DistillModel', 'student': student, 'teacher': teacher}
    return (
        '"""Student and teacher: their configs, and beside `cfg` what the data change in them."""\n\n'
        f'{assignments({"model": model})}'
    )


def control_file(schedule: Schedule, batch: int, task: str) -> str:
    """Return the text of ``control.py``: the student alone."""
    head = _docstring('The student alone, with which every method is compared.', schedule)
    return f'{head}{_recipe(schedule, batch, task)}'


def teacher_file(schedule: Schedule, batch: int, task: str, boxes_alone: bool = False) -> str:
    """Return the text of ``teacher.py``: the training of the pair's teacher.

    ``boxes_alone``: the teacher predicts no masks, and the student does. The metric of masks would fail.
    """
    metric = "val_evaluator = test_evaluator = dict(metric='bbox')\n" if boxes_alone else ''
    return (
        f'{_docstring("Trains the teacher of pair.py, in the place of the student.", schedule)}'
        f'{_recipe(schedule, batch, task)}{metric}'
        "network = dict(_base_.model.teacher, _delete_=True)  # nothing of the student's settings stays\n"
        "network.pop('checkpoint')\nmodel = dict(student=network)\ndel network\n"
    )


def _docstring(first: str, schedule: Schedule) -> str:
    text = remark(f'Optimizer and schedule of {schedule.source}: {schedule.note}.')
    text = text.replace('\\', '/').replace('"', "'")  # nothing ends the docstring
    lines = textwrap.wrap(text, 118, break_on_hyphens=False)
    return '\n'.join([f'"""{first}', '', *lines, '"""', '', ''])


def method_file(name: str, distillers: Mapping[str, Any], unlabelled: Mapping[str, Any] | None) -> str:
    """Return the text of a method's file: the control with distillers."""
    model: dict[str, Any] = {'distillers': distillers}
    if unlabelled:
        model['unlabelled'] = unlabelled
    also = ', also on pictures without labels' if unlabelled else ''
    return (
        f'"""The student of control.py, taught by the method {name}{also}."""\n\n_base_ = \'./control.py\'\n'
        f'{assignments({"model": model})}{_WORK_DIR}'
    )


def suite_file(methods: Sequence[str], trains: bool, tests: bool, masks: bool) -> str:
    """Return the text of ``suite.yaml``, which `run` trains; networks that predict ``masks`` are compared by them."""
    lines = ['# What `python -m mmdistill_dense run` trains, see docs/suite.md. One seed says little: try [0, 1, 2].']
    lines += [f'out: ./{WORK}', 'control: control.py']
    lines += ['teacher: teacher.py'] if trains else ['test_teacher: true'] if tests else []
    lines += ['metric: coco/segm_mAP  # that of the boxes: coco/bbox_mAP'] if masks else []
    rows = ', '.join(f'{name}: {{config: {name}.py}}' for name in methods)
    return '\n'.join([*lines, f'methods: {{{rows}}}', 'seeds: [0]', ''])


_WORK_DIR = f"work_dir = '{{{{ fileDirname }}}}/{WORK}/{{{{ fileBasenameNoExtension }}}}'\n"


def _recipe(schedule: Schedule, batch: int, task: str) -> str:
    runtime = f"__import__('mmdistill_dense').base('mmdistill_dense::_base_/runtime_{task}.py')"
    kind = {'seg': 'Seg', 'det': 'Det'}[task]
    settings: dict[str, Any] = {
        'optim_wrapper': schedule.optim_wrapper,
        'param_scheduler': schedule.param_scheduler,
        'auto_scale_lr': {'base_batch_size': batch},  # a warning tells if a step has others
        'train_cfg': {
            'type': 'IterBasedTrainLoop',
            'max_iters': schedule.steps,
            'val_interval': _every(schedule.steps, VALIDATIONS),
        },
        'val_cfg': {'type': 'ValLoop'},
        'test_cfg': {'type': 'TestLoop'},
        'log_processor': {'by_epoch': False},
        'default_hooks': {
            'distill': {'type': 'mmdistill_dense.DistillHook'},
            'logger': {'type': 'LoggerHook', 'interval': 10, 'log_metric_by_epoch': False},
            'checkpoint': {
                'type': 'CheckpointHook',
                'by_epoch': False,
                'interval': _every(schedule.steps, SAVES),
                'max_keep_ckpts': 2,
            },
            'visualization': {'type': f'{kind}VisualizationHook'},
        },
    }
    if schedule.hooks:
        settings['custom_hooks'] = schedule.hooks
    return f"_base_ = [\n    './data.py',\n    './pair.py',\n    {runtime},\n]\n{assignments(settings)}{_WORK_DIR}"


def _every(steps: int, times: int) -> int:
    return max(steps // times, min(steps, FEW))
