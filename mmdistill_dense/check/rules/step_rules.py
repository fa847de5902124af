"""Checks of one training step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mmdistill_dense.analysis.gradients import BACKBONE
from mmdistill_dense.check.context import Subject
from mmdistill_dense.check.findings import ERROR, NOTE, WARNING, Finding, Findings
from mmdistill_dense.distillers.balance import planned
from mmdistill_dense.distillers.schedule import in_iterations
from mmdistill_dense.model.balanced_step import balanced_of
from mmdistill_dense.model.term_gradients import TASK

LOUD, QUIET = 0.95, 0.005  # a distiller's share of the gradient at the backbone that is too large, too small
DEAFENING = 0.999  # a share that is too large even at the start of training
GAP = 1e-3  # of the largest value: more than rounding
AGAINST = -0.3  # cosine of a distiller's gradient with the task's
LATER = '--cfg-options load_from=CHECKPOINT'


def finite(subject: Subject) -> Findings:
    """Check that losses and gradients are finite."""
    for term in subject.terms:
        numbers = [term.value, *(pull.norm for pull in term.pulls.values())]
        if not all(map(math.isfinite, numbers)) and subject.options.weights:
            yield Finding(
                ERROR,
                'finite',
                f'{term.name} is {term.value} with a gradient of {term.pulls[BACKBONE].norm} at the backbone.',
                'Check the labels, the weights of that term, and that the teacher is the right file.',
            )


def unmeasured(subject: Subject) -> Findings:
    """Find a ``balance`` that measures in the first step alone, where a queue is empty and gives no gradient."""
    balanced = balanced_of(subject.distillers)
    for name, (distiller, balancer) in balanced.items():
        window = in_iterations(balancer.option.until, distiller.state.max_iters)
        if name in subject.idle and planned(window, distiller.state.max_iters, len(balanced)) <= {0}:
            key = f'model.distillers.{name}.balance'
            yield Finding(
                ERROR,
                'unmeasured',
                f'{key} measures until iteration {window:g}: in the first step alone, where {type(distiller).__name__} '
                'has nothing to compare yet (its queue is empty). Training would stop without a weight.',
                f'Train for more iterations, raise {key}.until, or set balance=None and give loss_weight.',
            )


def pull(subject: Subject) -> Findings:
    """Check that each distiller changes the backbone's gradient, and that none drowns the task's."""
    norms = {term.name: term.pulls[BACKBONE].norm for term in subject.terms if BACKBONE in term.pulls}
    total = sum(norms.values())
    if not subject.options.weights or not 0 < total < math.inf:
        return
    for name in [name for name in subject.distillers if name not in subject.untaught]:
        own = sum(value for term, value in norms.items() if term.startswith(f'distill.{name}.'))
        key, part = f'model.distillers.{name}', own / total
        if subject.distillers[name].weight() == 0:
            yield Finding(NOTE, 'pull', f'{key} is off by its schedule at iteration {subject.iteration}.')
        elif part == 0:
            message = f'{key} has no gradient at the backbone: it teaches the student nothing.'
            advice = 'Check that its student_tap comes after trained layers, and that its teacher_tap is not constant.'
            yield Finding(WARNING, 'pull', message, advice)
        elif subject.distillers[name].balancer is not None:
            yield Finding(NOTE, 'pull', _balanced(subject, name, norms.get(TASK, 0) / own))
        elif part < QUIET:
            message = f'{key} has {part:.2%} of the gradient at the backbone.'
            yield Finding(WARNING, 'pull', message, f'Raise {key}.loss_weight, unless this is intended.')
        elif part > LOUD and norms.get(TASK):
            message = f'{key} has {part:.1%} of the gradient at the backbone, the task hardly counts.'
            # A detector's own gradients are small at first: distillers that work well have nearly all of it.
            level = WARNING if part > DEAFENING or subject.started else NOTE
            yield Finding(level, 'pull', message, f'If it stays so later ({LATER}), lower {key}.loss_weight.')


def _balanced(subject: Subject, name: str, inverse: float) -> str:
    """Say of a balanced distiller what its weight will be; ``inverse`` is the task's norm over its own."""
    distiller = subject.distillers[name]
    assert distiller.balancer is not None
    said = f'model.distillers.{name}: its weight will be measured in training (balance), here it is 1'
    if not subject.started:
        return f'{said}.'
    weight = distiller.balancer.ratio * inverse * distiller.weight()
    return f'{said}. At the weights of load_from, this batch gives about {weight:.2g}.'


def against(subject: Subject) -> Findings:
    """Note distillers whose gradient opposes the task's."""
    for term in subject.terms if subject.options.weights else []:
        cosine = term.pulls[BACKBONE].cosine if BACKBONE in term.pulls else math.nan
        if term.name != TASK and cosine < AGAINST and term.name.split('.')[1] not in subject.untaught:
            yield Finding(
                NOTE,
                'against',
                f"the gradient of {term.name} opposes the task's at the backbone (cosine {cosine:.2f}).",
                f'At the start of training this means little: check again later ({LATER}).',
            )


def untaught(subject: Subject) -> Findings:
    """Note how the step differs from training."""
    for name, reason in subject.untaught.items():
        yield Finding(NOTE, 'untaught', f'model.distillers.{name}: {reason}; its loss means nothing yet.')
    if subject.iteration:
        message = f'the losses are those of iteration {subject.iteration}, because a schedule is off at the start.'
        yield Finding(NOTE, 'untaught', message)


def flat_taps(subject: Subject) -> Findings:
    """Check that the teacher's maps are not the same at all positions."""
    for place in subject.flat if subject.options.weights else []:
        yield Finding(
            WARNING,
            'flat_taps',
            f'model.distillers.{place} of the teacher is the same at all positions: there is nothing to learn.',
            'Tap another place (tools/list_taps.py), or correct the weights of the teacher.',
        )


def own_copy(subject: Subject) -> Findings:
    """Check that at its taps a network gives the same in training as its frozen copy."""
    for place, gap in subject.gaps.items():
        if gap > GAP:
            yield Finding(
                WARNING,
                'own_copy',
                f'{place}: in training the network gives something else there than its frozen copy (they differ by '
                f'{gap:.1%} of the largest value), so a student that equals its teacher would still be changed.',
                'A module depends on the mode, or draws random numbers: tap a place before it.',
            )


def stretched(subject: Subject) -> Findings:
    """Note pairs of maps whose sides differ by more than a factor of 2."""
    for row in subject.taps:
        sides = [shape[2:] for shape in (row.student_shape, row.teacher_shape) if len(shape) == 4]
        if len(sides) == 2 and max(max(a / b, b / a) for a, b in zip(*sides, strict=True)) > 2:
            yield Finding(
                NOTE,
                'stretched',
                f'model.distillers.{row.distiller}: {row.student_tap} is {_by(sides[0])} and {row.teacher_tap} of the '
                f'teacher {_by(sides[1])}: taps of the same stride lose less.',
            )


def memory(subject: Subject) -> Findings:
    """Check that a step fits into the memory of the device."""
    needed = subject.cost.get('extra_memory', 0) + subject.cost.get('control_memory', 0)
    if subject.options.device.startswith('cuda') and needed:
        total = torch.cuda.get_device_properties(subject.options.device).total_memory
        if needed > 0.9 * total:
            message = f'a step needs about {needed / 2**30:.1f} GiB of the {total / 2**30:.1f} GiB of this device.'
            yield Finding(WARNING, 'memory', message, 'Halve train_dataloader.batch_size and accumulate gradients.')


def cost(subject: Subject) -> Findings:
    """Note a cost that could not be measured."""
    if 'problem' in subject.cost:
        yield Finding(NOTE, 'cost', f'time and memory could not be measured here: {subject.cost["problem"]}')


def _by(side: Sequence[int]) -> str:
    return 'x'.join(map(str, side))
