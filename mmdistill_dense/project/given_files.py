"""Check the files and folders that options of ``new`` name, before anything is written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.foundation.models import architecture
from mmdistill_dense.foundation.positions import Rotary
from mmdistill_dense.foundation.vit import ViT
from mmdistill_dense.foundation.vit_file import load_vit
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.project.label_images import SegData
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


def whole(given: str) -> str:
    """Return the whole path of a file or folder; addresses and ``auto`` stay."""
    return str(Path(given).expanduser().resolve()) if _is_file(given) else given


def _is_file(given: str) -> bool:
    return given != AUTO and '://' not in given


def check_teacher(side: Side, checkpoint: str, names: Sequence[str]) -> None:
    """Load a checkpoint into the teacher, whose changes are set; an address is left to the training."""
    key, classes = f'--teacher-checkpoint {checkpoint}', len(names)
    advice = (
        f'It must come from a training of {side.name} on these {classes} classes. Without this option the teacher is '
        'trained on your data first.'
    )
    if checkpoint == AUTO and 'num_classes' in str(side.changes):
        raise ValueError(f'{key}: the published weights predict other classes than your {classes}. {advice}')
    if not _is_file(checkpoint):
        return
    try:
        content = read_checkpoint(checkpoint)
        state = state_dict_of(content, checkpoint)
        with quiet():
            network = build_network(load_model(side.option, side.key), pretrained=False)
            unused = {name: value for name, value in network.state_dict().items() if name.startswith('auxiliary_head.')}
            load_strictly(network, {**state, **unused}, None, key)  # no method learns from an auxiliary head
        own = _classes_in(content)
        if own and own != list(names):
            raise ValueError(f'it was trained on the classes {some(own)}; the data have {some(names)}, in this order.')
    except ValueError as error:
        text = str(error)
        raise ValueError(f'{"" if text.startswith(key) else f"{key}: "}{text}\n         {advice}') from error


def check_foundation(given: str, option: Mapping[str, Any]) -> None:
    """Compare a file of a foundation model with the model that ``--teacher MODEL:FILE`` names; no weight is kept."""
    key = f'--teacher {given}'
    with torch.device('meta'):  # the largest has 7 billion parameters
        network = ViT(architecture(option['model']))
    if network.shape.rotary:
        network.rope = Rotary(network.shape.dim // network.shape.heads)  # its values are compared
    try:
        load_vit(network, read_checkpoint(option['checkpoint']), (), key)
    except ValueError as error:
        text = re.sub(r"set model='(\w+)'", r'write --teacher \1:FILE', str(error))
        raise ValueError(text if text.startswith(key) else f'{key}: {text}') from error


def named_by_teacher(data: SegData, checkpoint: str) -> SegData:
    """Return data whose classes nobody named with the names in a teacher's checkpoint, if their number fits.

    Classes at the end may be in no label image that was looked at. What the checkpoint is, is checked later.
    """
    try:
        names = _classes_in(read_checkpoint(whole(checkpoint))) if _is_file(checkpoint) else []
    except ValueError:
        return data
    count = len(data.classes)
    if not data.unnamed or len(names) < count or (data.values and len(names) > count):
        return data
    note = (
        f'classes named as in {checkpoint}, in the order of the label values: {", ".join(names)}. Other names or '
        'another order: --classes'
    )
    return replace(data, classes=tuple(names), notes=[*data.notes, note])


def _classes_in(content: Mapping[str, Any]) -> list[str]:
    return list(((content.get('meta') or {}).get('dataset_meta') or {}).get('classes') or [])
