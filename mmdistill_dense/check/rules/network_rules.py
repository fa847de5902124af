"""Checks of the built and loaded networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmdistill_dense.check.context import Subject
from mmdistill_dense.check.findings import ERROR, NOTE, WARNING, Finding, Findings
from mmdistill_dense.check.run_options import schedulers
from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.guards.class_counts import check_teacher_classes, num_classes

# Sizes of the teacher's map for which the published weights of Af-DCD's sum were chosen: Cityscapes; VOC, ADE20K and
# COCO-Stuff; CamVid.
SUMMED = (2048 * 64 * 128, 2048 * 64 * 64, 2048 * 45 * 45)


def teacher_classes(subject: Subject) -> Findings:
    """Check that each teacher's head has as many classes as the training set."""
    for teacher in subject.frozen.values():
        check_teacher_classes(subject.data_classes, teacher)
        count = num_classes(teacher.config.model)
        others = subject.data_classes is not None and count not in (None, len(subject.data_classes))
        if teacher.option.allow_other_classes and others:
            message = f'{teacher.key} predicts {count} other classes, as allow_other_classes permits.'
            yield Finding(NOTE, 'teacher_classes', message)


def trained(subject: Subject) -> Findings:
    """Check that the student's backbone has trained parameters."""
    backbone = getattr(subject.model, 'backbone', subject.model)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        yield Finding(
            WARNING,
            'trained',
            "nothing in the student's backbone is trained (frozen_stages, requires_grad).",
            'Features of a frozen backbone cannot learn from a teacher: lower frozen_stages.',
        )


def random_and_fixed(subject: Subject) -> Findings:
    """Check that no part of the student's backbone stays at its random start, as mmdet's frozen stages would."""
    backbone = getattr(subject.model, 'backbone', None)
    if backbone is None or _has_weights(subject):
        return
    subject.model.train()
    frozen = sum(one.numel() for one in backbone.parameters() if not one.requires_grad)
    norms = sum(isinstance(one, _BatchNorm) and not one.training for one in backbone.modules())
    if frozen or norms:
        yield Finding(
            WARNING,
            'random_and_fixed',
            f"the student's backbone starts from random weights, and a part stays as it is: {frozen:,} parameters are "
            f'frozen, {norms} batch norms keep mean 0 and variance 1.',
            'Set backbone.frozen_stages=-1 and backbone.norm_eval=False, or give it weights (backbone.init_cfg).',
        )


def _has_weights(subject: Subject) -> bool:
    inherited = any(str(pair[0]).startswith('backbone') for pair in subject.config.model.get('inherit') or ())
    files = 'Pretrained' in str([getattr(module, 'init_cfg', None) for module in subject.model.modules()])
    return bool(subject.config.get('load_from')) or inherited or files


def padded(subject: Subject) -> Findings:
    """Check that the preprocessor does not pad pictures to more than twice their area; not on generated ones."""
    found = (subject.batch or {}).get('inputs')
    if subject.options.size is not None or subject.data_problem or not isinstance(found, (list, tuple)):
        return
    pictures = [one.shape[-2:] for one in found if isinstance(one, torch.Tensor)]
    if not pictures or len(subject.batch_shape) != 1:
        return
    own = [max(sides) for sides in zip(*pictures, strict=True)]
    height, width = subject.batch_shape[0][-2:]
    if height * width > 2 * own[0] * own[1]:
        option = 'batch_augments' if 'batch_augments' in (subject.network.get('data_preprocessor') or {}) else 'size'
        yield Finding(
            WARNING,
            'padded',
            f'model.student.data_preprocessor pads pictures of {own[0]}x{own[1]} to {height}x{width}: most of the work '
            'is done on padding.',
            f'Set model.student.data_preprocessor.{option} to your size, or to None.',
        )


def summed(subject: Subject) -> Findings:
    """Check that the weight of a sum over a map was made for a map of this size; not on generated pictures."""
    for name, distiller in subject.distillers.items() if subject.options.size is None else ():
        weight = getattr(distiller, 'fd_weight', 0) if getattr(distiller, 'fd_reduction', 'mean') == 'sum' else 0
        levels: Any = distiller.levels if weight else ()  # AfDCD's
        for level in levels:
            if level.teacher.numel() not in SUMMED:
                key = f'model.distillers.{name}'
                yield Finding(
                    WARNING,
                    'summed',
                    f'{key}.fd_weight={weight:g} multiplies a sum over {"x".join(map(str, level.teacher))} '
                    f'({level.name}): {weight * level.teacher.numel():.2g} in units of the mean. The published weights '
                    'are for other maps, where they are 8.4 to 42 in units of the mean.',
                    f"Set {key}.fd_reduction='mean' and {key}.fd_weight=33.6 (8.4 on VOC and ADE20K).",
                )


def warm_up(subject: Subject) -> Findings:
    """Check that ``balance`` measures far beyond the warm-up of the learning rate."""
    rising = [
        one
        for _, one in schedulers(subject.config)
        if str(one.get('type')).endswith('LinearLR') and not one.get('begin')
    ]
    end = max((one.get('end') or 0 for one in rising if one.get('by_epoch') is False), default=0)
    for name, distiller in subject.distillers.items():
        if distiller.balancer is None:
            continue
        until = in_iterations(distiller.balancer.option.until, distiller.state.max_iters)
        if until < 2 * end:
            yield Finding(
                WARNING,
                'warm_up',
                f'model.distillers.{name}.balance measures until iteration {until:g}, but the learning rate rises '
                f'until iteration {end}: norms of that time are not those of the training.',
                f'Set balance.until to {2 * end} or more.',
            )


def learned_classes(subject: Subject) -> None:
    """Check the classes in each teacher's file, and their order."""
    for teacher in subject.frozen.values():
        check_teacher_classes(subject.data_classes, teacher)


def enough_pictures(subject: Subject) -> None:
    """Check that the training set has enough pictures for each method."""
    if subject.pictures is not None:
        for distiller in subject.distillers.values():
            distiller.check_data(subject.pictures)


def start(subject: Subject) -> Findings:
    """Check that the weights of ``load_from`` fit the student."""
    if subject.started and subject.started[0] < subject.started[1]:
        fitting, total = subject.started
        yield Finding(
            WARNING if fitting else ERROR,
            'start',
            f'load_from={subject.config.load_from!r}: {fitting} of the {total} tensors of the student are in it.',
            'The others start at random: is it the right file?',
        )


def random_teacher(subject: Subject) -> Findings:
    """Check that no teacher has random weights."""
    for facts in subject.teachers:
        if subject.options.weights and facts.receipt and facts.receipt['file'] is None:
            yield Finding(
                WARNING,
                'random_teacher',
                f'{facts.key} has random weights (allow_random=True): there is nothing to learn from it.',
                f"Set {facts.key}.checkpoint to a file, an address or 'auto'.",
            )


def normalisation(subject: Subject) -> Findings:
    """Note teachers that were trained with another normalisation than the student."""
    for facts in subject.teachers:
        if facts.renormalised:
            yield Finding(
                NOTE, 'normalisation', f'{facts.key} was trained with another normalisation; the batch is adapted.'
            )


def small_teacher(subject: Subject) -> Findings:
    """Note teachers that are smaller than the student."""
    for facts in subject.teachers:
        if subject.student and 0 < facts.parameters < subject.student.parameters:
            yield Finding(
                NOTE,
                'small_teacher',
                f'{facts.key} has {facts.parameters:,} parameters, the student {subject.student.parameters:,}: '
                'are they the right way round?',
            )


def teacher_metric(subject: Subject) -> Findings:
    """Check that each teacher predicts better than chance."""
    classes = len(subject.data_classes or ()) or 1
    for facts in subject.teachers:
        segments, detects = facts.metric.get('mIoU'), _ending(facts.metric, 'bbox_mAP_50')
        if (segments is not None and segments <= 100 / classes) or detects == 0:
            shown = f'AP50 {detects:.3f}' if segments is None else f'mIoU {segments:.1f}'
            yield Finding(
                WARNING,
                'teacher_metric',
                f'{facts.key} predicts no better than chance on {facts.metric_pictures} validation pictures ({shown}).',
                'Another file, other classes or another order of them, another normalisation? More pictures: --val N.',
            )


def _ending(metric: Mapping[str, float], end: str) -> float | None:
    return next((value for name, value in metric.items() if name.endswith(end)), None)
