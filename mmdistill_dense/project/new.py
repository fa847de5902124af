"""Plan and write a project: the configs of a student, a teacher and the user's data in one folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmdistill_dense.project.adapt_network import check_masks, det_size, joined_overrides, predicts_masks, seg_size
from mmdistill_dense.project.box_labels import BoxData, find_box_data
from mmdistill_dense.project.choose_methods import distillers_for, methods_of, on_map, with_enough
from mmdistill_dense.project.config_files import (
    SUITE,
    WORK,
    control_file,
    method_file,
    pair_file,
    suite_file,
    teacher_file,
)
from mmdistill_dense.project.data_file import box_file, seg_file
from mmdistill_dense.project.given_files import check_files, check_foundation, check_teacher, named_by_teacher, whole
from mmdistill_dense.project.label_images import SegData, find_seg_data
from mmdistill_dense.project.loading import Loading, check_tested, decide_loading
from mmdistill_dense.project.open_pictures import Size
from mmdistill_dense.project.sides import Side, adapt, read_foundation, read_side
from mmdistill_dense.project.size_steps import built, check_large_enough, padded_batches, padded_tests, size_step
from mmdistill_dense.project.split_pictures import shared
from mmdistill_dense.project.unlabelled_folder import LIST, FreePictures, free_pictures
from mmdistill_dense.project.zoo_schedule import Schedule, scaled_schedule
from mmdistill_dense.utils.atomic import list_text
from mmdistill_dense.utils.literals import Template
from mmdistill_dense.utils.silence import quiet

Tell = Callable[[str], None]
_NEEDS_BOXES = ('PointRend',)  # of all of mmdet's networks that were tried on pictures without boxes


@dataclass(frozen=True)
class Task:
    """What the parts of a plan share: the command line, the data, how they are read, and where lines go.

    Attributes:
        free: The pictures of ``--unlabelled``.
        load: Returns how they would be read with another ``--size``.
    """

    args: argparse.Namespace
    data: SegData | BoxData
    free: FreePictures | None
    loading: Loading
    load: Callable[[Size], Loading]
    tell: Tell


def plan(args: argparse.Namespace, tell: Tell) -> dict[str, str]:
    """Return the texts of the files by name, and tell what was chosen and why."""
    check_files(args)
    foundation = read_foundation(args.teacher)
    if foundation and args.teacher_checkpoint:
        raise ValueError(
            f'--teacher-checkpoint {args.teacher_checkpoint}: --teacher {args.teacher} names its weights already. '
            'Leave the option out.'
        )
    tell(f'reading  the configs {args.student} and {args.teacher}')
    student, teacher = _networks(args, bool(foundation))
    names = methods_of(args.method, student.task, bool(foundation))
    if foundation:
        for name in names:
            on_map(name)
        check_foundation(args.teacher, foundation)
    tell(f'reading  the data {args.data}')
    find = find_seg_data if student.task == 'seg' else find_box_data
    data = find(Path(args.data), args.classes, args.exif)
    if isinstance(data, SegData) and args.teacher_checkpoint and not args.classes:
        data = named_by_teacher(data, args.teacher_checkpoint)
    load = partial(decide_loading, student, data.size, data.splits['train'].count, args.batch)
    loading = load(args.size and tuple(args.size))
    _tell_data(data, loading, tell)
    free = free_pictures(args.unlabelled, data, loading.batch) if args.unlabelled else None
    task = Task(args, data, free, loading, load, tell)
    files = _data_files(task, student, teacher)
    _adapt(task, student, True)
    schedule = _schedule(task, student)
    _tell_network('student', student, schedule, tell)
    names, why = with_enough(names, bool(args.method), data.splits['train'].count, schedule.steps)
    files['control.py'] = control_file(schedule, loading.batch, student.task)
    if teacher is None:
        option = foundation or {}
        tell(f'teacher  {option["model"]}, a foundation model; its weights: {option["checkpoint"]}')
    else:
        option = _teacher(task, student, teacher, schedule.steps, files)
    files['pair.py'] = pair_file(student.option, option)
    _methods(task, names, student, teacher, schedule.steps, files)
    if why:
        tell(f'         {why}')
    trained = 'teacher.py' in files
    masks = student.task == 'det' and predicts_masks(student.model)
    compared = masks and teacher is not None and predicts_masks(teacher.model)
    files[SUITE] = suite_file(names, trained, teacher is not None and not trained, compared)
    if masks:
        tell('         the methods teach features and boxes; the mask head learns from its labels alone')
    return files


def _networks(args: argparse.Namespace, foundation: bool) -> tuple[Side, Side | None]:
    """Read the configs of both; a foundation model has none."""
    with quiet():
        student = read_side(args.student, '--student')
        teacher = None if foundation else read_side(args.teacher, '--teacher')
    if teacher is not None and teacher.task != student.task:
        raise ValueError(
            f'--teacher {args.teacher} is for {_task(teacher)}, --student {args.student} for {_task(student)}: choose '
            'two of the same task.'
        )
    return student, teacher


def _teacher(task: Task, student: Side, teacher: Side, steps: int, files: dict[str, str]) -> dict[str, Any]:
    """Return the teacher of the pair, and add the file of its training, if it is not trained yet.

    A teacher that is trained for less than half of the student's steps is trained for as many: the student would have
    little to learn from it. The zoo has small students with 200 epochs and teachers with 12.
    """
    given = task.args.teacher_checkpoint
    _adapt(task, teacher, not given)
    if given:
        checkpoint = whole(given)
        check_teacher(teacher, checkpoint, task.data.classes)
        _tell_network('teacher', teacher, None, task.tell)
        task.tell(f'         its weights: {checkpoint}')
    else:
        schedule = _schedule(task, teacher)
        if 2 * schedule.steps < steps:
            teacher.notes.append(f'trained as long as the student, not for the {schedule.steps} steps of its config')
            schedule = _schedule(task, teacher, steps)
        checkpoint = Template(f'{{{{ fileDirname }}}}/{WORK}/teacher/iter_{schedule.steps}.pth')
        boxes_alone = predicts_masks(student.model) and not predicts_masks(teacher.model)
        files['teacher.py'] = teacher_file(schedule, task.loading.batch, student.task, boxes_alone)
        _tell_network('teacher', teacher, schedule, task.tell)
    return {'cfg': teacher.name, 'checkpoint': checkpoint, **teacher.changes}


def _methods(
    task: Task, names: Sequence[str], student: Side, teacher: Side | None, steps: int, files: dict[str, str]
) -> None:
    """Add the file of each method."""
    free, network = task.free, built(teacher, 'meta') if teacher else None
    for name in names:
        distillers = distillers_for(name, student, teacher, network, steps)
        files[f'{name}.py'] = method_file(name, distillers, free.option if free else None)
        task.tell(f"method   {name}: {', '.join(one['type'] for one in distillers.values())} with settings='auto'")
    if free:
        task.tell(
            f'         also taught on {free.count} pictures without labels in {free.folder}, as many in a step as '
            'labelled ones'
        )
    if free and free.names:
        files[LIST] = list_text(free.names, '--unlabelled')
        task.tell(f'         left out of that folder: {free.left_out}; {LIST} lists the others')


def _task(side: Side) -> str:
    return {'seg': 'segmentation', 'det': 'detection'}[side.task]


def _data_files(task: Task, student: Side, teacher: Side | None) -> dict[str, str]:
    """Return ``data.py``, and lists of a split that the data set does not have itself."""
    data, loading = task.data, task.loading
    if isinstance(data, SegData):
        lists = {f'{name}.txt': list_text(split.names, '--data') for name, split in data.splits.items() if split.names}
        return {'data.py': seg_file(data, loading), **lists}
    sides = [side for side in (student, teacher) if side is not None]
    for side in sides:
        check_masks(side.model, data.masks, side.key)
        check_tested(side)
    loads = any(predicts_masks(side.model) for side in sides)
    if stopped := [side for side in sides if side.model.get('type') in _NEEDS_BOXES]:
        stopped[0].notes.append('it stops at a batch without boxes: pictures without boxes are left out of training')
    text = box_file(data, loading, loads, predicts_masks(student.model), empty=not stopped)
    return {
        'data.py': text,
        **{Path(split.labels).name: split.content for split in data.splits.values() if split.content},
    }


def _adapt(task: Task, side: Side, trained: bool) -> None:
    """Set what the data change in a network."""
    loading = task.loading
    sizes = seg_size(side.model, loading.crop, loading.tested) if side.task == 'seg' else det_size(side.model)
    step = size_step(side)
    if step > 1:
        seg = side.task == 'seg'
        padded = padded_tests(side, step, loading.crop) if seg else padded_batches(side, step)
        sizes = joined_overrides(sizes, padded)
    adapt(side, len(task.data.classes), sizes, trained, task.args.random_weights)
    check_large_enough(side, task.data.size, loading, task.load)


def _schedule(task: Task, side: Side, steps: int | None = None) -> Schedule:
    pictures = task.data.splits['train'].count
    return scaled_schedule(side.config, side.name, pictures, task.loading.batch, task.args.iters or steps)


def _tell_data(data: SegData | BoxData, loading: Loading, tell: Tell) -> None:
    counts = ', '.join(f'{split.count} {name}' for name, split in data.splits.items())
    tell(f'data     {data.root}: {counts}; {len(data.classes)} classes: {", ".join(data.classes)}')
    for note in (*data.notes, *shared(data), loading.note):
        tell(f'         {note}')


def _tell_network(what: str, side: Side, schedule: Schedule | None, tell: Tell) -> None:
    tell(f'{what}  {side.name}')
    tell(f'         changed for the data: {", ".join(_keys(side.changes)) or "nothing"}')
    for note in ([f'optimizer and schedule of its config: {schedule.note}'] if schedule else []) + side.notes:
        tell(f'         {note}')


def _keys(changes: Mapping[str, Any], place: str = '') -> Iterator[str]:
    for name, value in changes.items():
        inside = f'{place}.{name}'.lstrip('.')
        if isinstance(value, Mapping) and '_delete_' not in value:
            yield from _keys(value, inside)
        else:
            yield inside
