"""Synthetic files of vision transformers under their public names, and what the original code makes of them."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
TINY = dict(dim=48, depth=2, heads=3)
CASES = {
    'dinov2': dict(family='dinov2', patch=14),
    'dinov2_reg': dict(family='dinov2', patch=14, registers=4),
    'dinov2_swiglu': dict(family='dinov2', patch=14, ffn='swiglu'),
    'dinov3': dict(family='dinov3', patch=16, registers=4),
    'dinov3_swiglu': dict(family='dinov3', patch=16, registers=4, ffn='swiglu'),
    'dino': dict(family='dino', patch=16),
    'mae': dict(family='mae', patch=16),
}


def tiny(case: str, **changes) -> dict:
    """The description of a network whose files :func:`state` makes."""
    option = dict(CASES[case], **TINY)
    return dict(option if option['family'] == 'dinov3' else dict(option, native=(5, 5)), **changes)


def picture(height: int, width: int) -> Tensor:
    """One normalised picture, the same on every machine."""
    return torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, height, width)).astype('float32'))


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values for an entry of an original file, the same on every machine; scales that let every part matter."""
    drawn = np.random.RandomState(sum(map(ord, name)) % 100000).standard_normal(shape).astype('float32')
    gain = 'norm' in name and name.endswith('weight')
    scale = 0.5 if name.endswith('gamma') else 0.1 if gain else 0.02
    if 'qkv' in name or 'mlp' in name or ('.proj.' in name and 'patch' not in name):
        scale = 0.1
    if name in ('pos_embed', 'cls_token', 'register_tokens', 'storage_tokens'):
        scale = 0.5
    return torch.from_numpy(drawn * scale + gain)


@functools.cache
def _sections() -> dict[str, dict[str, tuple[int, ...]]]:
    actual: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in (HERE / 'keys.txt').read_text().splitlines():
        if line.startswith('['):
            section = actual.setdefault(line.strip('[]'), {})
        elif not line.startswith('#'):
            name, shape = line.split()
            section[name] = tuple(map(int, shape.split('x')))
    return actual


SECTIONS = [tuple(title.split(': ')) for title in _sections()]


def shapes(case: str, scheme: str, depth: int = 2) -> dict[str, tuple[int, ...]]:
    """The entries of a public file."""
    actual = {}
    for name, shape in _sections()[f'{case}: {scheme}'].items():
        for block in range(depth if '#' in name else 1):
            actual[name.replace('#', str(block))] = shape
    return actual


def state(case: str, scheme: str, depth: int = 2) -> dict[str, Tensor]:
    """A file with the public names, with values that depend on the names."""
    actual = {}
    for name, shape in shapes(case, scheme, depth).items():
        actual[name] = fill(name, shape)
        if name.endswith('bias_mask'):
            third = shape[0] // 3
            actual[name] = torch.cat([torch.ones(third), torch.zeros(third), torch.ones(third)])
        elif name.endswith('periods'):
            actual[name] = 100 ** (torch.arange(shape[0]) / (2 * shape[0]) * 2)
    return actual


KIND = 'mmdistill_dense.FoundationTeacher'


def option(case='dinov2', **changes):
    """A teacher with random weights."""
    return dict(dict(type=KIND, model=tiny(case), allow_random=True), **changes)
