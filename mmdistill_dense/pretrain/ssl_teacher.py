"""SSLTeacher: a self-supervised network whose projection head gives a map, and the public files that it reads."""

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as MM_MODELS
from torch import Tensor, nn

from mmdistill_dense.pretrain.spatial_adaptor import SpatialAdaptor, blank_entries, read_steps
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.validate import check_option, some
from mmdistill_dense.weights.ssl_layouts import BRANCHES, IMAGENET_MEAN, LAYOUTS, Layout
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, tensors_of, warn_of_averages

_TOLERANCE = 1e-4


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
    warn_of_averages(content, where)
    layouts = (_matches(content, where) or _matches(content, where, branch)) if layout == 'auto' else [layout]
    if len(layouts) != 1 and head:
        raise _misfit(content, where, 'of one layout', branch)
    name = layouts[0] if len(layouts) == 1 else 'backbone'
    if name == 'backbone':
        return _bare(_state(content, where), ignore)
    preset = LAYOUTS[name]
    if branch == 'online' and preset.online is None:
        raise ValueError(f"branch='online': files of layout {name!r} hold one branch only; leave branch at 'momentum'.")
    state = _layout_state(content, preset, branch, where)
    prefixes = preset.prefixes(branch)[: 1 + head]
    if not all(any(key.startswith(prefix) for key in state) for prefix in prefixes):
        names = ' and '.join(f'{prefix}*' for prefix in prefixes)
        raise _misfit(content, where, f'of layout={name!r} with branch={branch!r}, which has entries {names}', branch)
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
        problem = f'is read as layout {name!r}, which has no place for {some(parts["unknown"], 6)}'
        raise ValueError(f"{where} {problem}: choose another, or add their prefixes to teacher.ignore=['…'].")
    entries = indexed(parts['head'])
    if head:
        _check_form(entries, name, where)
    used = entries if head else {}
    return TeacherFile(name, parts['backbone'], used, len(parts['ignored']) + len(entries) - len(used))


def _bare(state: Mapping[str, Tensor], ignore: Collection[str]) -> TeacherFile:
    prefix = 'backbone.' if any(key.startswith('backbone.') for key in state) else ''
    unused = (*ignore, 'fc.')  # of a torchvision classifier
    keys = [key for key in state if key.startswith(prefix) and not key.startswith(unused)]
    backbone = {key.removeprefix(prefix): state[key] for key in keys}
    return TeacherFile('backbone', backbone, {}, len(state) - len(backbone))


_TOPS = ('state_dict', 'model', 'teacher')


def _state(content: Mapping[str, Any], where: str, tops: Sequence[str | None] = _TOPS) -> dict[str, Tensor]:
    """Return the tensors below the first of the keys ``tops`` that a file has, or those of a file without them."""
    parts = (content.get(str(top)) for top in tops)
    return tensors_of(next((part for part in parts if isinstance(part, Mapping)), content), where)


def _layout_state(content: Mapping[str, Any], layout: Layout, branch: str, where: str) -> dict[str, Tensor]:
    top = layout.online_top if branch == 'online' and layout.online_top else layout.top
    return _state(content, where, (top, 'state_dict'))  # a file that was saved anew has another key, or none


def _matches(content: Mapping[str, Any], where: str, branch: str = 'momentum') -> list[str]:
    names = []
    for name, layout in LAYOUTS.items():
        state = _layout_state(content, layout, branch, where)
        backbone, head = layout.prefixes(branch)
        present = all(any(key.startswith(sign) for key in state) for sign in (*(layout.signs or (head,)), backbone))
        if present and not any(key.startswith(layout.forbids) for key in state if layout.forbids):
            names.append(name)
    return names


def _misfit(content: Mapping[str, Any], where: str, expected: str, branch: str) -> ValueError:
    """Return the error for a file that is not what was expected, which tells what it looks like."""
    state = _state(content, where) or content
    prefixes = ', '.join(dict.fromkeys(str(key).split('.')[0] for key in state)) or 'none'
    names = _matches(content, where)
    guess = f'it looks like {" or ".join(names)}' if names else f'it is of none of {", ".join(LAYOUTS)}'
    if not names and (online := _matches(content, where, 'online')):  # MoCo v2's published file holds that branch alone
        options = [f'layout={online[0]!r}'] if f'{online[0]!r}' not in expected and len(online) == 1 else []
        options += ["branch='online'"] if branch != 'online' else []
        problem = f'it has the branch of {" or ".join(online)} that was trained by gradient: set teacher.'
        return ValueError(f'{where} is no file {expected}: {problem}{" and teacher.".join(options)}.')
    return ValueError(
        f'{where} is no file {expected}: {guess}. Prefixes in the file: {prefixes}. Give the full self-supervised '
        "checkpoint, with its projection head, or set teacher.head=None to distil the backbone's own map."
    )


def _check_form(entries: Mapping[str, Tensor], name: str, where: str) -> None:
    try:
        form = ' '.join(kind for kind, _ in read_steps(entries))
    except ValueError as error:
        raise ValueError(f'{where}, layout {name!r}: {error}') from error
    forms = LAYOUTS[name].forms
    # Another number of layers is a matter of the configured widths, which are compared by the teacher.
    same_depth = [candidate for candidate in forms if candidate.count('linear') == form.count('linear')]
    if same_depth and form not in same_depth:
        raise ValueError(
            f'{where}: the head of layout {name!r} is {" or ".join(map(repr, same_depth))} (+: with bias, bn0: without '
            f'weight and bias), the file has {form!r}: entries are missing or not of this layout.'
        )


def indexed(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return head entries, named below the head's prefix, under the indices of the ``nn.Sequential`` they would be.

    mmpretrain numbers ``fc0, bn0, fc1, …``; MoCo v1 has one layer without number.
    """
    renamed = {}
    for key, tensor in entries.items():
        if match := re.match(r'(fc|bn)(\d+)\.(.+)', key):
            key = f'{3 * int(match[2]) + (match[1] == "bn")}.{match[3]}'
        elif '.' not in key:  # MoCo v1: one linear layer
            key = f'0.{key}'
        renamed[key] = tensor
    return renamed


# The network


@MODELS.register_module()
class SSLTeacher(BaseModule):
    """A backbone with the projection head it was trained with, adapted to maps; tap ``head`` or ``backbone[i]``.

    Use it as ``teacher=dict(type='mmdistill_dense.SSLTeacher', …, checkpoint=FILE)``. The head is rebuilt from the
    file's entries; its widths must be known before, for the trace, and are compared on loading.

    Args:
        backbone: Config of a mm backbone with the file's names; for ResNet-50 checkpoints
            ``dict(type='mmdet.ResNet', depth=50, out_indices=(3,))``, whose names are torchvision's; for MoCo v3's
            vision transformers ``dict(type='mmdistill_dense.VisionTransformer', model='mocov3_vitb16')``.
        layout: A name of :data:`~mmdistill_dense.weights.ssl_layouts.LAYOUTS`; ``'auto'`` finds it by the key
            names; ``'backbone'`` is a backbone alone or any whole mm network, for ``head=None``.
        head: ``'layout'``: the usual widths of the layout; ``dict(widths=[…])`` from the backbone's channels to the
            head's output; ``None``: no head, the output is the backbone's last map.
        branch: ``'momentum'``, or ``'online'`` for the branch that was trained by gradient.
        keep_last_bn: Keep a final batch norm without affine parameters; the published method leaves it out.
        per_pixel: Apply the head to each pixel as to a vector, without :class:`SpatialAdaptor`: the ablation of PCD.
        ignore: Prefixes of entries in the file that are to be ignored.
        data_preprocessor: Normalisation of the input, as ``dict(mean=…, std=…, bgr_to_rgb=…)``. Defaults to that of the
            layout, in RGB.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        layout: str = 'auto',
        head: str | Mapping[str, Any] | None = 'layout',
        branch: str = 'momentum',
        keep_last_bn: bool = False,
        per_pixel: bool = False,
        ignore: Collection[str] = (),
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        check_option('layout', layout, ('auto', 'backbone', *LAYOUTS))
        check_option('branch', branch, BRANCHES)
        if isinstance(ignore, str):
            raise TypeError(f'ignore is a list of prefixes, got {ignore!r}.')
        self.layout, self.branch, self.keep_last_bn, self.ignore = layout, branch, keep_last_bn, tuple(ignore)
        self.backbone = MM_MODELS.build(backbone)
        self.per_pixel = per_pixel
        self.widths = _widths(layout, head)
        self.head: nn.Module = nn.Identity()
        if self.widths:
            depth = len(self.widths) - 1  # linear layers
            preset = _layout_of(layout)
            forms = [form for form in preset.forms if form.count('linear') == depth]
            entries = blank_entries(forms[0] if forms else ' act '.join(['linear+'] * depth), self.widths)
            self.head = SpatialAdaptor.from_entries(entries, preset.activation, keep_last_bn, per_pixel)
        self.preprocessor = data_preprocessor or _preprocessor(layout)
        self.normalised_by_layout = data_preprocessor is None
        self.source = f'layout {layout}'  # for the receipt; after loading, the layout that was found

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Return the head's map of a batch."""
        features = self.backbone(inputs)
        return self.head(features[-1] if isinstance(features, (list, tuple)) else features)

    forward = extract_feat

    def init_weights(self) -> None:
        super().init_weights()
        if isinstance(self.head, SpatialAdaptor):
            self.head.reset_parameters()

    def load_teacher(self, path: str | Path, key: str = 'model.teacher.checkpoint') -> tuple[int, int]:
        """Load backbone and head from a checkpoint, strictly; return the number of tensors used and ignored."""
        file = read_teacher(path, self.layout, self.branch, bool(self.widths), self.ignore, key)
        where = f'{key}={str(path)!r} (layout {file.layout!r})'
        if self.normalised_by_layout and self.preprocessor != _preprocessor(file.layout):
            problem = f'{where}: networks of this layout see their input normalised in their own way'
            raise ValueError(f'{problem}. Write layout={file.layout!r}, or give data_preprocessor.')
        load_strictly(self.backbone, file.backbone, None, where)
        self.source = f'layout {file.layout}'
        if self.widths:
            activation = LAYOUTS[file.layout].activation
            self.head = loaded = SpatialAdaptor.from_entries(file.head, activation, self.keep_last_bn, self.per_pixel)
            if loaded.widths != self.widths:
                problem = f'{where} has a head of widths {loaded.widths}, {self.widths} were expected'
                raise ValueError(f'{problem}: set teacher.head=dict(widths={loaded.widths}).')
            if not self.per_pixel:
                check_invariance(loaded, where)
        total = len(file.backbone) + len(file.head)
        used = min(total, len(self.state_dict()))  # a last batch norm may be left out
        ignored = file.ignored + total - used
        head = ' -> '.join(map(str, self.widths)) if self.widths else 'none'
        print_log(f'{where}: {used} tensors used, {ignored} ignored, head {head}', 'current')
        return used, ignored


@torch.no_grad()
def check_invariance(head: SpatialAdaptor, where: str) -> None:
    """Check on a random map that the mean of the adapted head's output equals the vector head's output for the mean."""
    head = copy.deepcopy(head).float()  # a file in half precision rounds by more than the tolerance
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, head.widths[0], 2, 3, generator=generator).to(next(head.parameters()))
    vector, mean = head.vector(x.mean((2, 3))), head(x).mean((2, 3))
    error = float((vector - mean).abs().max() / vector.abs().max().clamp_min(1e-12))
    if not error <= _TOLERANCE:
        raise RuntimeError(
            f'{where}: the adapted head differs from the vector head by {error:.1e} of its scale: broken weights.'
        )


def _widths(layout: str, head: str | Mapping[str, Any] | None) -> list[int]:
    if head is None:
        return []
    if layout == 'backbone':
        raise ValueError("layout='backbone' is a file without projection head: set head=None.")
    if isinstance(head, Mapping) and set(head) == {'widths'} and len(head['widths']) > 1:
        return [int(width) for width in head['widths']]
    if head != 'layout':
        raise ValueError(f"head must be 'layout', dict(widths=[channels in, …, channels out]) or None, got {head!r}.")
    usual = _layout_of(layout).widths
    if usual is None:
        names = ', '.join(name for name, entry in LAYOUTS.items() if entry.widths)
        problem = f'layout={layout!r} does not tell the widths of the head before the file is read'
        raise ValueError(f'{problem}: set head=dict(widths=[2048, …, channels out]), or name one of {names} as layout.')
    return list(usual)


def _layout_of(name: str) -> Layout:
    return LAYOUTS.get(name, Layout('', ''))  # with the defaults where the file will tell


def _preprocessor(layout: str) -> dict[str, Any]:
    return dict(mean=list(IMAGENET_MEAN), std=list(_layout_of(layout).std), bgr_to_rgb=True)
