"""Every place of a real network that can be tapped, and what the network's frozen copy gives there."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from mmengine import MessageHub
from mmengine.registry import init_default_scope
from torch import nn

from mmdistill_dense.apps.check.tap_list import own_copy_gaps
from mmdistill_dense.config.resolve import ModelConfig, load_model
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.taps import Tap, check_student_input, resolve_tap
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys
from tests.zoo.narrow import narrow

SIDE = 128
_MASKS = ('mask', 'solo', 'yolact')
# What a network in eval mode with features alone does not reach: RoI heads, query decoders.
_OTHERS = ('roi_head', 'data_preprocessor')


def network_config(name: str, **overrides: Any) -> ModelConfig:
    """A toy of :mod:`tests.toys`, or a zoo config at reduced width where there is a rule for its backbone."""
    if name in toys.SEG:
        return load_model(toys.seg_net(name, **overrides), 'model')
    if name in toys.DET:
        return load_model(toys.det_net(name, **overrides), 'model')
    given = dict(pretrained=None) if name.startswith('mmseg') else {}
    config = load_model(dict(cfg=name, **toys.merged(given, overrides)), 'model')
    with suppress(KeyError):
        return load_model(narrow(config), 'model')
    return config


def gaps(name: str, **overrides: Any) -> dict[str, float]:
    """By tap, for all of a network at once, how far a training pass is from that of its frozen copy."""
    config = network_config(name, **overrides)
    init_default_scope(config.scope)
    torch.manual_seed(0)
    network = build_network(config, pretrained=False)
    network.init_weights()
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith('running_mean'):
            buffer.normal_(std=0.1)
    prepared = _batch(network, config.scope, any(word in name for word in _MASKS))
    places = list(taps(network, prepared['inputs']))
    before = stream_states()
    found = own_copy_gaps(config, network.state_dict(), places, prepared['inputs'], prepared['data_samples'])
    assert stream_states() == before, 'a check draws no number of the run'
    return found


def taps(network: nn.Module, inputs: torch.Tensor) -> Iterator[Tap]:
    """Each module's output and first input that can be tapped."""
    for path, calls in _calls(network, inputs).items():
        for text in (path, f'{path}:input'):
            tap = Tap.parse(text)
            with suppress(ValueError):
                resolve_tap(network, tap, 'tap')
                check_student_input(network, tap, 'tap')
                for args, output in calls:
                    tap.pick(args, output)
                yield tap


def _batch(network: Any, scope: str | None, masks: bool) -> dict:
    hub = MessageHub.get_current_instance()
    for name in ('iter', 'epoch'):  # which preprocessors read
        hub.update_info(name, 0)
    segmentation = scope == 'mmseg'
    batch = toys.seg_batch(side=SIDE) if segmentation else toys.det_batch(side=SIDE, masks=masks)
    return network.data_preprocessor(batch, segmentation)


@torch.no_grad()
def _calls(network: Any, inputs: torch.Tensor) -> dict[str, list]:
    found: dict[str, list] = {}
    network.eval()
    hooks = [
        module.register_forward_hook(lambda _, args, out, path=path: found.setdefault(path, []).append((args, out)))
        for path, module in network.named_modules()
        if path
    ]
    run_parts(network, [], inputs, heads=[])
    ran = {path.split('.')[0] for path in found}
    for name, child in network.named_children():
        if name in ran or name in _OTHERS:
            continue
        for path in [f'{name}.{i}' for i in range(len(child))] if isinstance(child, nn.ModuleList) else [name]:
            with suppress(ValueError, AttributeError, AssertionError):
                run_parts(network, [], inputs, heads=[path])
    for hook in hooks:
        hook.remove()
    return found
