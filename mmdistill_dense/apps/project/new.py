"""Plan and write a project: the configs of a student, a teacher and the user's data in one folder."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from mmengine.config import Config

from mmdistill_dense.apps.project import MASKS_DEFAULT, SUITE, config_files, network_options, teachers
from mmdistill_dense.apps.project.box_labels import BoxData, find_box_data
from mmdistill_dense.apps.project.config_files import WORK
from mmdistill_dense.apps.project.drawn_labels import FOLDER, Drawing
from mmdistill_dense.apps.project.label_images import SegData, find_seg_data
from mmdistill_dense.apps.project.label_pairs import Patterns
from mmdistill_dense.apps.project.network_options import UserNetwork
from mmdistill_dense.apps.project.splits import UNLABELLED_LIST, SplitRule, free_pictures
from mmdistill_dense.apps.project.training_plan import VARIED_PASSES, Training, decide_loading, length, plan_training
from mmdistill_dense.apps.recipes.named import check_data
from mmdistill_dense.config.resolve import TASKS
from mmdistill_dense.config.values import mappings
from mmdistill_dense.unlabelled.pictures import same_pictures
from mmdistill_dense.utils.files import list_text, write_text
from mmdistill_dense.utils.literals import BRACES, Template
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import some

_NEEDS_BOXES = ('PointRend',)  # of all of mmdet's networks that were tried on pictures without boxes


def _say(title: str, *notes: str) -> None:
    """Print what was chosen, and why."""
    print('\n         '.join((title, *notes)), flush=True)


def plan(args: argparse.Namespace) -> tuple[dict[str, str], SegData | BoxData]:
    """Return the texts of the files by name, and the data."""
    foundation = network_options.read_foundation(args.teacher)
    teachers.check_teacher_arguments(args, foundation)
    _say(f'reading  the configs {args.student} and {args.teacher}')
    with quiet():
        student = network_options.read_network(args.student, '--student')
        teacher = None if foundation else network_options.read_network(args.teacher, '--teacher')
    if teacher is not None and teacher.task != student.task:
        tasks = {'seg': 'segmentation', 'det': 'detection'}
        problem = f'is for {tasks[teacher.task]}, --student {args.student} for {tasks[student.task]}'
        raise ValueError(f'--teacher {args.teacher} {problem}: choose two of the same task.')
    masks = False  # whether the package has options for the mask heads of the pair
    if teacher is not None and teachers.same_masks(student, teacher):
        masks = 'mask_preds' in str(teachers.shipped(MASKS_DEFAULT, student, teacher)[0])
    names = teachers.methods_of(args.method, student.task, bool(foundation), bool(args.unlabelled), masks)
    if foundation:
        for name in names:
            teachers.map_options(name, student.task)
        teachers.check_foundation(args.teacher, foundation)

    _say(f'reading  the data {args.data}')
    data = _find_data(args, student.task)
    pictures = data.splits['train'].count
    loading = decide_loading(student, data.size, pictures, args.batch, args.size and tuple(args.size))
    counts = ', '.join(f'{split.count} {name}' for name, split in data.splits.items())
    small = data.small_boxes(loading.tested) if isinstance(data, BoxData) else ()
    summary = f'{counts}; {len(data.classes)} classes: {", ".join(data.classes)}'
    _say(f'data     {data.root}: {summary}', *data.notes, *shared(data.pictures), loading.note, *small)
    steps = args.iters or length(pictures, loading.batch)
    free = free_pictures(args.unlabelled, data.pictures, data.label_images, loading.batch) if args.unlabelled else None
    networks = [side for side in (student, teacher) if side is not None]
    masked = [side.task == 'det' and network_options.predicts_masks(side.model) for side in networks]
    has_masks, compared = masked[0], masked == [True, True]
    if isinstance(data, SegData):
        transforms = chain.from_iterable(mappings(side.config.get('train_dataloader')) for side in networks)
        edges = [dict(step) for step in transforms if step.get('type') == 'GenerateEdge'][:1]
        files = {'data.py': config_files.seg_file(data, loading, edges)}
        files |= {f'{name}.txt': list_text(split.names, '--data') for name, split in data.splits.items() if split.names}
    else:
        for side in networks:
            network_options.check_detector(side, data.masks)
        if stopped := [side for side in networks if side.model.get('type') in _NEEDS_BOXES]:
            note = 'it stops at a batch without boxes: pictures without boxes are left out of training'
            stopped[0].notes.append(note)
        varied = steps * loading.batch >= VARIED_PASSES * pictures
        files = {'data.py': config_files.box_file(data, loading, any(masked), masked[0], not stopped, varied)}
        files |= {Path(split.labels).name: split.content for split in data.splits.values() if split.content}

    size = network_options.sizes(student, loading.crop, loading.tested)
    network_options.adapt(student, len(data.classes), size, True, args.random_weights)
    training = plan_training(student, pictures, loading.batch, steps)
    _say_network('student', student, training)
    about = 'The student alone, with which every method is compared.'
    metric = 'mIoU' if student.task == 'seg' else 'coco/segm_mAP' if compared else 'coco/bbox_mAP'
    files['control.py'] = config_files.training_file(about, training, loading.batch, student.task, metric)
    if teacher is None:
        option = foundation or {}
        _say(f'teacher  {option["model"]}, a foundation model; its weights: {option["checkpoint"]}')
    else:
        checkpoint, mapped = args.teacher_checkpoint, teachers.parse_teacher_classes(args.teacher_classes)
        if not (checkpoint or args.train_teacher or args.random_weights):
            checkpoint, mapped, note = teachers.reuse_teacher(teacher, data.classes, args.method)
            teacher.notes += [note] if note else []
        count = len(data.classes) if mapped is None else len(teachers.names_in(checkpoint)) or None
        size = network_options.sizes(teacher, loading.crop, loading.tested, not checkpoint)
        network_options.adapt(teacher, count, size, not checkpoint, args.random_weights)
        if checkpoint:
            checkpoint = network_options.absolute_path(checkpoint)
            classes, lines = teachers.check_teacher(teacher, checkpoint, data.classes, mapped)
            _say_network('teacher', teacher, None, f'its weights: {checkpoint}', *lines)
            paired = {} if classes is None else {'classes': classes}
        else:
            teaching = plan_training(teacher, pictures, loading.batch, steps)
            boxes_alone = has_masks and not compared
            files['teacher.py'] = config_files.teacher_file(teaching, loading.batch, student.task, boxes_alone)
            _say_network('teacher', teacher, teaching)
            checkpoint, paired = Template(f'{{{{ fileDirname }}}}/{WORK}/teacher/iter_{steps}.pth'), {}
        option = {'cfg': teacher.name, 'checkpoint': checkpoint, **paired, **teacher.option}
    files['pair.py'] = config_files.pair_file(student.option, option, teachers.pair_name(student))

    reason = ''
    if teacher is not None and not args.method:
        names[0], reason = teachers.fitting_default(names[0], student, teacher)
    teachers.check_queue(names, pictures)
    for name in names:
        distillers = teachers.distillers_for(name, student, teacher, steps)
        files[f'{name}.py'] = config_files.method_file(name, distillers, free.option if free else None)
        _say(f"method   {name}: {', '.join(sorted({cfg['type'] for cfg in distillers.values()}))} with settings='auto'")
    if free:
        _say(f'         also taught on {free.count} pictures without labels, half of a step, in {free.folder}')
    if free and free.names:
        files[UNLABELLED_LIST] = list_text(free.names, '--unlabelled')
        _say(f'         left out of that folder: {free.left_out}; {UNLABELLED_LIST} lists the others')
    if reason:
        _say(f'         {reason}')
    files[SUITE] = config_files.suite_file(names, 'teacher.py' in files, teacher is not None, compared)
    if has_masks and not any('mask_preds' in files[f'{name}.py'] for name in names):
        also = f'; --method {MASKS_DEFAULT} teaches it too' if masks else ''
        _say(f'         the methods teach features and boxes; the mask head learns from its labels alone{also}')
    return files, data


def shared(parts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield a warning for pictures that two parts share, as the same file or as a copy."""
    for part, other in (('val', 'train'), ('test', 'train'), ('test', 'val')):
        paths, other_paths = parts.get(part, ()), parts.get(other, ())
        is_distinct = other == 'train' or paths != other_paths  # without a third part, val is test
        if is_distinct and (same := same_pictures(paths, other_paths)):
            examples = [path if path == twin else f'{path} is {twin}' for path, twin in same.items()]
            also = 'train' if other == 'train' else 'validate'
            text = f'{len(same)} of the {len(paths)} pictures for {part} also {also} ({some(examples, 3)})'
            yield f'WARNING: {text}: the scores will be too high'


def _find_data(args: argparse.Namespace, task: str) -> SegData | BoxData:
    split, patterns = SplitRule.read(args.split), Patterns.from_options(args.images, args.labels)
    if task == 'det':
        for option, value in (('--background', args.background), ('--images', args.images)):
            if value:
                raise ValueError(f'{option} {value}: only for label images, which a detector does not read.')
        return find_box_data(Path(args.data), args.classes, args.exif, split)
    data = find_seg_data(Path(args.data), args.classes, args.exif, split, args.background or 'class', patterns)
    if args.teacher_checkpoint and not (args.classes or args.teacher_classes):
        return teachers.named_by_teacher(data, args.teacher_checkpoint)
    return data


def _say_network(role: str, side: UserNetwork, training: Training | None, *notes: str) -> None:
    trained = [f'trained by {training.note}'] if training else []
    changed = f'changed for the data: {", ".join(side.changes) or "nothing"}'
    _say(f'{role}  {side.name}', changed, *trained, *side.notes, *notes)


def write(files: Mapping[str, str], folder: Path, drawing: Drawing | None = None) -> list[str]:
    """Write files and label images into a folder, and read the configs; return what to tell. Other contents stay."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'--out {folder}: a file of this name is there. Give another --out.')
    configs = [name for name in files if name.endswith('.py')]
    # our files hold braces safely, but not the copy that mmengine writes in each training
    if lines := [line.strip() for name in configs for line in files[name].splitlines() if BRACES in line]:
        problem = f'a name of a class, file or folder has two braces in it (written {BRACES} here)'
        raise ValueError(f'{lines[0]}: {problem}, which mmengine replaces in configs. Rename it.')
    old = {name: (folder / name).read_text(encoding='utf-8') for name in files if (folder / name).is_file()}
    free = re.compile(r'num_workers=\d+')  # the number of reading processes follows the cores of a machine
    changed = [name for name, text in old.items() if free.sub('', text) != free.sub('', files[name])]
    results = (folder / WORK).is_dir() and any((folder / WORK).iterdir())
    if drawing and results and drawing.replaces(folder):
        changed.append(f'the label images in {FOLDER}')
    if changed:
        advice = 'Or remove this one, which holds no results.'
        if results:
            advice = f'Do not remove the folder to write it anew: {folder / WORK} holds results of trainings.'
        conflict = f'{", ".join(changed)} exist there with other contents. Give another --out. {advice}'
        raise FileExistsError(f'--out {folder}: {conflict}')
    try:
        folder.mkdir(parents=True, exist_ok=True)
        messages = [drawing.write(folder)] if drawing else []  # first: it may refuse a label image
        for name in (name for name in files if name not in old):  # in their order: data.py first
            write_text(folder / name, files[name])
    except OSError as error:
        raise OSError(f'--out {folder}: cannot be written ({error.strerror}: {error.filename}).') from error
    with quiet():
        for name in configs:
            if name not in ('data.py', 'pair.py'):
                config = Config.fromfile(folder / name)
                check_data(config, TASKS[config.default_scope])
    return messages
