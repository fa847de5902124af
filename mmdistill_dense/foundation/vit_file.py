"""Read a public file of a vision transformer strictly, under the names of its original code or of timm."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense.foundation.vit import Architecture, ViT, key_mask
from mmdistill_dense.utils.validate import some
from mmdistill_dense.utils.version import removed
from mmdistill_dense.weights.strict_load import copy_strictly, tensors_of, warn_of_averages, without_chunks

# Pattern and replacement. ``a|b`` are two entries that our tensor holds one below the other; an empty one has no entry.
Rules = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Scheme:
    """One way to name the entries."""

    title: str  # for the receipt and for messages
    sign: str  # pattern of entries that no other scheme has
    learned: Rules  # for networks with learned positions, applied in their order
    rotary: Rules


SCHEMES = (
    Scheme(
        'original',
        r'^(storage_tokens|register_tokens)$|^rope_embed\.|\.(bias_mask|w12\.\w+|w3\.\w+)$',
        (),
        (
            (r'^rope\.periods$', 'rope_embed.periods'),
            (r'^register_tokens$', 'storage_tokens'),
            (r'mlp\.w12\b', 'mlp.w1|mlp.w2'),
        ),
    ),
    Scheme(
        'timm',
        r'^reg_token$|\.(gamma_1|q_bias|fc1_g\.\w+)$',
        ((r'^register_tokens$', 'reg_token'), (r'mlp\.w12\b', 'mlp.fc1'), (r'mlp\.w3\b', 'mlp.fc2')),
        (
            (r'^register_tokens$', 'reg_token'),
            (r'^rope\.periods$', ''),
            (r'attn\.qkv\.bias$', 'attn.q_bias||attn.v_bias'),
            (r'ls(\d)\.gamma', r'gamma_\1'),
            (r'mlp\.w12\b', 'mlp.fc1_g|mlp.fc1_x'),
            (r'mlp\.w3\b', 'mlp.fc2'),
        ),
    ),
)


def entries(network: ViT, scheme: Scheme) -> dict[str, Tensor]:
    """Return the entries of a file of this scheme, each a view of the part of the network's tensor that it fills."""
    rules = scheme.rotary if network.shape.rotary else scheme.learned
    views = {}
    for name, tensor in network.state_dict().items():
        names = file_names(name, rules)
        for part, view in zip(names, tensor.chunk(len(names)), strict=True):
            if part:
                views[part] = view
    if holds_class_row(network.shape, scheme):
        views['pos_embed'] = views['pos_embed'][:, 1:]
    return views


def public_weights(network: ViT, names: str) -> dict[str, Tensor]:
    """Return the weights of a network as a public file has them, for ``original`` or ``timm``."""
    schemes = {scheme.title: scheme for scheme in SCHEMES}
    if names not in schemes:
        raise ValueError(f'names={names!r}: choose one of {", ".join(schemes)}.')
    weights = {name: tensor.clone() for name, tensor in entries(network, schemes[names]).items()}
    if holds_class_row(network.shape, schemes[names]):
        weights['cls_token'] += network.pos_embed[:, :1].detach()
    if names == 'original' and network.shape.rotary and network.shape.qkv_bias:
        mask = key_mask(torch.empty(3 * network.shape.dim))
        weights |= {f'blocks.{number}.attn.qkv.bias_mask': mask.clone() for number in range(network.shape.depth)}
    return weights


def holds_class_row(shape: Architecture, scheme: Scheme) -> bool:
    """Tell whether the file's class token already holds its position, whose row ``pos_embed`` then lacks."""
    return scheme.title == 'timm' and shape.registers > 0 and not shape.rotary


def file_names(name: str, rules: Rules) -> list[str]:
    """Return the names of a file's entries for one of our tensors; empty ones have no entry."""
    names = [name]
    for pattern, replacement in rules:
        names = [
            re.sub(pattern, part, name) if part else ''
            for name in names
            for part in (replacement.split('|') if re.search(pattern, name) else [name])
        ]
    return names


_TOPS = ('teacher', 'state_dict', 'model', 'student')  # in this order: of two branches, the averaged one
_STEM = re.compile(r'(.*?)(?:cls_token|patch_embed\.proj\.weight)')
_OF_TRANSFORMERS = re.compile(r'(.*\.)?embeddings\.(cls_token|patch_embeddings\..*)')
_BRANCHES = ('momentum_encoder.', 'teacher.backbone.', 'model_ema.backbone.', 'base_encoder.', 'student.backbone.')
_OUTSIDE = ('base_encoder.', 'momentum_encoder.', 'student.', 'teacher.', 'model_ema.', 'gram_teacher.', 'predictor.',
            'head.', 'dino_head.', 'ibot_head.', 'decoder.', 'classifier.')  # fmt: skip
_INSIDE = ('head.', 'decoder_', 'mask_token', 'local_cls_norm.')
_PERIODS = 'rope_embed.periods'
_ROUNDING = 0.01
_ADVICE = 'The file is of another model than the option names, or damaged.'


@dataclass(frozen=True)
class VitFile:
    """The entries of a file."""

    state: dict[str, Tensor]  # those of the network, without the common prefix
    prefix: str  # that prefix, for messages and to name a branch
    ignored: int  # number of entries of heads, decoders and other branches
    unknown: list[str]  # further entries that are no part of a vision transformer


def load_vit(network: ViT, content: Mapping[str, Any], ignore: Collection[str], where: str) -> tuple[int, str]:
    """Load a file's content with original or timm names."""
    top = next((key for key in _TOPS if isinstance(content.get(key), Mapping)), None)
    file = split(content if top is None else content[top], ignore, where)
    warn_of_averages(content, where)
    scheme, state = _scheme(file, network.shape, where), file.state
    if file.prefix in ('momentum_encoder.', 'base_encoder.') and network.shape.family != 'mocov3':
        raise ValueError(
            f'{where} is a file of MoCo v3 ({file.prefix}*), model={network.shape.name} another network, whose heads '
            'no entry shows: name a model of mocov3.'
        )
    if scheme.title == 'original' and network.shape.rotary:
        _take_masks(network, state, where)
        _check_periods(network, state, where)
    source = {f'{file.prefix}{name}': tensor for name, tensor in state.items()}
    source |= {name: torch.empty(0) for name in file.unknown}
    targets = {f'{file.prefix}{name}': view for name, view in entries(network, scheme).items()}
    copy_strictly(targets, source, where, f'model={network.shape.name}', _ADVICE)
    _fill_rest(network, scheme)
    branch = ''.join(f', {part}' for part in (top, file.prefix.rstrip('.')) if part not in ('', None, 'state_dict'))
    return file.ignored, f'{network.shape.name} ({scheme.title} names{branch})'


def split(state: Mapping[str, Any], ignore: Collection[str], where: str) -> VitFile:
    """Find the network among the entries of a file."""
    tensors = tensors_of(state, where)
    tensors = dict(zip(without_chunks(tensors), tensors.values(), strict=True))
    weights = {name: value for name, value in tensors.items() if not name.startswith(tuple(ignore))}
    if any(map(_OF_TRANSFORMERS.fullmatch, weights)):
        raise ValueError(f'{where}: {removed("transformers names")}')
    prefixes = [match[1] for name in weights if (match := _STEM.fullmatch(name))]
    prefix = next((branch for branch in _BRANCHES if branch in prefixes), prefixes[0] if prefixes else None)
    if prefix is None:
        groups = dict.fromkeys(name.split('.')[0] for name in tensors)
        raise ValueError(
            f'{where} holds no vision transformer (no cls_token, no patch_embed.proj.weight); its entries begin with '
            f'{some(groups, 8) or "no tensor"}: give the file of the backbone.'
        )
    inside = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    unknown = [name for name in weights if not name.startswith((prefix, *_OUTSIDE))]
    used = {name: value for name, value in inside.items() if not name.startswith(_INSIDE)}
    return VitFile(used, prefix, len(tensors) - len(used) - len(unknown), unknown)


def _scheme(file: VitFile, shape: Architecture, where: str) -> Scheme:
    """Return the scheme whose sign is among the names; the original names where there is no sign of any."""
    schemes = [scheme for scheme in SCHEMES if any(re.search(scheme.sign, name) for name in file.state)]
    gated_in_one = any('.mlp.fc1.' in name or '.mlp.fc2.' in name for name in file.state)
    if shape.ffn == 'swiglu' and gated_in_one and not shape.rotary:
        schemes = [SCHEMES[1]]
    if not schemes and any(name.startswith('patch_embed.') for name in file.state):
        schemes = [SCHEMES[0]]
    if len(schemes) != 1:
        titles = ' and '.join(scheme.title for scheme in schemes) or 'none that is known'
        prefixes = dict.fromkeys('.'.join(name.split('.')[:2]) for name in file.state)
        raise ValueError(
            f'{where}: the names of the entries are those of {titles}, one scheme was expected: {some(prefixes, 12)}.'
        )
    return schemes[0]


def _take_masks(network: ViT, state: dict[str, Tensor], where: str) -> None:
    """Remove the masks of the biases of DINOv3's keys, which :func:`_fill_rest` applies."""
    if not network.shape.qkv_bias:
        return
    expected = key_mask(torch.empty(3 * network.shape.dim))
    for number in range(network.shape.depth):
        name = f'blocks.{number}.attn.qkv.bias_mask'
        mask = state.pop(name, None)
        if mask is None or mask.is_meta or mask.shape != expected.shape or not torch.equal(mask.float(), expected):
            problem = 'is missing' if mask is None else 'is not 1 for queries and values and 0 for keys'
            if 'rope.periods' in state:
                remedy = 'write the public ones by `mmdistill export CONFIG CHECKPOINT OUT.pth --backbone-only`'
                raise ValueError(f'{where}: its entries have the names of a training with this package: {remedy}.')
            raise ValueError(
                f'{where}: {name} {problem}: give the published file; a DINOv3 that was never loaded holds NaN there.'
            )


def _check_periods(network: ViT, state: dict[str, Tensor], where: str) -> None:
    """Check the rotary periods against the formula; files may hold them rounded, in another type than the rest."""
    periods, expected = state.get(_PERIODS), network.rope.periods
    if periods is None or periods.shape != expected.shape or periods.is_meta or not periods.is_floating_point():
        return  # told with the other entries
    state[_PERIODS] = periods.to(state['cls_token'].dtype) if 'cls_token' in state else periods
    if not torch.allclose(periods.to(expected), expected, rtol=_ROUNDING, atol=0, equal_nan=True):
        raise ValueError(
            f'{where}: {_PERIODS} are of other rotary positions than those of DINOv3 (base 100), which alone are known.'
        )


@torch.no_grad()
def _fill_rest(network: ViT, scheme: Scheme) -> None:
    """Set what no file holds: the biases of DINOv3's keys, and a position that timm adds to the class token."""
    if network.shape.rotary and network.shape.qkv_bias:
        block: Any
        for block in network.blocks:
            block.attn.qkv.bias.chunk(3)[1].zero_()
    if holds_class_row(network.shape, scheme):
        network.pos_embed[:, :1].zero_()
