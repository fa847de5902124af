"""Walk all distinct networks of the mmseg and mmdet zoos: each is built as a student with its own copy as teacher.

``python -m tests.zoo.every_network FILE`` writes a line of JSON for each network to FILE as it goes, goes on where FILE
ends, and prints a table. ``--architectures`` takes one network of each architecture alone, ``--match TEXT`` those whose
config's name holds the text, ``--step`` also takes a training step on two pictures of 128 x 128 pixels, or of the
network's own size if they are too small.

The outcome is ``ok``, ``refused`` (with the reason, at construction), ``failed``, ``no network`` where it cannot be
built without us either, or ``no step`` where it cannot be trained on these pictures without us either.

Networks are the same that differ in pre-trained weights, numbers of classes, preprocessor, losses, ``train_cfg`` or
``test_cfg`` alone. The distillers are LogitKD for segmentors, and FitNet where there is a backbone, with
their default taps.
"""

import argparse
import json
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmdistill_dense.apps.project.sides import class_counts
from mmdistill_dense.config.resolve import load_model, package_root
from mmdistill_dense.networks import trace
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import text_of
from tests import toys
from tests.zoo.networks import _INITIALISERS, key_of

_ASIDE = ('pretrained', 'init_cfg', 'num_classes', 'data_preprocessor', 'train_cfg', 'test_cfg', 'class_weight')
SIDE = 128


def names() -> Iterator[str]:
    """The names of all configs of both packages."""
    for package in ('mmseg', 'mmdet'):
        root = package_root(package) / 'configs'
        for path in sorted(root.rglob('*.py')):
            if '_base_' not in path.parts and 'common' not in path.parts:
                yield f'{package}::{path.relative_to(root)}'


def _structure(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _structure(v) for k, v in value.items() if k not in _ASIDE and not str(k).startswith('loss')}
    return [_structure(one) for one in value] if isinstance(value, (list, tuple)) else value


def _types(value: Any) -> Any:
    """The classes that a network consists of."""
    if isinstance(value, Mapping):
        inner = [_types(v) for k, v in value.items() if isinstance(v, (dict, list, tuple)) and not k.endswith('_cfg')]
        return [str(value.get('type'))] + [one for one in inner if one]
    if isinstance(value, (list, tuple)):
        return [found for one in value if (found := _types(one))]
    return None


def distinct(architectures: bool = False) -> dict[str, str]:
    """The name of a config for each network; names that stand for no network are left out."""
    found: dict[str, str] = {}
    for name in names():
        try:
            with quiet():
                model = load_model(dict(cfg=name), 'model').model
        except Exception:  # the configs that hold no model, or that mmengine cannot read
            continue
        structure = _structure(model)
        found.setdefault(name.partition('::')[0] + key_of(_types(structure) if architectures else structure), name)
    return {name: name for name in found.values()}


def distillers(name: str) -> dict[str, Any]:
    """What is walked with."""
    scores = dict(scores=dict(type='LogitKD')) if name.startswith('mmseg') else {}
    has_backbone = 'backbone' in load_model(dict(cfg=name), 'model').model
    return {**scores, **(dict(feature=dict(type='FitNet')) if has_backbone or not scores else {})}


def _option(name: str) -> ConfigDict:
    option = dict(cfg=name)
    return ConfigDict(
        type='mmdistill_dense.DistillModel',
        student=option,
        teacher=dict(option, allow_random=True),
        distillers=distillers(name),
    )


def build(name: str) -> Any:
    """Build a network as its own teacher's student, on the meta device or else on the CPU."""
    try:
        with _without_values(), torch.device('meta'), trace._NumbersOnCPU():
            return MODELS.build(_option(name))
    except KeyError:
        raise
    except Exception:
        with _without_values():
            return MODELS.build(_option(name))


def _without_values() -> Any:
    return mock.patch.multiple(nn.init, **{name: lambda tensor, *_, **__: tensor for name in _INITIALISERS})


def _plain(option: ConfigDict) -> Any:
    """Build the network without us."""
    config = load_model(option, 'model')
    return MODELS.build(ConfigDict(config.model, _scope_=config.scope))


def step(name: str, side: int) -> dict[str, float]:
    """Take a training step and predict; return the terms of the distillers."""
    option = _option(name)
    for one in (option.student, option.teacher):
        one.pretrained = False
        _set_size(one, side)
    model = toys.build(option, scope=name.partition('::')[0])
    losses = learn(model, _batch(name, side))
    predict(model, _batch(name, side))
    return {key: float(value) for key, value in losses.items() if key.startswith('distill.')}


def _plain_step(name: str, side: int) -> None:
    """Take the step and predict without us."""
    option = ConfigDict(cfg=name, pretrained=False)
    _set_size(option, side)
    model = _plain(option)
    learn(model, _batch(name, side))
    predict(model, _batch(name, side))


def _preprocessor(option: ConfigDict) -> Any:
    return load_model(option, 'model').model.get('data_preprocessor') or {}


def _set_size(option: ConfigDict, side: int) -> None:
    given = _preprocessor(option)
    sizes = dict(size=(side, side), batch_augments=None)  # these may pad to 1024 pixels
    if changed := {key: value for key, value in sizes.items() if given.get(key)}:
        option.data_preprocessor = changed


def _own_side(name: str) -> int:
    """The shorter side of the pictures that a network is trained on, where its preprocessor says so."""
    return min(_preprocessor(ConfigDict(cfg=name)).get('size') or [4 * SIDE])


def learn(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Take a step from random weights, SyncBN as BN; return the losses."""
    for module in model.modules():
        module.init_cfg = None  # no pre-trained weights
    with mock.patch('torch.nn.SyncBatchNorm.forward', nn.BatchNorm2d.forward):
        model = revert_sync_batchnorm(toys.ready(model))
        MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0))  # some losses ask how far the run is
        losses = toys.losses_of(model, batch)
        toys.total(losses).backward()
    return losses


def predict(model: Any, batch: dict[str, Any]) -> None:
    """Predict one picture, as an evaluation does."""
    one = {key: values[:1] for key, values in batch.items()}
    for sample in one['data_samples']:
        size = sample.img_shape
        own = dict(scale_factor=(1.0, 1.0), ori_shape=size, border=(0, size[0], 0, size[1]))  # CornerNet's padding
        sample.set_metainfo(dict(own, img_path='0', img_id=0))
        for labels in ('gt_instances', 'gt_sem_seg', 'gt_edge_map', 'ignored_instances'):
            sample.pop(labels, None)
    with torch.no_grad():
        (found,) = model.eval().test_step(one)
    assert any(key.startswith('pred_') for key in found.keys()), found  # noqa: SIM118


def _batch(name: str, side: int) -> dict[str, Any]:
    """Pictures with all that a network may ask for, and no more classes than it has."""
    model = load_model(dict(cfg=name), 'model').model
    classes = min((count for count in class_counts(model) if count), default=1)
    if name.startswith('mmseg'):
        batch = segments(side)
        for sample in batch['data_samples']:
            sample.gt_sem_seg.data %= classes
        return batch
    masks = (model.get('bbox_head') or {}).get('type') != 'RTMDetSepBNHead'  # its assigner takes masks for boxes
    batch = toys.det_batch(side=side, masks=masks)
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= classes
        sample.ignored_instances = sample.gt_instances[:0]
        sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes)
        inner = 'semantic_head' in (model.get('roi_head') or {})
        if inner or 'semantic_head' in model or 'panoptic_head' in model:
            stuff = side // 8 if inner else side  # HTC's labels are as small as its map
            sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, stuff, stuff, dtype=torch.long))
    return batch


def segments(side: int) -> dict[str, Any]:
    """Pictures with the labels that a segmentor may ask for."""
    batch = toys.seg_batch(side=side)
    for sample in batch['data_samples']:
        sample.gt_edge_map = sample.gt_sem_seg  # PIDNet's
    return batch


def steps_of(name: str) -> dict[str, Any]:
    """Take a step at a small size, or else at the network's own."""
    failure: Exception | None = None
    for side in (SIDE, _own_side(name)):
        try:
            return dict(terms=step(name, side), side=side)
        except Exception as error:
            try:
                _plain_step(name, side)
            except Exception as own:
                found = dict(outcome='no step', side=side, error=f'{type(own).__name__}: {own}'[:400])
            else:
                failure = error
    if failure is not None:
        raise failure
    return found


def walk(name: str, steps: bool) -> dict[str, Any]:
    """The outcome of one network."""
    init_default_scope(name.partition('::')[0])
    begun = time.perf_counter()
    found: dict[str, Any] = dict(name=name, outcome='ok')
    try:
        with quiet():
            model = build(name)
            levels = {key: [list(level.student) for level in one.levels] for key, one in model.distillers.items()}
            found['levels'] = levels
            if steps:
                found.update(steps_of(name))
    except Exception as error:
        try:
            with quiet(), _without_values():
                _plain(ConfigDict(cfg=name, pretrained=False))
        except Exception as own:
            found.update(outcome='no network', error=f'{type(own).__name__}: {own}'[:400])
        else:
            said = text_of(error)
            refused = said.startswith('model.') or 'there is no GPU here' in said
            found.update(outcome='refused' if refused else 'failed', error=f'{type(error).__name__}: {said}'[:900])
            found['where'] = [
                f'{f.filename.split("site-packages/")[-1]}:{f.lineno}'
                for f in traceback.extract_tb(error.__traceback__)[-3:]
            ]
    found['seconds'] = round(time.perf_counter() - begun, 1)
    return found


def main() -> None:
    """Walk and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('file', type=Path)
    parser.add_argument('--architectures', action='store_true')
    parser.add_argument('--match', default='', nargs='*')
    parser.add_argument('--step', action='store_true')
    args = parser.parse_args()
    done = [json.loads(line) for line in args.file.read_text().splitlines()] if args.file.exists() else []
    seen = {one['name'] for one in done}
    todo = [n for n in distinct(args.architectures) if not args.match or any(m in n for m in args.match)]
    print(f'{len(todo)} networks, {len(seen)} done', flush=True)
    for name in todo:
        if name in seen:
            continue
        done.append(walk(name, args.step))
        with args.file.open('a') as out:
            out.write(json.dumps(done[-1]) + '\n')
    for package in ('mmseg', 'mmdet'):
        print(package, dict(Counter(one['outcome'] for one in done if one['name'].startswith(package))))


if __name__ == '__main__':
    main()
