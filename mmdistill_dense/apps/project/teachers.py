"""What teaches a student: its teacher, a checkpoint, published weights or a foundation model; and the methods."""

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmdistill_dense.apps.project import DEFAULTS, FOUNDATION_DEFAULT, MASKS_DEFAULT, UNLABELLED_DETECTOR
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.label_values import default_names
from mmdistill_dense.apps.project.network_options import UserNetwork, absolute_path, fetchable
from mmdistill_dense.apps.recipes.compose import best, methods, option_files
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.config.values import type_name
from mmdistill_dense.datasets.wrapped import classes_of
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.fragments import AUTO, replace_settings, resolve_settings
from mmdistill_dense.foundation.vit import Rotary, ViT, architecture
from mmdistill_dense.foundation.vit_file import load_vit
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.class_pairs import BACKGROUND, ClassPairs
from mmdistill_dense.networks.taps import resolve_tap
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights import strict_load
from mmdistill_dense.weights.safe_load import read_checkpoint


def check_teacher_arguments(args: argparse.Namespace, foundation: Mapping[str, Any] | None) -> None:
    """Raise for an option that names a file or folder that is not there, or does not go with the others."""
    if args.unlabelled and not expand_user(args.unlabelled).is_dir():
        raise FileNotFoundError(f'--unlabelled {args.unlabelled}: no such folder (looked in {Path.cwd()}).')
    checkpoint = args.teacher_checkpoint
    if checkpoint and strict_load.is_path(checkpoint) and not expand_user(checkpoint).is_file():
        advice = 'Without this option the teacher is trained on your data first'
        raise FileNotFoundError(f'--teacher-checkpoint {checkpoint}: no such file (looked in {Path.cwd()}). {advice}.')
    if args.train_teacher and (checkpoint or args.teacher_classes):
        raise ValueError('--train-teacher: it does not go with --teacher-checkpoint and --teacher-classes. Choose one.')
    if args.teacher_classes and not checkpoint:
        raise ValueError('--teacher-classes: a teacher trained here has your classes. Give --teacher-checkpoint too.')
    if foundation and (checkpoint or args.train_teacher):
        option = f'--teacher-checkpoint {checkpoint}' if checkpoint else '--train-teacher'
        raise ValueError(f'{option}: --teacher {args.teacher} names its weights, and stays as it is. Leave it out.')


def parse_teacher_classes(arguments: Sequence[str]) -> Any:
    """Return the option ``classes`` of a teacher from ``auto`` or words ``MINE=THEIRS,THEIRS``; ``None`` for none."""
    if not arguments or [*arguments] == [AUTO]:
        return AUTO if arguments else None
    if wrong := [word for word in arguments if '=' not in word]:
        raise ValueError(f'--teacher-classes {wrong[0]}: write auto, or MINE=THEIRS, as in car=car,truck forklift=')
    return {name: [*filter(None, names.split(','))] for name, names in (word.split('=', 1) for word in arguments)}


def _read(checkpoint: str) -> dict[str, Any] | None:
    """Return the content of a file, also one of the hub; ``None`` for one that the training fetches."""
    is_local = strict_load.is_path(checkpoint) or checkpoint.startswith(strict_load.HUB)
    return read_checkpoint(strict_load.local_file(checkpoint, None, '--teacher-checkpoint')) if is_local else None


def names_in(checkpoint: str | None) -> Sequence[str]:
    """Return the classes that the file of a teacher names; empty if it does not say, or cannot be read here."""
    with suppress(OSError, ValueError):  # the check of the teacher says why
        return strict_load.class_names_in(_read(absolute_path(checkpoint)) or {}) if checkpoint else ()
    return ()


def check_teacher(
    side: UserNetwork, checkpoint: str, names: Sequence[str], mapped: Any = None
) -> tuple[Any, Sequence[str]]:
    """Load a checkpoint into the teacher; return its option ``classes`` where it has others, and what to tell."""
    key, trained = f'--teacher-checkpoint {checkpoint}', f'It must come from a training of {side.name}'
    advice = f'{trained} on these {len(names)} classes. Without this option the teacher is trained on your data first.'
    if checkpoint == AUTO and 'num_classes' in str(side.changes):
        problem = f'the published weights predict other classes than your {len(names)}'
        raise ValueError(f'{key}: {problem}. {advice} Or say which are the same: --teacher-classes auto.')
    problem = ''
    try:
        if (content := _read(checkpoint)) is None:
            note = f'--teacher-classes {mapped}: the first training says which classes are paired'
            return mapped, [] if mapped is None else [note]
        state, teacher_names = strict_load.state_dict_of(content, checkpoint), strict_load.class_names_in(content)
        if mapped is None and teacher_names and teacher_names != list(names):
            problem = f'It was trained on the classes {some(teacher_names)}; the data have {some(names)}, in this order'
            problem = f' {problem}. If some are the same, add --teacher-classes auto.'
        with quiet():
            network = build_network(load_model(side.option, side.key), pretrained=False)
            unused = {name: value for name, value in network.state_dict().items() if name.startswith('auxiliary_head.')}
            # no method learns from an auxiliary head
            strict_load.load_strictly(network, {**state, **unused}, None, key)
        if problem:
            raise ValueError('its classes are not yours.')
    except ValueError as error:
        text = f'{error if str(error).startswith(key) else f"{key}: {error}"}{problem}'
        raise ValueError(f'{text}\n         {advice}' if mapped is None else text) from error
    return (None, []) if mapped is None else _paired(mapped, names, teacher_names, key)


def _paired(option: Any, names: Sequence[str], teacher_names: Sequence[str], key: str) -> tuple[Any, Sequence[str]]:
    if not teacher_names:
        raise ValueError(f'{key}: the file does not say the names of its classes. Set class_names in pair.py by hand.')
    pairs = ClassPairs.of(option, names, teacher_names, '--teacher-classes')
    if any(len(group.student) > 1 for group in pairs.groups):  # a shared background, or a coarse class
        return option, pairs.describe()
    mapping = {name: list[str]() for name in names}
    for group in pairs.groups:
        mapping[names[group.student[0]]] = [teacher_names[index] for index in group.teacher]
    return mapping, pairs.describe()


def check_foundation(teacher: str, option: Mapping[str, Any]) -> None:
    """Compare a file of a foundation model with the model that ``--teacher MODEL:FILE`` names; no weight is kept."""
    key = f'--teacher {teacher}'
    with torch.device('meta'):  # the largest has 7 billion parameters
        network = ViT(architecture(option['model']))
    if network.shape.rotary:
        network.rope = Rotary(network.shape.dim // network.shape.heads)  # its values are compared
    try:
        file = strict_load.local_file(option['checkpoint'], None, '--teacher')
        load_vit(network, read_checkpoint(file), (), key)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(key) else f'{key}: {error}') from error


def named_by_teacher(data: SegData, checkpoint: str) -> SegData:
    """Return data whose classes nobody named with the names in a teacher's checkpoint, if their number fits."""
    names, count = names_in(checkpoint), len(data.classes)
    # classes at the end may be in no label image that was looked at
    is_named = data.classes != default_names(data.values or range(count))
    if is_named or len(names) < count or (data.values and len(names) > count):
        return data
    note = f'classes named as in {checkpoint}, in the order of the label values: {", ".join(names)}'
    return replace(data, classes=tuple(names), notes=[*data.notes, f'{note}. Otherwise: --classes'])


def reuse_teacher(
    teacher: UserNetwork, names: Sequence[str], chosen: Sequence[str]
) -> tuple[str | None, str | None, str]:
    """Return ``'auto'`` where published weights know all classes, else ``None``; the option ``classes``; and a note."""
    nothing, dataset = (None, None, ''), (teacher.config.get('train_dataloader') or {}).get('dataset')
    with DATASETS.switch_scope_and_registry(teacher.config.default_scope):
        teacher_names = classes_of(dataset) or () if '::' in teacher.name else ()
    try:
        pairs = ClassPairs.of('auto', names, teacher_names, '--teacher-classes')
        # a group of several is an open background
        matches = [names[group.student[0]] for group in pairs.groups if len(group.student) == 1]
        address = strict_load.published_weights(teacher.name) if {*map(str.lower, matches)} - {BACKGROUND} else ''
    except (KeyError, ValueError):  # nothing is shared, or no weights are published
        return nothing
    if not (address and fetchable(address, strict_load.downloads())):
        return nothing
    same = list(teacher_names) == list(names)
    # DIST and FRS need the classes of the teacher
    if same or (len(matches) == len(names) > 1 and not {*chosen} & {'dist', 'frs'}):
        note = 'its published weights know all your classes, so it is not trained: --train-teacher would do so'
        return AUTO, None if same else AUTO, note
    if len(matches) == len(names):
        return nothing
    note = f'its published weights know {len(matches)} of your {len(names)} classes ({some(matches)})'
    return None, None, f'{note}: to take them as they are, add --teacher-checkpoint auto --teacher-classes auto'


# The methods, and the distillers of each: those that the package has for such a pair

SUBSTITUTES = {'seg': 'pcd', 'det': 'kd'}  # where a network has not what the default compares
_WORDS = re.compile(r'[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z0-9]+|[A-Z]+|[a-z0-9]+')
_TOKEN_STEPS = 2000  # steps in which tokens are learned


def methods_of(
    names: Sequence[str], task: str, foundation: bool, unlabelled: bool = False, masks: bool = False
) -> list[str]:
    """Return the names of ``--method`` without repetitions, or the default for the task, the teacher and the data.

    ``masks``: both networks have mask heads that can be compared.
    """
    detector = UNLABELLED_DETECTOR if unlabelled else MASKS_DEFAULT if masks else DEFAULTS['det']
    default = detector if task == 'det' else DEFAULTS[task]
    return list(dict.fromkeys(names)) or [FOUNDATION_DEFAULT if foundation else default]


def fitting_default(default: str, student: UserNetwork, teacher: UserNetwork) -> tuple[str, str]:
    """Return the default method, or its substitute where that alone fits the pair, and why."""
    lacks, substitute = shipped(default, student, teacher)[1], SUBSTITUTES[student.task]
    if lacks and not shipped(substitute, student, teacher)[1]:
        return substitute, f'{default} does not fit ({lacks}): {substitute} in its place'
    return default, ''


def check_queue(names: Sequence[str], pictures: int) -> None:
    """Refuse PCD for fewer training pictures than its queue needs."""
    from mmdistill_dense.distillers.pcd.modules import LEAST_TRAINING  # other commands need nothing of that file

    if 'pcd' in names and pictures < LEAST_TRAINING:
        problem = f'it needs {LEAST_TRAINING} training pictures, and there are {pictures}'
        raise ValueError(f'--method pcd: {problem}. Take another method, such as {DEFAULTS["seg"]}.')


def distillers_for(method: str, student: UserNetwork, teacher: UserNetwork | None, steps: int) -> dict[str, Any]:
    """Return a method's distillers for a student and its teacher, or (``None``) for a map."""
    if teacher is None:
        return {method: map_options(method, student.task)}
    distillers, lacks = shipped(method, student, teacher)
    if lacks:
        fitting = [name for name in methods() if not shipped(name, student, teacher)[1]]
        raise ValueError(f'--method {method}: {lacks}. These methods fit: {", ".join(fitting) or "none"}.')
    from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller  # loaded only where it is used

    distillers = replace_settings(distillers, dict.fromkeys(distillers, AUTO), student.task, f'--method {method}')
    for option in distillers.values():
        if issubclass(DISTILLERS.get(option['type']), TokenDistiller) and steps < _TOKEN_STEPS:
            option['learn'] = {**option.get('learn', {}), 'max_iters': steps}
    return {name: resolve_settings(option, student.task, name) for name, option in distillers.items()}


def shipped(method: str, student: UserNetwork, teacher: UserNetwork) -> tuple[dict[str, Any], str]:
    """Return the package's distillers for a method and a pair, of masks too, and a text of what the pair lacks."""
    masks = 'masks' if same_masks(student, teacher) else None  # other heads give masks of another size
    candidates = (best(option_files(method), pair_name(student), student.task, variant) for variant in (masks, None))
    if (options := next(filter(None, candidates), None)) is None:
        return {}, f'it has no options for {student.model.get("type")} ({student.name})'
    distillers = Config.fromfile(options).to_dict()['distillers']
    for distiller in map(DISTILLERS.build, distillers.values()):
        read = (distiller.student_taps, ()), (distiller.teacher_taps, distiller.teacher_parts or ())
        for side, (taps, parts) in zip((student, teacher), read, strict=True):
            if side.network is None:
                continue
            missing = [part for part in parts if not hasattr(side.network, part)]
            for tap in taps:
                try:
                    resolve_tap(side.network, tap, 'tap')
                except KeyError:
                    missing.insert(0, str(tap.path))
            if missing:
                return distillers, f'{side.key} {side.name} has no {missing[0]} to compare with'
    return distillers, ''


def same_masks(student: UserNetwork, teacher: UserNetwork) -> bool:
    """Tell whether both have one kind of mask head on RoIs."""
    heads = [(side.model.get('roi_head') or {}).get('mask_head') for side in (student, teacher)]
    kinds = [head.get('type') if isinstance(head, Mapping) else None for head in heads]
    return bool(kinds[0]) and kinds[0] == kinds[1]


def pair_name(student: UserNetwork) -> str:
    """Return the words by which options are chosen: the class of the network, and the first part of its zoo name."""
    kind = type_name(student.model)
    words = [kind.lower(), *(word.lower() for word in _WORDS.findall(kind))]
    if '::' in student.name:
        words += Path(student.name).stem.split('_')[0].split('-')
    return '_'.join(dict.fromkeys(words))


def map_options(method: str, task: str) -> dict[str, Any]:
    """Return the options of a method that learns from the map of a foundation model."""
    by_name = {kind.lower(): cls for kind, cls in DISTILLERS.module_dict.items() if issubclass(cls, FeatureDistiller)}
    if method not in by_name:
        raise KeyError(f'--method {method}: it does not compare maps alone. These do: {", ".join(sorted(by_name))}.')
    option = {'type': by_name[method].__name__, 'student_tap': 'backbone[-1]', 'teacher_tap': 'map', 'settings': AUTO}
    return resolve_settings(option, task, method)
