"""Read self-supervised checkpoints: find the layout, split the file, and explain what is wrong with a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdistill_dense.pretrain.spatial_adaptor import read_steps
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.ssl_layouts import LAYOUTS, Layout
from mmdistill_dense.weights.strict_load import read_checkpoint, tensors_of


@dataclass
class TeacherFile:
    """A checkpoint, split: ``head`` has the names ``'<index>.<parameter>'`` and is empty if none was asked for."""

    layout: str
    backbone: dict[str, Tensor]
    head: dict[str, Tensor]
    ignored: int


def read_teacher(
    path: str | Path,
    layout: str = 'auto',
    branch: str = 'momentum',
    head: bool = True,
    ignore: Collection[str] = (),
    key: str = 'checkpoint',
) -> TeacherFile:
    """Read a self-supervised checkpoint and split it into backbone and head."""
    content = read_checkpoint(path)
    where = f'{key}={str(path)!r}'
    name = _detect(content, where, head) if layout == 'auto' else layout
    if name == 'backbone':
        return _bare(_state(content, _top(content)), ignore)
    chosen = LAYOUTS[name]
    if branch == 'online' and chosen.online is None:
        raise ValueError(f"branch='online': files of layout {name!r} hold one branch only; leave branch at 'momentum'.")
    state = _state(content, _find_top(content, chosen, branch))
    _check_named(content, state, name, branch, where, head)
    return _split(state, name, branch, where, head, ignore)


def _split(
    state: Mapping[str, Tensor], name: str, branch: str, where: str, head: bool, ignore: Collection[str]
) -> TeacherFile:
    layout = LAYOUTS[name]
    backbone_prefix, head_prefix = layout.prefixes(branch)
    other = layout.prefixes('online' if branch == 'momentum' else 'momentum')
    unused = (*layout.ignored, *(prefix for prefix in other if prefix not in (backbone_prefix, head_prefix)))
    parts: dict[str, dict[str, Tensor]] = {'backbone': {}, 'head': {}, 'ignored': {}, 'unknown': {}}
    for key, tensor in state.items():
        part, prefix = 'unknown', ''
        if key.startswith(tuple(ignore)):
            part = 'ignored'
        elif key.startswith(head_prefix):
            part, prefix = 'head', head_prefix
        elif key.startswith(unused):
            part = 'ignored'
        elif key.startswith(backbone_prefix):
            part, prefix = 'backbone', backbone_prefix
        parts[part][key.removeprefix(prefix)] = tensor
    if parts['unknown']:
        raise ValueError(
            f'{where} is read as layout {name!r}, which has no place for {some(parts["unknown"], 6)}. If they are not '
            "needed, add their prefixes to teacher.ignore=['…']; or choose another layout."
        )
    backbone = {_child(key): tensor for key, tensor in parts['backbone'].items()} if layout.children else {}
    entries = indexed(parts['head'])
    if head:
        _check_form(entries, name, where)
    used = entries if head else {}
    return TeacherFile(name, backbone or parts['backbone'], used, len(parts['ignored']) + len(entries) - len(used))


def _bare(state: Mapping[str, Tensor], ignore: Collection[str]) -> TeacherFile:
    prefix = 'backbone.' if any(key.startswith('backbone.') for key in state) else ''
    unused = (*ignore, 'fc.')  # of a torchvision classifier
    backbone = {
        key.removeprefix(prefix): tensor
        for key, tensor in state.items()
        if key.startswith(prefix) and not key.startswith(unused)
    }
    return TeacherFile('backbone', backbone, {}, len(state) - len(backbone))


def _top(content: Mapping[str, Any]) -> str | None:
    return next((top for top in ('state_dict', 'model', 'teacher') if isinstance(content.get(top), Mapping)), None)


def _find_top(content: Mapping[str, Any], layout: Layout, branch: str) -> str | None:
    """Return the key of the layout's weights; a file that was saved anew has another key, or none."""
    top = layout.online_top if branch == 'online' and layout.online_top else layout.top
    return next((key for key in (top, 'state_dict') if isinstance(content.get(str(key)), Mapping)), None)


def _state(content: Mapping[str, Any], top: str | None) -> dict[str, Tensor]:
    return tensors_of(content if top is None else content[top])


def _matches(content: Mapping[str, Any]) -> list[str]:
    found = []
    for name, layout in LAYOUTS.items():
        state = _state(content, _find_top(content, layout, 'momentum'))
        signs = layout.signs or (layout.head,)
        present = all(any(key.startswith(sign) for key in state) for sign in (*signs, layout.backbone))
        if present and not any(key.startswith(layout.forbids) for key in state if layout.forbids):
            found.append(name)
    return found


def _detect(content: Mapping[str, Any], where: str, head: bool) -> str:
    found = _matches(content)
    if len(found) == 1:
        return found[0]
    if head:
        raise _unfit(content, where, 'of one layout')
    return 'backbone'


def _check_named(
    content: Mapping[str, Any], state: Mapping[str, Tensor], name: str, branch: str, where: str, head: bool
) -> None:
    wanted = LAYOUTS[name].prefixes(branch)[: 1 + head]
    if not all(any(key.startswith(prefix) for key in state) for prefix in wanted):
        held = ' and '.join(f'{prefix}*' for prefix in wanted)
        raise _unfit(content, where, f'of layout={name!r} with branch={branch!r}, which has entries {held}')


def _unfit(content: Mapping[str, Any], where: str, expected: str) -> ValueError:
    """Return the error for a file that is not what was expected, which tells what it looks like."""
    state = _state(content, _top(content)) or content
    prefixes = ', '.join(dict.fromkeys(str(key).split('.')[0] for key in state)) or 'none'
    found = _matches(content)
    looks = f'it looks like {" or ".join(found)}' if found else f'it is of none of {", ".join(LAYOUTS)}'
    return ValueError(
        f'{where} is no file {expected}: {looks}. Prefixes in the file: {prefixes}. A backbone alone and a network '
        'trained with labels have no projection head: give the full self-supervised checkpoint, or set '
        "teacher.head=None, with which the backbone's own map is distilled."
    )


def _check_form(entries: Mapping[str, Tensor], name: str, where: str) -> None:
    try:
        form = ' '.join(kind for kind, _ in read_steps(entries))
    except ValueError as error:
        raise ValueError(f'{where}, layout {name!r}: {error}') from error
    forms = LAYOUTS[name].forms
    # Another number of layers is a matter of the configured widths, which are compared by the teacher.
    same_depth = [known for known in forms if known.count('linear') == form.count('linear')]
    if same_depth and form not in same_depth:
        raise ValueError(
            f'{where}: the head of layout {name!r} is {" or ".join(map(repr, same_depth))} (+: with bias, bn0: batch '
            f'norm without weight and bias), the file has {form!r}: entries are missing or not of this layout.'
        )


def indexed(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return head entries, named below the head's prefix, under the indices of the ``nn.Sequential`` they would be.

    mmpretrain numbers ``fc0, bn0, fc1, …``, one BYOL ``l1, bn1, l2``; MoCo v1 has one layer without number.
    """
    named = {key: re.match(r'(fc|bn|l)(\d+)\.(.+)', key) for key in entries}
    first = min((int(match[2]) for match in named.values() if match), default=0)
    renamed = {}
    for key, tensor in entries.items():
        match = named[key]
        if match:
            key = f'{3 * (int(match[2]) - first) + (match[1] == "bn")}.{match[3]}'
        elif '.' not in key:  # MoCo v1: one linear layer
            key = f'0.{key}'
        renamed[key] = tensor
    return renamed


def _child(key: str) -> str:
    names = {'0': 'conv1', '1': 'bn1', '4': 'layer1', '5': 'layer2', '6': 'layer3', '7': 'layer4'}
    index, dot, rest = key.partition('.')
    return f'{names.get(index, index)}{dot}{rest}'
