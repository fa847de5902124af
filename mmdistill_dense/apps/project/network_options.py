"""Student and teacher as ``new`` reads them: a config of the zoo, an own one, or a foundation model."""

from __future__ import annotations

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import hub

from mmdistill_dense.config.resolve import TASKS, find_config, load_model, read_file
from mmdistill_dense.config.values import flat, mappings, num_classes
from mmdistill_dense.foundation.vit import MODELS_BY_NAME
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import close_or_all, message_of, size_text, some
from mmdistill_dense.weights.mmengine_loader import address_of
from mmdistill_dense.weights.strict_load import HUB, is_path, published_weights


def is_available(source: str) -> bool:
    """Tell whether weights can be had: a file that is there, or an address that is cached or reachable."""
    try:
        address = address_of(source)
    except KeyError:  # a name that is not published
        return False
    if address.startswith(('http://', 'https://')):
        return fetchable(address, Path(hub.get_dir()) / 'checkpoints')
    return '://' in address or expand_user(address).is_file()  # an object store cannot be asked here


def fetchable(address: str, folder: Path) -> bool:
    """Tell whether the file of an address is in the folder of downloads, or its host answers."""
    return (folder / Path(address).name).is_file() or reachable('/'.join(address.split('/')[:3]))


@cache
def reachable(host: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(host, method='HEAD'), timeout=5):  # seconds
            return True
    except urllib.error.HTTPError:  # an answer
        return True
    except (OSError, ValueError):
        return False


# What the data change in a network: new values by their dotted keys, as ``decode_head.loss_decode.0.class_weight``

# parts whose class counts are not those of the data, or that have none
_NON_CLASS_PARTS = {'backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor', 'text_encoder'}
_LARGE = 4_000_000  # pixels: a larger picture is tested in windows


def class_overrides(model: Mapping[str, Any], classes: int, key: str) -> dict[str, Any]:
    """Return what sets the number of classes: of every head, members of lists, and weights of the classes in losses."""
    kind, changes = model.get('type'), dict[str, Any]()
    values = {path: value for path, value in flat(model).items() if not _NON_CLASS_PARTS & {*path.split('.')}}
    # also those that stand deeper than num_classes looks
    counts = (values[path] for path in values if re.fullmatch(r'\w*head\.(.*\.)?num_(things_)?classes', path))
    old = num_classes(model) or next((count for count in counts if isinstance(count, int)), None)
    if old is None:
        raise ValueError(f'{key}: no head of {kind} says num_classes. Write the pair by hand: docs/own_pair.md.')
    if (model.get('panoptic_fusion_head') or {}).get('num_stuff_classes'):
        problem = 'is trained on panoptic labels, which the data do not have. Choose a config without -panoptic'
        raise ValueError(f'{key}: {kind} {problem}, or a segmentor of mmseg.')
    for path, value in values.items():
        parent, _, name = path.rpartition('.')
        is_count = name in ('num_classes', 'num_things_classes')
        if value == old != classes and (is_count or (name == 'out_channels' and f'{parent}.num_classes' in values)):
            changes[path] = classes
        elif name == 'class_weight' and isinstance(value, Sequence):
            has_none = len(value) == old + 1 or (len(value) != old and len({*value[:-1]}) == 1)  # SAN keeps COCO's
            changes[path] = [1.0] * classes + [value[-1]] if has_none else None  # the last: of no object
    return changes


def seg_size(model: Mapping[str, Any], crop: tuple[int, int], picture: tuple[int, int]) -> dict[str, Any]:
    """Return what sets the crop of a segmentor: in its preprocessor, and in its test by windows."""
    changes: dict[str, Any] = {'data_preprocessor.size': crop}
    if (model.get('data_preprocessor') or {}).get('size_divisor') is not None:
        changes['data_preprocessor.size_divisor'] = None
    slides = (model.get('test_cfg') or {}).get('mode') == 'slide'
    inside = picture[0] <= crop[0] and picture[1] <= crop[1]
    if picture[0] * picture[1] > _LARGE or (slides and not inside):
        changes['test_cfg'] = _windows(crop)
    elif slides:
        changes['test_cfg'] = {'_delete_': True, 'mode': 'whole'}
    return changes


def _windows(crop: tuple[int, int]) -> dict[str, Any]:
    stride = tuple(max(1, 2 * side // 3) for side in crop)
    return {'_delete_': True, 'mode': 'slide', 'crop_size': crop, 'stride': stride}


def without_weights(model: Any) -> dict[str, Any]:
    """Return what takes out all start weights, and what only these allow: frozen stages and norms."""
    backbone, changes = model.get('backbone') or {}, dict[str, Any](pretrained=False)
    free = 0 if backbone.get('type') == 'EfficientNet' else -1  # 0 freezes the stem of others
    if backbone.get('frozen_stages', free) > free:
        changes['backbone.frozen_stages'] = free
    if backbone.get('norm_eval'):
        changes['backbone.norm_eval'] = False
    if (backbone.get('norm_cfg') or {}).get('requires_grad') is False:
        changes['backbone.norm_cfg.requires_grad'] = True
    return changes


def predicts_masks(model: Mapping[str, Any]) -> bool:
    inside = model.get('roi_head') or {}
    heads = (model.get('mask_head'), model.get('panoptic_head'), inside.get('mask_head'))
    types = (str(model.get('type')), str((model.get('bbox_head') or {}).get('type')))
    return any(heads) or any(word in name for word in ('CondInst', 'RTMDetIns') for name in types)


def check_detector(side: UserNetwork, masks: bool) -> None:
    """Refuse a detector whose labels the data do not have, or that cannot predict what `new` writes."""
    if str((side.model.get('bbox_head') or {}).get('type')).endswith('SSDHead'):
        text = 'the commands of this package can; in mmdet alone set model.bbox_head.loss_cls = None before'
        side.notes.append(f'mmdet cannot predict with SSD (its issue 11063): {text}')
    model, tests = side.model, mappings((side.config.get('test_dataloader') or {}).get('dataset'))
    if predicts_masks(model) and not masks:
        text = 'is trained on masks, and not every object of the label files has a segmentation. Choose a config for '
        text += 'boxes (faster-rcnn for mask-rcnn)'
    elif (model.get('roi_head') or {}).get('semantic_head') or model.get('semantic_head'):
        text = 'has a semantic_head, which needs maps of stuff that the data do not have. Choose a config without it '
        text += '(htc-without-semantic for HTC)'
    elif model.get('type') == 'FastRCNN':
        text = 'needs a file of proposals, which `new` does not write. Choose a config of faster_rcnn'
    elif any(str(step.get('type')).endswith('RandomCenterCropPad') for step in tests):  # CornerNet, CenterNet, …
        text = 'needs the step RandomCenterCropPad of its own tests to predict, which `new` does not write. Write the '
        text += 'pair by hand: docs/own_pair.md'
    else:
        return
    raise ValueError(f'{side.key}: {model.get("type")} {text}.')


@dataclass
class UserNetwork:
    """A network of the pair."""

    key: str  # the option that names it, ``--student`` or ``--teacher``
    name: str  # as it is written into ``cfg``: a zoo name, or the whole path of an own file
    config: Config  # its config
    model: Mapping[str, Any]  # its resolved model
    task: str  # ``'seg'`` or ``'det'``
    changes: dict[str, Any] = field(default_factory=dict)  # for the data, by dotted keys
    start: str | None = None  # weights of the whole network from which its training starts
    random: bool = False  # whether its training starts from random weights
    notes: list[str] = field(default_factory=list)  # what was decided, for the user

    @property
    def option(self) -> dict[str, Any]:
        """The network as ``pair.py`` describes it."""
        option = Config({'cfg': self.name})
        option.merge_from_dict(self.changes)
        return option.to_dict()

    @cached_property
    def network(self) -> Any:
        """The network on the meta device; ``None`` if it cannot be built there."""
        try:
            with quiet(), torch.device('meta'), torch.no_grad():
                return build_network(load_model(self.option, self.key), pretrained=False).eval()
        except Exception as error:  # a constructor that reads numbers out of tensors
            if str(error).startswith(f'{self.key}: ') and isinstance(error, ValueError):  # a network for videos
                raise
            logging.getLogger(__name__).debug('%s', self.name, exc_info=error)
            return None


_FOREIGN = re.compile('(timm|transformers)::')  # libraries whose networks stand in no config of the zoo


def read_network(config_name: str, key: str) -> UserNetwork:
    if library := _FOREIGN.match(config_name):
        backbone = 'its backbone may be from timm: docs/own_pair.md, "A backbone of timm"'
        advice = f'A student is a network of mmseg:: or mmdet::, or a config of your own; {backbone}'
        raise ValueError(f'{key} {config_name}: `new` takes no network of {library[1]}. {advice}.')
    path = find_config(config_name, key)
    where, name = f'{key} {config_name}', config_name if '::' in config_name else str(path.resolve())
    if path.suffix not in ('.py', '.json', '.yml', '.yaml'):
        is_weights = path.suffix in ('.pth', '.pt', '.safetensors', '.bin', '.ckpt')
        hint = ' The weights of a trained teacher are for --teacher-checkpoint.' if is_weights else ''
        raise ValueError(f'{where}: not a config, which ends in .py.{hint}')
    try:
        config = read_file(path)
    except ImportError as error:  # mmengine's own text shows the folders where it looked
        text = str(error).splitlines()[0]
        match = re.search(r"'imports': \[?'(\w+)", text)
        package = match[1] if match else (error.name or '').partition('.')[0]
        fork = f'; beside the forks: pip install onedl-{package}' if package.startswith('mm') else ''
        problem = f'the config imports a package that is not installed ({package or text}{fork})'
        raise ValueError(f'{where}: {problem}.') from error
    except Exception as error:  # a config may run any code
        raise ValueError(f'{where}: the config cannot be read: {message_of(error)}') from error
    if not isinstance((config.get('model') or {}).get('type', ''), str):
        raise ValueError(f'{where}: a config in the new style (read_base). Give one whose types are names.')
    scope = config.get('default_scope')
    if (task := TASKS.get(scope or '')) is None:
        raise ValueError(f"{where}: its default_scope is {scope!r}; 'mmseg' or 'mmdet' is needed.")
    if 'model' not in config:
        raise ValueError(f'{where}: the config has no model. Give the config that trains or tests the network.')
    model = load_model({'cfg': name}, key).model
    if taught := next((part for part in model if part.startswith('teacher_')), None):  # LD and LAD of mmdet
        hint = f'it has a teacher of its own ({taught}). Choose the network alone, as mmdet::gfl/gfl_r50_fpn_1x_coco.py'
        raise ValueError(f'{where}: {hint}.')
    if (channels := len((model.get('data_preprocessor') or {}).get('mean') or ())) > 3:
        raise ValueError(f'{where}: its data_preprocessor.mean is for {channels} channels, pictures have 3.')
    return UserNetwork(key, name, config, model, task)


def read_foundation(option: str) -> dict[str, Any] | None:
    """Return the teacher option of ``MODEL:FILE``, or ``None`` if that is not what was given."""
    if library := _FOREIGN.match(option):
        advice = 'Such a teacher is written into a config by hand: docs/foundation.md, "Networks of timm"'
        raise ValueError(f'--teacher {option}: `new` takes no network of {library[1]}. {advice}.')
    model, colon, file = option.partition(':')
    if model not in MODELS_BY_NAME:
        if colon and not file.startswith(':') and not Path(option).is_file():
            raise KeyError(f'--teacher {option}: unknown model {model!r}. {close_or_all(model, MODELS_BY_NAME)}')
        return None
    if not file:
        raise ValueError(f'--teacher {option}: weights are missing. Write --teacher {model}:FILE (docs/foundation.md).')
    if not file.startswith(HUB):
        if not expand_user(file).is_file():
            advice = f'docs/foundation.md says where the weights of {model} are'
            raise FileNotFoundError(f'--teacher {option}: no such file {file!r} (looked in {Path.cwd()}). {advice}.')
        file = str(expand_user(file).resolve())
    return {'type': 'mmdistill_dense.FoundationTeacher', 'model': model, 'checkpoint': file}


def sizes(side: UserNetwork, crop: tuple[int, int], picture: tuple[int, int], trained: bool = True) -> dict[str, Any]:
    """Return what sets the sizes of pictures: crop and windows of a segmentor, and multiples that a network takes.

    A network that is not ``trained`` here keeps the one size that its weights are for.
    """
    preprocessor, is_seg, step = side.model.get('data_preprocessor') or {}, side.task == 'seg', 1
    changes = seg_size(side.model, crop, picture) if is_seg else {}
    if not is_seg and preprocessor.get('batch_augments'):  # to the sizes of its own data
        changes['data_preprocessor.batch_augments'] = None
    for step in (1, 8, 16, 32, 64) if side.network is not None else ():
        try:
            with quiet(), torch.no_grad():
                side.network.extract_feat(torch.zeros(1, 3, 165 + -165 % step, 203 + -203 % step, device='meta'))
            break
        except Exception:  # any code may run here; the check before the training says what is wrong
            continue
    else:
        if not trained or (side.model.get('backbone') or {}).get('type') not in ('BEiT', 'MAE'):
            return changes  # those two have a table of relative places
        windows = 'larger pictures are tested in windows, smaller ones padded'
        side.notes.append(f'it takes one size, {size_text(crop)}: {windows}')
        fixed = {'backbone.img_size': crop, 'data_preprocessor.test_cfg.size': crop, 'test_cfg': _windows(crop)}
        return {**changes, **fixed}
    divisor = preprocessor.get('pad_size_divisor') or 1  # of RTMDet, all pictures
    if step == 1 or (not is_seg and divisor % step == 0):
        return changes
    takes = f'it takes sizes that are multiples of {step}'
    if is_seg and any(length % step for length in crop):
        fitting = ' '.join(str(length + -length % step) for length in crop)
        raise ValueError(f'{side.key} {side.name}: {takes}, and the crop is {size_text(crop)}. Write --size {fitting}')
    side.notes.append(f'{takes}: {"tested pictures" if is_seg else "batches"} are padded')
    padded = 'test_cfg.size_divisor' if is_seg else 'pad_size_divisor'  # the prediction is cut to the picture
    return {**changes, f'data_preprocessor.{padded}': step}


def absolute_path(source: str) -> str:
    """Return the whole path of a file or folder; addresses and ``auto`` stay."""
    return str(expand_user(source).resolve()) if is_path(source) else source


def adapt(side: UserNetwork, classes: int | None, sizes: Mapping[str, Any], trained: bool, random: bool) -> None:
    """Set a network's ``changes`` and ``notes`` for the data, and its first weights; ``classes=None`` keeps its own."""
    side.changes = {**({} if classes is None else class_overrides(side.model, classes, side.key)), **sizes}
    values = (part.get(key) for part in mappings(side.model) for key in ('pretrained', 'checkpoint'))
    sources = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    if trained and not random and 'backbone.img_size' not in sizes:  # its tables would not fit weights of the whole
        weights = load_from = side.config.get('load_from')
        if not weights:
            with suppress(ValueError):  # none are published
                weights = published_weights(side.name)
        if weights and is_available(weights):
            side.start, side.changes = absolute_path(weights), side.changes | ({'pretrained': False} if sources else {})
            note = f'starts from {side.start}, weights of the whole network; heads of other classes start anew'
            side.notes.append(note)
            return
        if load_from:
            side.notes.append(f'WARNING: load_from={load_from!r} of the config cannot be had, and is left out')
    by_name = any(option.get('pretrained') is True for option in mappings(side.model))  # of timm
    if not trained or (by_name and not random):
        return
    missing = [source for source in sources if random or not is_available(source)]
    if sources and not missing:
        fetched = '' if all(map(Path.is_file, map(Path, sources))) else ', fetched at the first training unless cached'
        side.notes.append(f'starts from {some(sources)}{fetched}')
        return
    side.random, side.changes = True, {**side.changes, **without_weights(side.model)}
    if random:
        reason = '--random-weights'
    elif not sources:
        reason = 'its config names none'
    elif files := [source for source in missing if '://' not in source]:
        reason = f'no such file {some(files)} (looked in {Path.cwd()}); correct its path, and run `new` again'
    else:
        reason = f'{some(missing)} cannot be reached; with a connection, run `new` again'
    side.notes.append(f'STARTS FROM RANDOM WEIGHTS: {reason}. Expect much lower scores')
