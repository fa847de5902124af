"""The names of a vision transformer's tensors in public files.

A scheme maps the names of :class:`~mmdistill_dense.foundation.vit.ViT` to those of a file. One tensor of ours may be
several entries there. Each entry is then a view of a part of our tensor, so that a file is checked by its own names and
copied straight into place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mmdistill_dense.foundation.models import Architecture
from mmdistill_dense.foundation.vit import ViT

# Pattern and replacement. ``a|b`` are two entries that our tensor holds one below the other; an empty one has no entry.
Rules = Sequence[tuple[str, str]]
QKV = r'attn\.qkv\b'


@dataclass(frozen=True)
class Scheme:
    """One way to name the entries.

    Attributes:
        title: For the receipt and for messages.
        sign: Pattern of entries that no other scheme has.
        rules: Patterns and replacements for the names of an architecture, applied in their order.
    """

    title: str
    sign: str
    rules: Callable[[Architecture], Rules]


def _original(shape: Architecture) -> Rules:
    if not shape.rotary:
        return []
    return [
        (r'^rope\.periods$', 'rope_embed.periods'),
        (r'^register_tokens$', 'storage_tokens'),
        (r'mlp\.w12\b', 'mlp.w1|mlp.w2'),
    ]


def _timm(shape: Architecture) -> Rules:
    if not shape.rotary:
        rules = [(r'mlp\.w12\b', 'mlp.fc1'), (r'mlp\.w3\b', 'mlp.fc2')]
    else:
        rules = [
            (r'^rope\.periods$', ''),
            (r'attn\.qkv\.bias$', 'attn.q_bias||attn.v_bias'),
            (r'ls(\d)\.gamma', r'gamma_\1'),
            (r'mlp\.w12\b', 'mlp.fc1_g|mlp.fc1_x'),
            (r'mlp\.w3\b', 'mlp.fc2'),
        ]
    return [(r'^register_tokens$', 'reg_token'), *rules]


def _saved(shape: Architecture) -> Rules:
    """Files of transformers."""
    if shape.rotary:
        return _dinov3('layer.')
    plain = shape.family != 'dinov2'
    renamed = [
        (r'norm1\b', 'layernorm_before'),
        (r'norm2\b', 'layernorm_after'),
        (r'mlp\.fc1\b', 'intermediate.dense'),
        (r'mlp\.fc2\b', 'output.dense'),
    ]
    return [
        *_embeddings('embeddings.patch_embeddings.projection'),
        (QKV, '|'.join(f'attention.attention.{part}' for part in ('query', 'key', 'value'))),
        (r'attn\.proj\b', 'attention.output.dense'),
        *(renamed if plain else [(r'mlp\.w12\b', 'mlp.weights_in'), (r'mlp\.w3\b', 'mlp.weights_out')]),
        (r'^norm\b', 'layernorm'),
        (r'^blocks\.', 'encoder.layer.'),
    ]


def _in_memory(shape: Architecture) -> Rules:
    """The networks of transformers 5, whose ``state_dict`` has other names than its files."""
    if shape.rotary:
        return _dinov3('model.layer.')
    plain = shape.family != 'dinov2'
    return [
        *_embeddings('embeddings.patch_embeddings.projection'),
        *_PROJECTIONS,
        *([(r'norm1\b', 'layernorm_before'), (r'norm2\b', 'layernorm_after')] if plain else []),
        (r'^norm\b', 'layernorm'),
        (r'^blocks\.', 'layers.' if plain else 'encoder.layer.'),
    ]


_PROJECTIONS: Rules = [
    (QKV, 'attention.q_proj|attention.k_proj|attention.v_proj'),
    (r'attn\.proj\b', 'attention.o_proj'),
    (r'mlp\.w12\b', 'mlp.gate_proj|mlp.up_proj'),
    (r'mlp\.w3\b', 'mlp.down_proj'),
]


def _dinov3(blocks: str) -> Rules:
    return [
        *_embeddings('embeddings.patch_embeddings'),
        (r'^rope\.periods$', ''),
        (r'attn\.qkv\.bias$', 'attention.q_proj.bias||attention.v_proj.bias'),
        *_PROJECTIONS,
        (r'mlp\.fc1\b', 'mlp.up_proj'),
        (r'mlp\.fc2\b', 'mlp.down_proj'),
        (r'^blocks\.', blocks),
    ]


def _embeddings(projection: str) -> Rules:
    return [
        (r'^(cls_token|register_tokens)$', r'embeddings.\1'),
        (r'^pos_embed$', 'embeddings.position_embeddings'),
        (r'^patch_embed\.proj\b', projection),
        (r'ls(\d)\.gamma', r'layer_scale\1.lambda1'),
    ]


SCHEMES = (
    Scheme('original', r'^(storage_tokens|register_tokens)$|^rope_embed\.|\.(bias_mask|w12\.\w+|w3\.\w+)$', _original),
    Scheme('timm', r'^reg_token$|\.(gamma_1|q_bias|fc1_g\.\w+)$', _timm),
    Scheme('transformers', r'\.attention\.attention\.query\.|^layer\.\d+\.attention\.', _saved),
    Scheme('transformers 5', r'^(encoder\.layer|layers)\.\d+\.attention\.q_proj\.|^model\.layer\.\d', _in_memory),
)


def schemes_of(names: Iterable[str], gated_in_one: bool = False) -> list[Scheme]:
    """Return the schemes whose signs are among the names; the original names where there is no sign of any.

    Args:
        names: The entries, without a common prefix.
        gated_in_one: Whether ``mlp.fc1`` holds gate and value, which only timm's file of DINOv2's ViT-g does.
    """
    listed = list(names)
    found = [scheme for scheme in SCHEMES if any(re.search(scheme.sign, name) for name in listed)]
    if gated_in_one:
        found = [SCHEMES[1]]
    if not found and any(name.startswith('patch_embed.') for name in listed):
        found = [SCHEMES[0]]
    return found


def entries(network: ViT, scheme: Scheme) -> dict[str, Tensor]:
    """Return the entries of a file of this scheme, each a view of the part of the network's tensor that it fills."""
    rules = scheme.rules(network.shape)
    found = {}
    for name, tensor in network.state_dict().items():
        names = file_names(name, rules)
        for part, view in zip(names, tensor.chunk(len(names)), strict=True):
            if part:
                found[part] = view
    if holds_class_row(network.shape, scheme):
        found['pos_embed'] = found['pos_embed'][:, 1:]
    return found


def holds_class_row(shape: Architecture, scheme: Scheme) -> bool:
    """Tell whether the file's class token already holds its position, whose row ``pos_embed`` then lacks."""
    return scheme.title == 'timm' and shape.registers > 0 and not shape.rotary


def file_names(name: str, rules: Rules) -> list[str]:
    """Return the names of a file's entries for one of our tensors; empty ones have no entry."""
    names = [name]
    for pattern, replacement in rules:
        renamed = []
        for one in names:
            match = re.search(pattern, one)
            parts = replacement.split('|') if match else []
            renamed += (
                [f'{one[: match.start()]}{match.expand(part)}{one[match.end() :]}' if part else '' for part in parts]
                if match
                else [one]
            )
        names = renamed
    return names
