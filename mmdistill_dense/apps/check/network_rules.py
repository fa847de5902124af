"""What only a check can say: of the data, the loaded networks and one training step, beside the rules in guards."""

from __future__ import annotations

import math

import torch

from mmdistill_dense.apps.check.context import Subject
from mmdistill_dense.apps.inspect.gradients import BACKBONE
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.guards.config import check_teacher_classes
from mmdistill_dense.guards.findings import Findings, error, note, warning
from mmdistill_dense.model.balanced_step import TASK


def data(subject: Subject) -> Findings:
    """Check that there are pictures to train and to validate on."""
    if subject.data_problem and subject.options.size is None:
        message = f'training cannot start: {subject.data_problem}'
        with_option = ', as with --size H W' if subject.options.command else ''
        yield error(message, f'The rest is checked on generated pictures{with_option}.')
    if subject.validation_problem:
        yield error(subject.validation_problem)


def teacher_classes(subject: Subject) -> Findings:
    """Check that each teacher's head has as many classes as the training set."""
    for teacher in subject.frozen.values():
        check_teacher_classes(subject.data_classes, teacher)
        count = num_classes(teacher.config.model)
        has_other_classes = subject.data_classes is not None and count not in (None, len(subject.data_classes))
        if teacher.option.allow_other_classes and has_other_classes:
            yield note(f'{teacher.key} predicts {count} other classes, as allow_other_classes permits.')


def weights_over_the_run(subject: Subject) -> Findings:
    """Check each distiller's schedule against the length of the run."""
    for name, distiller in subject.distillers.items():
        if problem := distiller.schedule.check(f'model.distillers.{name}', distiller.state.max_iters):
            yield warning(problem)


def learned_classes(subject: Subject) -> Findings:
    """Check the classes in each teacher's file, and their order."""
    for teacher in subject.frozen.values():
        for line in check_teacher_classes(subject.data_classes, teacher, subject.distillers.values()):
            yield note(line)


def enough_pictures(subject: Subject) -> None:
    if subject.pictures is not None:
        for distiller in subject.distillers.values():
            distiller.check_data(subject.pictures)


def start(subject: Subject) -> Findings:
    if subject.started and subject.started[0] < subject.started[1] and not subject.is_whole_without_heads:
        fitting, total = subject.started
        finding = warning if fitting else error
        yield finding(
            f'load_from={subject.config.load_from!r}: {fitting} of the {total} tensors of the student are in it.',
            'The others start at random: is it the right file?',
        )


def random_teacher(subject: Subject) -> Findings:
    for facts in subject.teachers:
        if subject.options.whole and facts.receipt and facts.receipt['file'] is None:
            yield warning(
                f'{facts.key} has random weights (allow_random=True): there is nothing to learn from it.',
                f"Set {facts.key}.checkpoint to a file, an address or 'auto'.",
            )


def normalisation(subject: Subject) -> Findings:
    for facts in subject.teachers:
        if facts.renormalised:
            yield note(f'{facts.key} was trained with another normalisation; the batch is adapted.')


def teacher_metric(subject: Subject) -> Findings:
    """Check that each teacher predicts better than chance."""
    classes = len(subject.data_classes or ()) or 1
    for facts in subject.teachers:
        segments = facts.metric.get('mIoU')
        detects = next((value for name, value in facts.metric.items() if name.endswith('bbox_mAP_50')), None)
        if (segments is not None and segments <= 100 / classes) or detects == 0:
            shown = f'AP50 {detects:.3f}' if segments is None else f'mIoU {segments:.1f}'
            yield warning(
                f'{facts.key} predicts no better than chance on {facts.metric_pictures} validation pictures ({shown}).',
                'Another file, other classes or another order of them, another normalisation? More pictures: --val N.',
            )


MAX_SHARE, MIN_SHARE = 0.95, 0.005  # a distiller's share of the gradient at the backbone that is too large, too small
DOMINANT_SHARE = 0.999  # a share that is too large even at the start of training
LATER = '--cfg-options load_from=CHECKPOINT'


def finite(subject: Subject) -> Findings:
    for term in subject.terms:
        numbers = [term.value, *(pull.norm for pull in term.pulls.values())]
        if not all(map(math.isfinite, numbers)) and subject.options.whole:
            yield error(
                f'{term.name} is {term.value} with a gradient of {term.pulls[BACKBONE].norm} at the backbone.',
                'Check the labels, the weights of that term, and that the teacher is the right file.',
            )


def pull(subject: Subject) -> Findings:
    """Check that each distiller changes the backbone's gradient, and that none drowns the task's."""
    norms = {term.name: term.pulls[BACKBONE].norm for term in subject.terms if BACKBONE in term.pulls}
    total = sum(norms.values())
    if not subject.options.whole or not 0 < total < math.inf:
        return
    for name, distiller in subject.distillers.items():
        if name in subject.untaught:
            continue
        norm = sum(value for term, value in norms.items() if term.startswith(f'distill.{name}.'))
        key, part = f'model.distillers.{name}', norm / total
        if distiller.weight() == 0:
            yield note(f'{key} is off by its schedule at iteration {subject.iteration}.')
        elif part == 0:
            message = f'{key} has no gradient at the backbone: it teaches the student nothing.'
            advice = 'Check that its student_tap comes after trained layers, and that its teacher_tap is not constant.'
            yield warning(message, advice)
        elif distiller.balancer is not None:
            text = f'{key}: its weight will be measured in training (balance), here it is 1'
            if subject.started:
                weight = distiller.balancer.ratio * norms.get(TASK, 0) / norm * distiller.weight()
                text += f'. At the weights of load_from, this batch gives about {weight:.2g}'
            yield note(f'{text}.')
        elif part < MIN_SHARE:
            message = f'{key} has {part:.2%} of the gradient at the backbone.'
            yield warning(message, f'Raise {key}.loss_weight, unless this is intended.')
        elif part > MAX_SHARE and norms.get(TASK):
            message = f'{key} has {part:.1%} of the gradient at the backbone, the task hardly counts.'
            # A detector's own gradients are small at first: distillers that work well have nearly all of it.
            finding = warning if part > DOMINANT_SHARE or subject.started else note
            yield finding(message, f'If it stays so later ({LATER}), lower {key}.loss_weight.')


def memory(subject: Subject) -> Findings:
    needed = subject.cost.get('extra_memory', 0) + subject.cost.get('control_memory', 0)
    if subject.options.device.startswith('cuda') and needed:
        total = torch.cuda.get_device_properties(subject.options.device).total_memory
        if needed > 0.9 * total:
            message = f'a step needs about {needed / 2**30:.1f} GiB of the {total / 2**30:.1f} GiB of this device.'
            yield warning(message, 'Halve train_dataloader.batch_size and accumulate gradients.')


def cost(subject: Subject) -> Findings:
    if 'problem' in subject.cost:
        yield note(f'time and memory could not be measured here: {subject.cost["problem"]}')


DATA = (data,)
MODEL = (teacher_classes, weights_over_the_run, enough_pictures)
WEIGHTS = (start, learned_classes, random_teacher, normalisation)
METRIC = (teacher_metric,)
STEP = (finite, pull)
COST = (memory, cost)
