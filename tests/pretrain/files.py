"""Synthetic checkpoints of every family, tiny and under the public names, by the golden table and rows of our own."""

import copy
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mmdet.models  # noqa: F401  (registers the backbones)
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from tests.toys import fresh_dir

TABLE = Path(__file__).parents[1] / 'data/golden/pcd/ckpt_layouts.json'
R50 = dict(type='mmdet.ResNet', depth=50, base_channels=2, stem_channels=2, out_indices=(3,))
# Public dimension -> tiny one; different ones stay different.
TINY = {2048: 64, 4096: 20, 8192: 28, 256: 12, 128: 10, 512: 14, 65536: 16, 3000: 7, 60000: 9, 1000: 8, 1: 1}
ACTIVATIONS = dict(relu=nn.ReLU, gelu=nn.GELU, silu=nn.SiLU)
_MM3 = 'fc0:linear bn0:bn a:relu fc1:linear bn1:bn b:relu fc2:linear'
# Of each family the layout, and the vector head as the method's own code makes it: modules by name.
FAMILIES = {
    'mocov3_r50': ('mocov3', '0:linear 1:bn 2:relu 3:linear 4:bn0'),
    'mocov2_r50': ('mocov2', '0:linear+ 1:relu 2:linear+'),
    'simsiam_r50': ('simsiam', '0:linear 1:bn 2:relu 3:linear 4:bn 5:relu 6:linear+ 7:bn0'),
    'barlowtwins_r50': ('barlowtwins', '0:linear 1:bn 2:relu 3:linear 4:bn 5:relu 6:linear'),
    'swav_r50': ('swav', '0:linear+ 1:bn 2:relu 3:linear+'),
    'dino_r50': ('dino', '0:linear+ 1:gelu 2:linear+ 3:gelu 4:linear+'),
    'dino_r50_bn_head': ('dino', '0:linear+ 1:bn 2:gelu 3:linear+ 4:bn 5:gelu 6:linear+'),
    'byol_pcd_release': ('byol', '0:linear+ 1:bn 2:relu 3:linear'),
    'mmpretrain_mocov3_r50': ('mmpretrain_mocov3', 'fc0:linear bn0:bn a:relu fc1:linear bn1:bn0'),
    'mmpretrain_byol_r50': ('mmpretrain_byol', 'fc0:linear+ bn0:bn a:relu fc1:linear'),
    'mmpretrain_simsiam_r50': ('mmpretrain_simsiam', f'{_MM3} bn2:bn0'),
    'mmpretrain_barlowtwins_r50': ('mmpretrain_barlowtwins', _MM3),
    'mmpretrain_mocov2_r50': ('mmpretrain_mocov2', '0:linear+ 1:relu 2:linear+'),
    'mmpretrain_swav_r50': ('mmpretrain_swav', '0:linear+ 1:bn 2:relu 3:linear+'),
    'solo_byol_r50': ('solo', '0:linear+ 1:bn 2:relu 3:linear+'),
    'solo_dino_r50': ('solo_dino', '0:linear+ 1:gelu 2:linear+ 3:gelu 4:linear+'),
    'solo_simclr_r50': ('solo_single', '0:linear+ 1:relu 2:linear+'),
}
NAMES, HEADS = ({family: row[which] for family, row in FAMILIES.items()} for which in (0, 1))


def table() -> dict[str, Any]:
    """The golden table."""
    return json.loads(TABLE.read_text())


@functools.cache
def _plain_backbone() -> nn.Module:
    return MODELS.build(dict(R50, norm_eval=False))


def backbone(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A tiny ResNet-50 with random statistics, in eval mode."""
    network = copy.deepcopy(_plain_backbone())
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
            else:
                fill(name, tensor)
    network.eval()
    return network.to(dtype)


def fill(name: str, tensor: Tensor) -> None:
    """Fill one entry with what such an entry may hold."""
    if name.endswith('num_batches_tracked'):
        tensor.fill_(5)
    elif name.endswith('running_var') or (name.endswith('weight') and tensor.ndim == 1):
        tensor.uniform_(0.5, 1.5)
    elif tensor.ndim > 1:
        tensor.normal_(std=tensor.shape[1] ** -0.5)
    elif tensor.is_floating_point():
        tensor.normal_(std=0.3)


def entry(name: str, shape: list[int]) -> Tensor:
    """A random tiny entry of a public name and shape."""
    integer = name.endswith(('num_batches_tracked', 'ptr', 'steps'))
    tensor = torch.zeros([TINY[size] for size in shape], dtype=torch.long if integer else torch.float64)
    fill(name, tensor)
    return tensor


def synthetic(family: str, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a checkpoint of a family, to be changed as one likes, and its row of the table."""
    content, row = _synthetic(family, seed)
    return {k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}, row


@functools.cache
def _synthetic(family: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    torch.manual_seed(seed)
    row = ROWS.get(family) or table()['layouts'][family]
    state: dict[str, Any] = {}
    for prefix in row['backbone_prefixes']:
        state |= {f'{prefix}{name}': value for name, value in backbone(torch.float64).state_dict().items()}
    state |= {name: entry(name, shape) for name, shape in row['other_keys'].items()}
    content = state if row['top'] is None else {row['top']: state, 'epoch': 100}
    return content, row


def state_of(content: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint's content, to be changed in place."""
    return content if row['top'] is None else content[row['top']]


def saved(content: Mapping[str, Any]) -> str:
    """The path of a new file with this content."""
    path = fresh_dir() / 'teacher.pth'
    torch.save(content, path)
    return str(path)


def widths_of(entries: Mapping[str, Tensor]) -> list[int]:
    """The widths of a head, by its matrices in order of their names."""
    matrices = [value for _, value in sorted(entries.items()) if value.ndim == 2]
    return [matrices[0].shape[1], *(matrix.shape[0] for matrix in matrices)]


def modules_of(steps: str, widths: list[int]) -> nn.Sequential:
    """Torch's own modules in double by ``name:kind``; linear+ has a bias, bn0 no parameters."""
    head, depth = nn.Sequential(), 0
    for step in steps.split():
        name, _, kind = step.partition(':')
        if kind.startswith('linear'):
            head.add_module(name, nn.Linear(widths[depth], widths[depth + 1], bias=kind == 'linear+'))
            depth += 1
        elif kind.startswith('bn'):
            head.add_module(name, nn.BatchNorm1d(widths[depth], affine=kind == 'bn'))
        else:
            head.add_module(name, ACTIVATIONS[kind]())
    return head.double()


def vector_head(family: str, entries: Mapping[str, Tensor], last_bn: bool = False) -> Callable[[Tensor], Tensor]:
    """The head as its method trained it: torch's own modules, named by hand, loaded strictly.

    ``entries`` have the names below the head's prefix. Without ``last_bn`` a last batch norm without parameters is cut.
    """
    head = modules_of(HEADS[family], widths_of(entries))
    head.load_state_dict(dict(entries), strict=True)
    head.eval()
    return head[:-1] if HEADS[family].endswith('bn0') and not last_bn else head


def _solo(family: str, used: str, heads: Mapping[str, list[int]], **other: list[int]) -> dict[str, Any]:
    """A row of solo-learn, as the golden table has it: heads of these widths by their prefix, the backbones beside."""
    with torch.device('meta'):
        modules = {head: modules_of(HEADS[family], widths) for head, widths in heads.items()}
    shapes = {f'{head}.{name}': [*x.shape] for head, part in modules.items() for name, x in part.state_dict().items()}
    other.update(shapes, **{'classifier.weight': [1000, 2048], 'classifier.bias': [1000]})
    prefixes = ['momentum_backbone.', 'backbone.'] if used.startswith('momentum') else ['backbone.']
    return dict(
        top='state_dict', backbone_prefixes=prefixes, use_backbone=prefixes[0], use_head=f'{used}.', other_keys=other
    )


# Rows of the layouts that the golden table does not have: solo-learn's BYOL, DINO and SimCLR.
BYOL, DINO = [2048, 4096, 256], [2048, 2048, 2048, 256]
ROWS = {
    'solo_byol_r50': _solo(
        'solo_byol_r50', 'momentum_projector', dict(momentum_projector=BYOL, projector=BYOL, predictor=[256, 4096, 256])
    ),
    'solo_dino_r50': _solo('solo_dino_r50', 'momentum_head.mlp', {'momentum_head.mlp': DINO, 'head.mlp': DINO}, **{
        'momentum_head.last_layer.weight_g': [65536, 1], 'head.last_layer.weight_v': [65536, 256],
        'dino_loss_func.center': [1, 65536],
    }),
    'solo_simclr_r50': _solo('solo_simclr_r50', 'projector', dict(projector=[2048, 2048, 128])),
}  # fmt: skip
