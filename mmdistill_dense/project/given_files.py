"""Check the files and folders that options of ``new`` name, before anything is written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.datasets.overlap import same_pictures
from mmdistill_dense.datasets.unlabeled import EXTENSIONS
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.project.box_labels import BoxData
from mmdistill_dense.project.label_images import SegData, pairs_of
from mmdistill_dense.project.picture_folders import files_below
from mmdistill_dense.project.sides import Side
from mmdistill_dense.utils.messages import some
from mmdistill_dense.utils.silence import quiet
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, state_dict_of

AUTO = 'auto'  # the published weights of the teacher's config


def check_files(args: argparse.Namespace) -> None:
    """Raise for an option that names a file or folder that is not there."""
    if args.unlabelled and not Path(args.unlabelled).expanduser().is_dir():
        raise FileNotFoundError(f'--unlabelled {args.unlabelled}: no such folder (looked in {Path.cwd()}).')
    given = args.teacher_checkpoint
    if given and _is_file(given) and not Path(given).expanduser().is_file():
        raise FileNotFoundError(
            f'--teacher-checkpoint {given}: no such file (looked in {Path.cwd()}). Without this option the teacher is '
            'trained on your data first.'
        )


def check_folder(folder: Path) -> None:
    """Raise for a folder whose path no config can hold: mmengine puts it between quotes (``fileDirname``)."""
    place = str(folder.absolute())
    if found := [one for one in ("'", '"', '\\', '{{') if one in place]:
        raise ValueError(
            f'--out {folder}: its whole path, {place}, has {found[0]} in it, which no config can hold. Choose another '
            'folder.'
        )


def whole(given: str) -> str:
    """Return the whole path of a file or folder; addresses and ``auto`` stay."""
    return str(Path(given).expanduser().resolve()) if _is_file(given) else given


def _is_file(given: str) -> bool:
    return given != AUTO and '://' not in given


def check_teacher(side: Side, checkpoint: str, names: Sequence[str]) -> None:
    """Load a checkpoint into the teacher, whose changes are set; an address is left to the training.

    Raises:
        ValueError: If it is no checkpoint, or that of another network or of other classes.
    """
    key, classes = f'--teacher-checkpoint {checkpoint}', len(names)
    advice = (
        f'It must come from a training of {side.name} on these {classes} classes. Without this option the teacher is '
        'trained on your data first.'
    )
    if checkpoint == AUTO and any('num_classes' in name for name in _keys(side.changes)):
        raise ValueError(f'{key}: the published weights predict other classes than your {classes}. {advice}')
    if not _is_file(checkpoint):
        return
    try:
        content = read_checkpoint(checkpoint)
        state = state_dict_of(content, checkpoint)
        with quiet():
            network = build_network(load_model(side.option, side.key), pretrained=False)
            load_strictly(network, state, None, key)
        own = ((content.get('meta') or {}).get('dataset_meta') or {}).get('classes')
        if own and list(own) != list(names):
            raise ValueError(f'it was trained on the classes {some(own)}; the data have {some(names)}, in this order.')
    except ValueError as error:
        text = str(error)
        raise ValueError(f'{"" if text.startswith(key) else f"{key}: "}{text}\n         {advice}') from error


def _keys(changes: object) -> list[str]:
    """Return all keys inside nested overrides."""
    if not isinstance(changes, dict):
        return []
    return [*changes, *(key for value in changes.values() for key in _keys(value))]


def check_unlabelled(given: str | None, data: SegData | BoxData, batch: int) -> None:
    """Raise for a folder of ``--unlabelled`` that cannot be taught on.

    Raises:
        ValueError: If it has too few pictures, holds label images, or pictures of validation.
    """
    if not given:
        return
    folder = Path(given).expanduser().resolve()
    pictures = sorted(files_below(folder, EXTENSIONS))
    if len(pictures) < batch:
        raise ValueError(
            f'--unlabelled {given}: {len(pictures)} pictures in it or below it (files that end in '
            f'{", ".join(EXTENSIONS)}); a step takes {batch}. Add pictures, or leave the option out.'
        )
    for name, split in data.splits.items():
        labels = data.root / split.labels
        if isinstance(data, SegData) and labels.is_relative_to(folder):
            raise ValueError(
                f'--unlabelled {given}: it holds the label images of {labels}, which would be taught on as pictures. '
                'Give a folder with pictures alone.'
            )
        both = same_pictures([str(path) for path in pictures], _pictures(data, name)) if name != 'train' else {}
        if both:
            raise ValueError(
                f'--unlabelled {given}: {len(both)} of its {len(pictures)} pictures are those of {name} '
                f'({some(sorted(both), 2)}), so the scores would be no test. Take them out.'
            )


def _pictures(data: SegData | BoxData, name: str) -> list[str]:
    """Return the paths of the pictures of a split."""
    if isinstance(data, SegData):
        return [str(picture) for picture, _ in pairs_of(data.root, data.splits[name], data.endings)]
    split = data.splits[name]
    content = json.loads(split.content or (data.root / split.labels).read_text(encoding='utf-8'))
    return [str(data.root / split.pictures / one['file_name']) for one in content['images']]
