"""Checks before the first iteration, for mistakes in a config that would otherwise train for hours in silence."""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, equal, nn

from mmdistill_dense.config.resolve import bases_of, read_file, written
from mmdistill_dense.config.values import (
    HEADS,
    OTHER_HEADS,
    accumulated,
    flat,
    heads_with_classes,
    listed,
    pipeline_of,
    type_name,
)
from mmdistill_dense.utils.literals import literal
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.safe_load import plain_name
from mmdistill_dense.weights.strict_load import HUB, below, local_file, prefix_of, read_checkpoint, state_dict_of

_OPTION = 'optim_wrapper.paramwise_cfg.custom_keys'
_PREFIX = re.compile(r'^(model\.)?(student\.)?')  # of keys of a config, which names of parameters lack


def check_custom_keys(runner: Runner, model: nn.Module) -> None:
    """Refuse a key for the student that matches the name of a distiller; warn if it matches parts of a distiller.

    mmengine uses the longest key that a parameter's name contains: ``head`` is also in those of a distiller
    ``head_kd``.
    """
    options = ((runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or {}
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    students = {name for name in names if not name.startswith('distillers.')}
    for key in options:
        right = _PREFIX.sub('', key)
        if right and right != key and any(right in name for name in names) and not any(key in name for name in names):
            raise ValueError(f'{_OPTION}[{key!r}] is in no name of a parameter: write {right!r}, as they are named.')
    parts: dict[str, list[str]] = {}
    longest_first = sorted(sorted(options), key=len, reverse=True)
    for name in names:
        key = next((pattern for pattern in longest_first if pattern in name), None)  # as mmengine chooses
        if key is None or name in students or 'distillers' in key or not any(key in other for other in students):
            continue  # only a key that matches the student can match a distiller by mistake
        _, distiller, part = name.split('.', 2)
        if key not in part:
            raise ValueError(
                f'model.distillers.{distiller}: its name contains {key!r} of {_OPTION}, and would get '
                f"{dict(options[key])}. Rename it, or set custom_keys['distillers.{distiller}']=dict(lr_mult=1)."
            )
        parts.setdefault(key, []).append(name)
    for key, hits in parts.items():
        runner.logger.warning(
            f'{_OPTION}[{key!r}]={dict(options[key])} also applies to parts of distillers: {some(hits)}. To set other '
            "options for them, add custom_keys['distillers']."
        )


def check_laid_over(config: Config) -> None:
    """Refuse ``distillers=dict(cwd=dict(type='LogitKD'))`` over a base whose ``cwd`` is a ``CWD`` with options."""
    path = Path(config.filename or '')
    is_file = path.suffix == '.py' and path.is_file()
    model: Any = written(path.read_text(encoding='utf-8')).get('model') if is_file else None
    distillers = model.get('distillers') if isinstance(model, Mapping) else None
    if not isinstance(distillers, Mapping) or '_delete_' in {**model, **distillers}:
        return
    typed = any(isinstance(option, Mapping) and 'type' in option for option in distillers.values())
    for base in filter(Path.is_file, bases_of(path) if typed else ()):
        before = (read_file(base).get('model') or {}).get('distillers') or {}
        for name, option in distillers.items():
            kind = option.get('type') if isinstance(option, Mapping) and '_delete_' not in option else None
            old = before.get(name) or {}
            if type(kind) is str and old.get('type', kind) != kind:  # no Source
                options = ', '.join(f'{key}={value!r}' for key, value in old.items() if key != 'type') or 'none'
                raise ValueError(
                    f"{path.name}: model.distillers.{name}=dict(type='{kind}') would keep options of the {old['type']} "
                    f'in {base.name}: {options}. Write _delete_=True into the dict, or give it another name.'
                )


# Classes that load files themselves, and mmdet's functions that rename tensors of original files (convert_weights).
_READ_THEMSELVES = {'SwinTransformer': 'swin_converter', 'PyramidVisionTransformer': 'pvt_convert'}
_STRIPS = 'SwinTransformer'  # takes the prefix of a backbone off by itself
_BACKBONE = 'backbone.'


def check_retyped(config: Config, file: Config | None = None) -> None:
    """Refuse ``--cfg-options model.distillers.cwd.type=DIST``, which would keep the options of ``CWD``."""
    if file is None:
        file = read_file(config.filename) if config.filename and os.path.isfile(config.filename) else config
    before, after = ((source.get('model') or {}).get('distillers') or {} for source in (file, config))
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return
    for name, old in before.items():
        new = after.get(name)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping) or type_name(new) == type_name(old):
            continue
        # a merge removes no key: what lacks one was written anew
        if set(old) <= set(new) and (keys := [key for key in old if key != 'type' and new[key] == old[key]]):
            text = f'model.distillers.{name}.type={new["type"]!r} would keep options of {old["type"]}: {some(keys)}'
            raise ValueError(f'{text}. Name a config of {new["type"]}, or add model.distillers.{name}._delete_=True.')


def check_top_level_distillers(config: Config, file: Config | None = None) -> None:
    """Refuse a run in which a file over its bases, or ``--cfg-options``, changed only the top-level ``distillers``.

    Configs take the model's distillers from there while the bases are read, before both apply.
    """
    if not config.get('distillers'):
        return
    _check_over_bases(Path(config.filename or ''))
    if file is None:
        file = read_file(config.filename) if config.filename and os.path.isfile(config.filename) else config
    changed = config.distillers != file.get('distillers')
    if changed and config.model.get('distillers') == file.model.get('distillers'):
        remedy = 'use --cfg-options model.distillers.<name>.<option>=… instead'
        raise ValueError(f'The top-level distillers was changed, but model.distillers was not, which counts: {remedy}.')


def _check_over_bases(path: Path) -> None:
    """Refuse a file that sets ``distillers`` beside a model with the distillers of its bases."""
    own_config = written(path.read_text(encoding='utf-8')) if path.suffix == '.py' and path.is_file() else {}
    if 'distillers' not in own_config:
        return
    file, before = read_file(path), dict[str, Any]()
    for base in filter(Path.is_file, bases_of(path)):
        before |= read_file(base)
    distillers = (file.get('model') or {}).get('distillers')
    of_bases = before.get('distillers'), (before.get('model') or {}).get('distillers')
    if distillers and distillers != file.get('distillers') and distillers in of_bases:
        options = [f'distillers.{name} = {literal(value)}' for name, value in flat(own_config['distillers']).items()]
        line = f'model = dict(distillers={literal(own_config["distillers"])})'
        if 'distillers' in (own_config.get('model') or {}):  # as _base_.distillers
            line = f'_base_.{options[0]} above the line of model'
        raise ValueError(f'{path.name}: {some(options)} has no effect: the base filled the model. Write {line}.')


def check_crop(dataset: Any, student: Mapping[str, Any], key: str = 'model.student') -> None:
    """Refuse a training crop that is smaller than the size to which the preprocessor pads."""
    steps = reversed(pipeline_of(dataset))  # after a crop, a picture may be resized
    last: Mapping[str, Any] = next((step for step in steps if re.search('RandomCrop$|Resize', type_name(step))), {})
    crop = last.get('crop_size') if type_name(last).endswith('RandomCrop') else None
    size, pair = (student.get('data_preprocessor') or {}).get('size'), (crop, crop) if isinstance(crop, int) else crop
    if size is not None and pair is not None and (pair[0] < size[0] or pair[1] < size[1]):
        problem = f'The training pipeline crops to {tuple(pair)}, and data_preprocessor.size={tuple(size)} pads it back'
        raise ValueError(f'{problem}: set RandomCrop.crop_size and {key}.data_preprocessor.size alike.')


def batch_problem(config: Config, processes: int) -> str | None:
    """Return what is wrong with a run's batch size for the recipe's learning rate, or ``None``: nothing else fails."""
    scaling = config.get('auto_scale_lr') or {}
    base, size = scaling.get('base_batch_size'), (config.get('train_dataloader') or {}).get('batch_size')
    if not base or not size or scaling.get('enable'):
        return None
    multiple = accumulated(config) * processes
    real = size * multiple
    if real == base:
        return None
    fitting = f'train_dataloader.batch_size={base // multiple}, ' if base % multiple == 0 else ''
    return (
        f'{processes} process(es) with train_dataloader.batch_size={size} take {real} pictures a step, but the '
        f'learning rate is for auto_scale_lr.base_batch_size={base}: set {fitting}another number of processes, '
        f'auto_scale_lr.enable=True to scale the rate, or auto_scale_lr.base_batch_size={real} if the rate fits it.'
    )


def check_pretrained(model: nn.Module, loaded: bool = False) -> None:
    """Refuse a pre-trained file, local or of the Hugging Face hub, for another module than the one it initialises.

    mmengine loads what fits and only warns: mmseg's and mmdet's MobileNetV2 share one layer name. Refuse two files for
    the stages of one backbone (C4). With ``loaded``, files must have been read, which some backbones do in another way.
    """
    files, parts = dict[str, str](), list(pretrained_parts(model))
    for number, (name, module, path, prefix) in enumerate(parts, 1):
        # the file of a module around it counts, and the last of several
        other = any(name.startswith(f'{outer}.' if outer else '') for outer in files if outer != name)
        other |= any(part[0] == name for part in parts[number:])
        _check_pretrained(name or 'model', module, path, prefix, loaded and not other)
        files[name] = path
    bottom, top = files.get('backbone'), files.get('roi_head.shared_head')
    if bottom and top and bottom != top:
        keys = f'backbone.init_cfg.checkpoint={bottom!r}, roi_head.shared_head.init_cfg.checkpoint={top!r}'
        raise ValueError(f'{keys}: the stages of one backbone come from two files. Set both keys.')


def pretrained_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, str | None]]:
    """Yield name, module, file and prefix of each part of a model that a file initialises."""
    for name, module in model.named_modules():
        for option in listed(getattr(module, 'init_cfg', None)):
            if isinstance(option, Mapping) and 'Pretrained' in str(option.get('type')):
                yield name, module, os.path.expanduser(str(option.get('checkpoint'))), option.get('prefix')


def count_fitting(module: nn.Module, path: str, prefix: str | None) -> tuple[int, int]:
    """Return how many tensors of a module a file initialises, and how many the module has."""
    target, source = _target_and_source(module, initial_state(module, path), prefix)
    return len(_fitting(target, source)), len(target)


def initial_state(module: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Return the tensors that a module would find in a file that initialises it, under the module's names."""
    content = read_checkpoint(path)
    reader = next((kind for kind in type(module).__mro__ if kind.__name__ in _READ_THEMSELVES), None)
    if reader is not None and getattr(module, 'convert_weights', False):
        convert = getattr(sys.modules[reader.__module__], _READ_THEMSELVES[reader.__name__])
        return {key.removeprefix(_BACKBONE): value for key, value in convert(state_dict_of(content, path)).items()}
    below_model = isinstance(content.get('model'), Mapping) and not isinstance(content.get('state_dict'), Mapping)
    if reader is not None or not below_model:
        return state_dict_of(content, path)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        problem = f'{str(path)!r} has its tensors below `model`, where mmengine does not look'
        raise ValueError(f"{problem}: save them as {{'state_dict': …}}.")
    return state_dict_of(tensors, path)


def _check_pretrained(name: str, module: nn.Module, path: str, prefix: str | None, loaded: bool) -> None:
    file = local_file(path, None, f'{name}.init_cfg.checkpoint') if path.startswith(HUB) else Path(path)
    if not file.is_file():
        return
    try:
        state = initial_state(module, file)
    except ValueError as error:
        raise ValueError(f'{name}.init_cfg.checkpoint: {error}') from error
    target, source = _target_and_source(module, state, prefix)
    fitting, kind = _fitting(target, source), type(module).__name__
    problem = f'{name}.init_cfg.checkpoint={path!r} fits {len(fitting)} of the {len(target)} tensors of {kind}'
    if 2 * len(fitting) >= len(target):
        absent = [key for key in target if key not in source and 'relative_position' not in key and 'offset' not in key]
        parts = {key.partition('.')[0] for key in target.keys() - absent}
        lacks = any(target[key].dim() > 1 and key.partition('.')[0] not in parts for key in absent)  # as a deep stem
        if lacks or 10 * len(absent) > len(target):
            lack = f'it lacks {len(absent)} others, which keep their first values: {some(absent)}'
            print_log(f'{problem}; {lack}.', 'current', logging.WARNING)
        weights = [(target[key], source[key]) for key in fitting if target[key].is_floating_point()]
        equal_tensors = [equal(value, stored.to(value)) for value, stored in weights]
        if loaded and 2 * sum(equal_tensors) < len(equal_tensors):
            remedy = f'save its tensors alone, under names like {some(target)}, without `state_dict` and prefix'
            problem = f'{problem}, but {kind} read {sum(equal_tensors)} of {len(equal_tensors)}'
            raise ValueError(f'{problem}: {remedy}; or use load_from.')
        return
    reason = 'the file is for another network or package'
    begins = [start for start in (_BACKBONE, prefix_of(state, target)) if start and not prefix]
    if whole := next((start for start in begins if 2 * len(_fitting(target, below(state, start))) >= len(target)), ''):
        reason = f'it is a checkpoint of a whole network: add prefix={whole!r} to {name}.init_cfg'
    raise ValueError(f'{problem}: {reason}. Expected names like {some(target)}; it holds {some(source or state)}.')


def _target_and_source(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a module, without counters of batches, on which no result depends, and those for it."""
    takes_off = _STRIPS in [kind.__name__ for kind in type(module).__mro__]
    strips = takes_off and not prefix and any(key.startswith(_BACKBONE) for key in state)
    target = {key: value for key, value in module.state_dict().items() if not key.endswith('num_batches_tracked')}
    return target, below(state, _BACKBONE if strips else plain_name(f'{prefix.rstrip(".")}.') if prefix else None)


def _fitting(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[str]:
    return [key for key, value in target.items() if key in source and source[key].shape == value.shape]


# Numbers of classes

_READ_LABELS = 'FCNHead', 'DepthwiseSeparableFCNHead', 'FCNMaskHead'  # further heads, for the data's own classes


def check_student_classes(data: Sequence[str] | None, model: Mapping[str, Any], key: str = 'model.student') -> None:
    """Refuse a student with a head for other classes than the training set's."""
    check_num_classes(data, key, model)
    check_other_heads(data, key, model)
    check_class_weights(key, model)


def check_num_classes(data: Sequence[str] | None, key: str, model: Mapping[str, Any]) -> None:
    """Refuse a network whose head does not predict as many classes as the training set has."""
    for path, head in heads_with_classes(model, HEADS):
        if data is not None and head['num_classes'] != len(data):
            raise _other_count(key, f'{key}.{path}', head['num_classes'], data)


def check_other_heads(data: Sequence[str] | None, key: str, model: Mapping[str, Any]) -> None:
    """Refuse an auxiliary or mask head with more classes than the data: it would train outputs that never occur.

    Fewer are refused of a head that reads the same labels, since its loss would stop at the first of the others; some
    auxiliary heads have classes of their own, such as STDC's head for edges.
    """
    if data is None:
        return
    for path, head in heads_with_classes(model, OTHER_HEADS):
        count, reads_labels = head['num_classes'], type_name(head) in _READ_LABELS
        if count > len(data) or (count < len(data) and reads_labels):
            raise _other_count(f'{key}.{path}', f'{key}.{path}', count, data)


def _other_count(key: str, head: str, count: int, data: Sequence[str]) -> ValueError:
    features = f', or {key}.allow_other_classes=True if only features are distilled' if 'teacher' in key else ''
    return ValueError(
        f'{key} predicts {count} classes, the training data set has {len(data)} ({some(data)}): set '
        f'{head}.num_classes={len(data)}{features}.'
    )


_CLASS_WEIGHT = re.compile(r'((loss\w*)(?:\.\d+)?)\.class_weight')


def check_class_weights(key: str, model: Mapping[str, Any]) -> None:
    """Refuse a head whose loss weighs another number of classes; such weights stay when ``num_classes`` is changed."""
    for path, head in heads_with_classes(model, (*HEADS, *OTHER_HEADS)):
        options = flat(head)
        for match in filter(None, map(_CLASS_WEIGHT.fullmatch, options)):
            weights, loss = options[match[0]], match[1]
            sigmoid, kind = options.get(f'{loss}.use_sigmoid'), type_name(options.get(f'{loss}.type'))
            counts = _weight_counts(path, head, match[2], sigmoid, kind)
            if isinstance(weights, list) and len(weights) not in counts:
                problem = f'{key}.{path}.{match[0]} holds {len(weights)} weights'
                remedy = f'{path} has num_classes={head["num_classes"]}: give {" or ".join(map(str, counts))}'
                raise ValueError(f'{problem}, {remedy}, or None.')


def _weight_counts(path: str, head: Mapping[str, Any], name: str, sigmoid: Any, kind: str) -> list[int]:
    """Return how many class weights a loss takes: a softmax over boxes or queries has "no object" as a further class.

    A sigmoid in mmseg weighs positive pixels by a single number.
    """
    count, queries = int(head['num_classes']), (head.get('train_cfg') or {}).get('assigner')
    if name.endswith('_decode') and not queries:
        return [1] if sigmoid and kind == 'CrossEntropyLoss' else [count]
    if name == 'loss_cls' and not path.startswith('roi_head'):
        return [1, count] if sigmoid else [count + 1]
    return [1, count, count + 1] if sigmoid else [count + 1] if name == 'loss_cls' else [count, count + 1]


def check_teacher_classes(data: Sequence[str] | None, teacher: Any, distillers: Iterable[Any] = ()) -> Sequence[str]:
    """Refuse a teacher that predicts, or was trained on, other classes than the data set's.

    With its option ``classes``, resolve it and refuse distillers that cannot use it; return what to tell of that.
    """
    if teacher.option.classes is not None:
        notes = teacher.match_classes(data, distillers)
        _check_inherited(teacher, teacher.pairs is None or teacher.pairs.same)
        return notes
    if data is not None and teacher.option.allow_other_classes:
        _check_inherited(teacher, list(teacher.classes or ()) == list(data))
    elif data is not None:
        check_num_classes(data, teacher.key, teacher.config.model)
        if teacher.classes is not None and list(teacher.classes) != list(data):
            raise ValueError(
                f'{teacher.key}.checkpoint was trained on {len(teacher.classes)} classes ({some(teacher.classes)}), '
                f"the data set has {len(data)} ({some(data)}): set {teacher.key}.classes='auto' "
                f'(docs/other_classes.md), or {teacher.key}.allow_other_classes=True if only features are distilled.'
            )
    return []


def _check_inherited(teacher: Any, same_classes: bool) -> None:
    if teacher.class_rows and not same_classes:
        problem = f'copies rows of classes of {teacher.key}, and the data set has others, or in another order'
        remedy = f'inherit other parts than {some(teacher.class_rows)}, each by its own prefix'
        raise ValueError(f'model.inherit {problem}: {remedy}.')
