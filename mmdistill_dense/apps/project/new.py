"""Plan and write a project: the configs of a student, a teacher and the user's data in one folder."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.project import SUITE
from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.config_files import (
    WORK,
    box_file,
    control_file,
    method_file,
    pair_file,
    seg_file,
    suite_file,
    teacher_file,
)
from mmdistill_dense.apps.project.drawn_labels import FOLDER, Drawing
from mmdistill_dense.apps.project.free_pictures import UNLABELLED_LIST, FreePictures, free_pictures, shared
from mmdistill_dense.apps.project.label_images import SegData, find_seg_data
from mmdistill_dense.apps.project.label_pairs import Patterns
from mmdistill_dense.apps.project.picture_folders import Wish
from mmdistill_dense.apps.project.sides import (
    Side,
    adapt,
    check_masks,
    det_size,
    joined_overrides,
    predicts_masks,
    read_foundation,
    read_side,
    seg_size,
)
from mmdistill_dense.apps.project.teachers import (
    check_files,
    check_foundation,
    check_head,
    check_teacher,
    class_count,
    head_side,
    named_by_teacher,
    serves_as_it_is,
    teacher_classes,
    whole,
)
from mmdistill_dense.apps.project.zoo_schedule import (
    Loading,
    Schedule,
    built,
    check_tested,
    decide_loading,
    padded_batches,
    padded_tests,
    scaled_schedule,
    size_step,
)
from mmdistill_dense.apps.recipes.compose import best, methods, option_files
from mmdistill_dense.apps.recipes.named import check_data
from mmdistill_dense.config.resolve import TASKS
from mmdistill_dense.config.values import type_name
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.fragments import AUTO, put_all, resolved
from mmdistill_dense.networks.taps import find_module
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.files import list_text
from mmdistill_dense.utils.literals import BRACES, Template
from mmdistill_dense.utils.process import quiet

DEFAULTS = {'seg': 'pcd', 'det': 'fgd'}  # docs/results.md
UNLABELLED_DETECTOR = 'pkd'  # FGD compares nothing where no boxes are
MASKS_DEFAULT = 'kd'  # of two Mask R-CNNs, where the neck alone lost: docs/results.md, nuclei_masks
SMALL_DEFAULT = 'cwd'  # where PCD cannot fill its queue
_LEAST_STEPS = 5  # of PCD: its weight is measured in the first quarter, once the queue holds keys
FOUNDATION_DEFAULT = 'featurematch'
HEAD_DEFAULTS = {'seg': ['kd', FOUNDATION_DEFAULT], 'det': ['pkd']}  # for a foundation model with a head
_WORDS = re.compile(r'[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z0-9]+|[A-Z]+|[a-z0-9]+')
_LEARNING = 2000  # steps in which tokens are learned


def distillers_for(
    method: str, student: Side, teacher: Side | None, networks: Sequence[Any], steps: int
) -> dict[str, Any]:
    """Return a method's distillers for a student and its teacher, or (``None``) for a map.

    ``networks`` are those of both, whose modules are looked for; ``None`` for one that is not built.
    """
    if teacher is None:
        return {method: on_map(method, student.task)}
    if teacher.fixed and method in (FOUNDATION_DEFAULT, 'tokenrelations', 'querymatch'):  # made for such maps
        return {method: on_map(method, student.task, 'backbone[-1]')}
    shipped = _shipped(method, student, teacher)
    sides = list(zip((student, teacher), networks, strict=True))
    lacks = _lacking(shipped, sides)
    if not shipped or lacks:
        what = lacks or f'it has no options for {student.model.get("type")} ({student.name})'
        options = {name: _shipped(name, student, teacher) for name in methods()}
        fitting = [name for name, one in options.items() if one and not _lacking(one, sides)]
        raise ValueError(f'--method {method}: {what}. These methods fit: {", ".join(fitting)}.')
    from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller  # loaded only where it is used

    found = put_all(shipped, dict.fromkeys(shipped, AUTO), student.task, f'--method {method}')
    for one in found.values():
        if issubclass(DISTILLERS.get(one['type']), TokenDistiller) and steps < _LEARNING:
            one['learn'] = {**one.get('learn', {}), 'max_iters': steps}
    return {name: resolved(one, student.task, name) for name, one in found.items()}


def _shipped(method: str, student: Side, teacher: Side) -> dict[str, Any]:
    """Return the distillers that the package has for a method and a pair, with those of masks; empty without any."""
    masks = 'masks' if _same_masks(student, teacher) else None  # other heads give masks of another size
    found = (best(option_files(method), _pair_name(student), student.task, variant) for variant in (masks, None))
    options = next(filter(None, found), None)
    return Config.fromfile(options).to_dict()['distillers'] if options else {}


def _same_masks(student: Side, teacher: Side) -> bool:
    """Tell whether both have one kind of mask head on RoIs."""
    heads = [(side.model.get('roi_head') or {}).get('mask_head') for side in (student, teacher)]
    kinds = [head.get('type') if isinstance(head, Mapping) else None for head in heads]
    return bool(kinds[0]) and kinds[0] == kinds[1]


def _lacking(options: Mapping[str, Any], sides: Sequence[tuple[Side, Any]]) -> str:
    """Say which side lacks a module that the distillers read; empty if none does, or its network is ``None``."""
    for distiller in map(DISTILLERS.build, options.values()):
        read = (distiller.student_taps, ()), (distiller.teacher_taps, distiller.teacher_parts or ())
        for (side, network), (taps, parts) in zip(sides, read, strict=True):
            if network is None:
                continue
            missing = list[str]()
            for tap in taps:
                try:
                    find_module(network, tap, 'tap')
                except KeyError:
                    missing.append(str(tap.path))
            missing += [part for part in parts if not hasattr(network, part)]
            if missing:
                return f'{side.key} {side.name} has no {missing[0]} to compare with'
    return ''


def _pair_name(student: Side) -> str:
    """Return the words by which options are chosen: the class of the network, and the first part of its zoo name."""
    kind = type_name(student.model)
    words = [kind.lower(), *(word.lower() for word in _WORDS.findall(kind))]
    if '::' in student.name:
        words += Path(student.name).stem.split('_')[0].split('-')
    return '_'.join(dict.fromkeys(words))


def on_map(method: str, task: str, tap: str = 'map') -> dict[str, Any]:
    """Return the options of a method that learns from the map of a foundation model."""
    by_name = {kind.lower(): cls for kind, cls in DISTILLERS.module_dict.items() if issubclass(cls, FeatureDistiller)}
    if method not in by_name:
        raise KeyError(f'--method {method}: it does not compare maps alone. These do: {", ".join(sorted(by_name))}.')
    option = {'type': by_name[method].__name__, 'student_tap': 'backbone[-1]', 'teacher_tap': tap, 'settings': AUTO}
    return resolved(option, task, method)


def methods_of(
    given: Sequence[str], task: str, foundation: bool, head: bool = False, unlabelled: bool = False, masks: bool = False
) -> list[str]:
    """Return the names of ``--method`` without repetitions, or the default for the task, the teacher and the data.

    ``masks``: both networks have mask heads that can be compared.
    """
    detector = UNLABELLED_DETECTOR if unlabelled else MASKS_DEFAULT if masks else DEFAULTS['det']
    own = detector if task == 'det' else DEFAULTS[task]
    default = HEAD_DEFAULTS[task] if head else [FOUNDATION_DEFAULT if foundation else own]
    return list(dict.fromkeys(given)) or default


def with_enough(names: list[str], given: bool, pictures: int, steps: int) -> tuple[list[str], str]:
    """Return the methods, another default in the place of PCD where it has too little, and why."""
    if 'pcd' not in names:
        return names, ''
    from mmdistill_dense.distillers.pcd.parts import LEAST_TRAINING  # other methods need nothing of that file

    if pictures >= LEAST_TRAINING and steps >= _LEAST_STEPS:
        return names, ''
    there = f'there are {pictures} pictures and {steps} steps'
    why = f'pcd needs {LEAST_TRAINING} training pictures and {_LEAST_STEPS} steps, and {there}'
    if given:
        raise ValueError(f'--method pcd: {why}. Take another method, such as {SMALL_DEFAULT}.')
    return [SMALL_DEFAULT], f'{why}: {SMALL_DEFAULT} in its place'


def write(files: Mapping[str, str], folder: Path, drawing: Drawing | None = None) -> list[str]:
    """Write files and label images into a folder, and read the configs; return what to tell. Other contents stay."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'--out {folder}: a file of this name is there. Give another --out.')
    texts = [text for name, text in files.items() if name.endswith('.py')]
    # our files hold braces safely, but not the copy that mmengine writes in each training
    if lines := [line.strip() for text in texts for line in text.splitlines() if BRACES in line]:
        what = f'a name of a class, file or folder has two braces in it (written {BRACES} here)'
        raise ValueError(f'{lines[0]}: {what}, which mmengine replaces in configs. Rename it.')
    there = [name for name in files if (folder / name).is_file()]
    old = {name: (folder / name).read_text(encoding='utf-8') for name in there}
    free = re.compile(r'num_workers=\d+')  # the number of reading processes follows the cores of a machine
    changed = [name for name, text in old.items() if free.sub('', text) != free.sub('', files[name])]
    if drawing and drawing.replaces(folder) and _holds_results(folder):
        changed.append(f'the label images in {FOLDER}')
    if changed:
        advice = ' Or remove this one, which holds no results.'
        if _holds_results(folder):
            advice = f' Do not remove the folder to write it anew: {folder / WORK} holds results of trainings.'
        found = f'{", ".join(changed)} exist there with other contents. Give another --out.{advice}'
        raise FileExistsError(f'--out {folder}: {found}')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        told = [drawing.write(folder)] if drawing else []  # first: it may refuse a label image
        for name in (name for name in files if name not in there):
            (folder / name).write_text(files[name], encoding='utf-8')
    except OSError as error:
        raise OSError(f'--out {folder}: cannot be written ({error.strerror}: {error.filename}).') from error
    with quiet():
        for name in files:
            if name.endswith('.py') and name not in ('data.py', 'pair.py'):
                config = Config.fromfile(folder / name)
                check_data(config, TASKS[config.default_scope])
    return told


def _holds_results(folder: Path) -> bool:
    place = folder / WORK
    return place.is_dir() and any(place.iterdir())


Tell = Callable[[str], None]
_NEEDS_BOXES = ('PointRend',)  # of all of mmdet's networks that were tried on pictures without boxes


@dataclass(frozen=True)
class Task:
    """What the parts of a plan share: the command line, the data, how they are read, and where lines go."""

    args: argparse.Namespace
    data: SegData | BoxData
    free: FreePictures | None  # the pictures of ``--unlabelled``
    loading: Loading
    tell: Tell


def plan(args: argparse.Namespace, tell: Tell) -> tuple[dict[str, str], SegData | BoxData]:
    """Return the texts of the files by name, and the data; tell what was chosen and why."""
    check_files(args)
    foundation = read_foundation(args.teacher)
    if foundation and args.teacher_checkpoint and not args.head:
        told = f'--teacher {args.teacher} names its weights already. Leave it out'
        advice = 'or name the head of a trained network in --head'
        raise ValueError(f'--teacher-checkpoint {args.teacher_checkpoint}: {told}, {advice}.')
    if foundation and args.train_teacher:
        raise ValueError(f'--train-teacher: --teacher {args.teacher} stays as it is; --head trains a head on it.')
    tell(f'reading  the configs {args.student} and {args.teacher}')
    student, teacher = _networks(args, foundation)
    masks = False  # whether the package has options for the mask heads of the pair
    if teacher is not None and _same_masks(student, teacher):
        masks = 'mask_preds' in str(_shipped(MASKS_DEFAULT, student, teacher))
    names = methods_of(args.method, student.task, bool(foundation), bool(args.head), bool(args.unlabelled), masks)
    if foundation:
        for name in names if teacher is None else ():
            on_map(name, student.task)
        check_foundation(args.teacher, foundation)
    tell(f'reading  the data {args.data}')
    data = _find_data(args, student.task)
    if isinstance(data, SegData) and args.teacher_checkpoint and not (args.classes or args.teacher_classes):
        data = named_by_teacher(data, args.teacher_checkpoint)
    size = args.size and tuple(args.size)
    loading = decide_loading(student, data.size, data.splits['train'].count, args.batch, size)
    counts = ', '.join(f'{split.count} {name}' for name, split in data.splits.items())
    tell(f'data     {data.root}: {counts}; {len(data.classes)} classes: {", ".join(data.classes)}')
    for note in (*data.notes, *shared(data), loading.note):
        tell(f'         {note}')
    free = free_pictures(args.unlabelled, data, loading.batch) if args.unlabelled else None
    task = Task(args, data, free, loading, tell)
    files = _data_files(task, student, teacher)
    _adapt(task, student, True, len(task.data.classes))
    schedule = _schedule(task, student)
    _tell_network('student', student, schedule, tell)
    names, why = with_enough(names, bool(args.method), data.splits['train'].count, schedule.steps)
    files['control.py'] = control_file(schedule, loading.batch, student.task)
    if teacher is None:
        option = foundation or {}
        tell(f'teacher  {option["model"]}, a foundation model; its weights: {option["checkpoint"]}')
    else:
        option = _teacher(task, student, teacher, schedule.steps, files)
    files['pair.py'] = pair_file(student.option, option, _pair_name(student))
    _methods(task, names, student, teacher, schedule.steps, files)
    if why:
        tell(f'         {why}')
    predicted = student.task == 'det' and predicts_masks(student.model)
    compared = predicted and teacher is not None and predicts_masks(teacher.model)
    files[SUITE] = suite_file(names, 'teacher.py' in files, teacher is not None, compared)
    if predicted and not any('mask_preds' in files[f'{name}.py'] for name in names):
        also = f'; --method {MASKS_DEFAULT} teaches it too' if masks else ''
        tell(f'         the methods teach features and boxes; the mask head learns from its labels alone{also}')
    return files, data


def _find_data(args: argparse.Namespace, task: str) -> SegData | BoxData:
    wish, patterns = Wish.read(args.split), Patterns.given(args.images, args.labels)
    if task == 'seg':
        return find_seg_data(Path(args.data), args.classes, args.exif, wish, args.background or 'class', patterns)
    for option, value in (('--background', args.background), ('--images', args.images)):
        if value:
            raise ValueError(f'{option} {value}: only for label images, which a detector does not read.')
    return find_box_data(Path(args.data), args.classes, args.exif, wish)


def _networks(args: argparse.Namespace, foundation: Mapping[str, Any] | None) -> tuple[Side, Side | None]:
    """Read the configs of both; a foundation model without a head has none."""
    with quiet():
        student = read_side(args.student, '--student')
        if args.head:
            check_head(args.head, args.teacher, foundation is not None, student.task)
        if foundation:
            return student, head_side(args.head, foundation, student) if args.head else None
        teacher = read_side(args.teacher, '--teacher')
    if teacher.task != student.task:
        tasks = {'seg': 'segmentation', 'det': 'detection'}
        told = f'is for {tasks[teacher.task]}, --student {args.student} for {tasks[student.task]}'
        raise ValueError(f'--teacher {args.teacher} {told}: choose two of the same task.')
    return student, teacher


def _teacher(task: Task, student: Side, teacher: Side, steps: int, files: dict[str, str]) -> dict[str, Any]:
    """Return the teacher of the pair, and add the file of its training, if it is not trained yet."""
    # the zoo has small students with 200 epochs and teachers with 12, of which a student could learn little
    given, mapped = task.args.teacher_checkpoint, teacher_classes(task.args.teacher_classes)
    asked = not (given or teacher.fixed or task.args.train_teacher or task.args.random_weights)
    note = ''
    if asked:
        given, mapped, note = serves_as_it_is(teacher, task.data.classes, task.args.method)
    _adapt(task, teacher, not given, len(task.data.classes) if mapped is None else class_count(given))
    teacher.notes += [note] if note else []
    option: dict[str, Any] = {}
    if given:
        checkpoint = whole(given)
        classes, told = check_teacher(teacher, checkpoint, task.data.classes, mapped)
        option = {} if classes is None else {'classes': classes}
        _tell_network('teacher', teacher, None, task.tell)
        task.tell(f'         its weights: {checkpoint}')
        for line in told:
            task.tell(f'         {line}')
    else:
        schedule = _schedule(task, teacher)
        if 2 * schedule.steps < steps and not teacher.fixed:  # a head on a frozen network needs no more passes
            teacher.notes.append(f'trained as long as the student, not for the {schedule.steps} steps of its config')
            schedule = _schedule(task, teacher, steps)
        checkpoint = Template(f'{{{{ fileDirname }}}}/{WORK}/teacher/iter_{schedule.steps}.pth')
        boxes_alone = predicts_masks(student.model) and not predicts_masks(teacher.model)
        files['teacher.py'] = teacher_file(schedule, task.loading.batch, student.task, boxes_alone)
        _tell_network('teacher', teacher, schedule, task.tell)
    return {'cfg': teacher.name, 'checkpoint': checkpoint, **option, **teacher.option}


def _methods(
    task: Task, names: Sequence[str], student: Side, teacher: Side | None, steps: int, files: dict[str, str]
) -> None:
    free, networks = task.free, [built(side, 'meta') for side in (student, teacher)] if teacher else []
    for name in names:
        distillers = distillers_for(name, student, teacher, networks, steps)
        files[f'{name}.py'] = method_file(name, distillers, free.option if free else None)
        task.tell(f"method   {name}: {', '.join(one['type'] for one in distillers.values())} with settings='auto'")
    if free:
        task.tell(f'         also taught on {free.count} pictures without labels, half of a step, in {free.folder}')
    if free and free.names:
        files[UNLABELLED_LIST] = list_text(free.names, '--unlabelled')
        task.tell(f'         left out of that folder: {free.left_out}; {UNLABELLED_LIST} lists the others')


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
    written = [split for split in data.splits.values() if split.content]
    return {'data.py': text, **{Path(split.labels).name: split.content for split in written}}


def _adapt(task: Task, side: Side, trained: bool, classes: int | None) -> None:
    """Set what the data change in a network that predicts so many ``classes``; ``None``: as many as its config says."""
    loading = task.loading
    sizes = seg_size(side.model, loading.crop, loading.tested) if side.task == 'seg' else det_size(side.model)
    network = built(side, 'meta')
    step = size_step(network)
    if step > 1:
        seg = side.task == 'seg'
        padded = padded_tests(side, step, loading.crop) if seg else padded_batches(side, step)
        sizes = joined_overrides(sizes, padded)
    random = task.args.random_weights and not side.fixed  # the file of a foundation model is here
    adapt(side, classes, sizes, trained, random)


def _schedule(task: Task, side: Side, steps: int | None = None) -> Schedule:
    pictures = task.data.splits['train'].count
    steps = task.args.iters or steps
    return scaled_schedule(side.config, side.recipe or side.name, pictures, task.loading.batch, steps)


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
