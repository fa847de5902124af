"""Real zoo networks a sixteenth as wide: every layer is there, and a training step takes a fraction of a second."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from mmdistill_dense.config.resolve import ModelConfig, without_pretrained
from mmdistill_dense.foundation.vit import architecture
from mmdistill_dense.weights.ssl_layouts import LAYOUTS

SIDE = 128  # of a training picture
LARGE = 416  # where a layer needs more: LR-ASPP pools 49 x 49 positions of stride 8
STEM = 8
EMBED = 16  # of queries, in 8 heads: as wide as the necks that 256 channels become
WIDTHS = {  # what a part may choose for itself
    *('channels', 'feat_channels', 'point_feat_channels', 'conv_out_channels'),
    *('fc_out_channels', 'c1_channels', 'out_channels', 'ham_channels'),
}
QUERIES = dict(embed_dims=EMBED, feedforward_channels=EMBED, num_feats=EMBED // 2, num_layers=2, num_queries=20)
QUERIES.update(num_dn_queries=10)
DEFAULTS = ('feat_channels', 'conv_out_channels', 'fc_out_channels', 'embed_dims', 'norm_cfg')
SINGLE = ('stacked_convs', 'num_convs', 'num_csp_blocks')


def narrow(config: ModelConfig) -> dict[str, Any]:
    """The config of the same network at reduced width, without weights: types, levels, strides and classes stay."""
    with DefaultScope.overwrite_default_scope(config.scope):
        return dict(_narrow(_plain(without_pretrained(config.model))), _scope_=config.scope)


def side_of(model: Mapping[str, Any]) -> int:
    return LARGE if 'LRASPP' in str(model.get('decode_head')) else SIDE


def thin(width: int) -> int:
    """A sixteenth, in steps of 8."""
    return max(8, width // 16 // 8 * 8)


def _narrow(model: dict[str, Any]) -> dict[str, Any]:
    if str(model.get('type')).endswith('FoundationTeacher'):
        return {**model, **_vision_transformer(model)}
    preprocessor = model.get('data_preprocessor') or {}
    if preprocessor.get('size'):
        preprocessor['size'] = (side_of(model),) * 2
    if model.get('type') == 'DeformableDETR':  # a second stage embeds its proposals in 4 x 128 numbers at any width
        model['as_two_stage'] = False
    if 'rpn' in (model.get('train_cfg') or {}):  # the anchors of coarse levels are larger than the picture
        model['train_cfg']['rpn']['allowed_border'] = -1
    if 'shared_head' in model.get('roi_head', {}):  # a stage of a ResNet, whose width is fixed
        model['train_cfg']['rcnn']['sampler']['num'] = 16
        return model
    model['backbone'] = _backbone(model['backbone'])
    channels = _channels(model['backbone'], DefaultScope.get_current_instance().scope_name)
    if 'layout' in model:
        return _projection_head(model, channels[-1])
    if model.get('neck'):
        model['neck'] = _thinner(model['neck'], channels)
        if 'num_queries' in model:
            model['neck']['out_channels'] = EMBED
        channels = [model['neck']['out_channels']] * len(channels)
    for name in model:
        if name not in ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg'):
            model[name] = _thinner(model[name], channels, name)
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# Backbones


def _backbone(option: dict[str, Any]) -> dict[str, Any]:
    kind = option['type'].rsplit('.', 1)[-1]
    if kind not in BACKBONES:
        raise KeyError(f'narrow: no rule for the backbone {kind}; known: {", ".join(BACKBONES)}.')
    option |= BACKBONES[kind](option)  # MobileNetV3 refuses a list
    return {key: tuple(value) if key == 'out_indices' else value for key, value in option.items()}


def _resnet(option: Mapping[str, Any]) -> dict[str, Any]:
    depth = {101: 50, 34: 18}.get(option['depth'], option['depth'])
    return dict(depth=depth, base_channels=STEM, stem_channels=STEM)


def _vision_transformer(option: Mapping[str, Any]) -> dict[str, Any]:
    shape = architecture(option['model'])
    small = dict(family=shape.family, patch=shape.patch, dim=24, depth=shape.depth, heads=2, registers=shape.registers)
    return dict(model=small)


BACKBONES = {  # what becomes of the options of each
    'PIDNet': lambda config: dict(channels=STEM, ppm_channels=STEM, num_stem_blocks=1, num_branch_blocks=1),
    'DDRNet': lambda config: dict(channels=STEM, ppm_channels=STEM),
    'MSCAN': lambda config: dict(
        embed_dims=[max(8, width // 8) for width in config['embed_dims']], depths=[1] * len(config['depths'])
    ),
    'BiSeNetV2': lambda config: dict(detail_channels=(8, 8, 16), semantic_channels=(8, 8, 8, 16), bga_channels=16),
    'STDCContextPathNet': lambda config: dict(
        backbone_cfg=dict(config['backbone_cfg'], channels=(8, 16, 32, 64, 128)),
        last_in_channels=(128, 64),
        out_channels=16,
        ffm_cfg=dict(in_channels=48, out_channels=32, scale_factor=4),
    ),
    'CSPDarknet': lambda config: dict(widen_factor=config['widen_factor'] / 4, deepen_factor=0.1),
    'CSPNeXt': lambda config: dict(widen_factor=config['widen_factor'] / 8, deepen_factor=0.1),
    'ResNet': _resnet,
    'ResNetV1c': _resnet,
    'ResNeXt': lambda config: dict(_resnet(config), groups=2, base_width=4),
    'MobileNetV2': lambda config: dict(widen_factor=0.125),
    'MobileNetV3': lambda config: dict(arch='small', out_indices=(1, 3, 12)),  # the width is fixed
    'VisionTransformer': _vision_transformer,
    'MixVisionTransformer': lambda config: dict(
        embed_dims=config['embed_dims'] // 8, num_layers=[1] * len(config['num_layers'])
    ),
    'SwinTransformer': lambda config: dict(embed_dims=STEM, num_heads=[1, 2, 4, 8], depths=[1] * len(config['depths'])),
}


def _channels(backbone: Mapping[str, Any], scope: str) -> list[int]:
    network = MODELS.build(ConfigDict(backbone, _scope_=scope))
    network.eval()
    with torch.no_grad():
        levels = network(torch.zeros(1, 3, SIDE, SIDE))
    return [level.shape[1] for level in ([levels] if torch.is_tensor(levels) else levels)]


# What follows


def _projection_head(model: dict[str, Any], channels: int) -> dict[str, Any]:
    """A self-supervised teacher's: as many layers as its layout has."""
    if model.get('head', 'layout') is not None:
        model['head'] = dict(widths=[channels, *map(thin, LAYOUTS[model['layout']].widths[1:])])
    return model


def _thinner(part: Any, channels: Sequence[int], name: str = '') -> Any:
    """A neck or head with all that is nested in it; ``channels`` come in."""
    if isinstance(part, list):
        return [_thinner(item, channels) for item in part]
    if not isinstance(part, dict):
        return QUERIES.get(name, part)
    part = {**_defaults(str(part.get('type'))), **part}
    thinner = {key: _thinner(value, channels, key) for key, value in part.items()}
    for key in WIDTHS:
        if isinstance(part.get(key), int):
            thinner[key] = thin(part[key])
    thinner.update({key: 1 for key in SINGLE if key in part})
    if 'in_channels' in part:
        thinner['in_channels'] = _incoming(part, channels)
    if 'c1_in_channels' in part:
        thinner['c1_in_channels'] = channels[0]
    if 'num_groups' in part:
        thinner['num_groups'] = 4
    return thinner


def _defaults(kind: str) -> dict[str, Any]:
    """The widths and groups that a class takes unless told."""
    with MODELS.switch_scope_and_registry(None) as registry:
        cls = registry.get(kind)
    bases = inspect.getmro(cls) if inspect.isclass(cls) else ()
    options = {
        name: weight.default for base in reversed(bases) for name, weight in inspect.signature(base).parameters.items()
    }
    return {key: options[key] for key in DEFAULTS if isinstance(options.get(key), (int, dict))}


def _incoming(part: Mapping[str, Any], channels: Sequence[int]) -> Any:
    index = part.get('in_index', -1)
    if isinstance(part['in_channels'], list):
        return [channels[i] for i in index] if isinstance(index, list) else list(channels)
    return channels[index]
