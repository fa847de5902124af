"""Make a plain config run where this package is not installed, and say what had to be left out for that."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmdistill_dense.config import values
from mmdistill_dense.utils.literals import remark
from mmdistill_dense.utils.version import for_mim

PACKAGE = 'mmdistill_dense.'
# Classes that only check the files of the class they derive from: the same data without them.
_PLAIN_DATASETS = {
    'CocoDataset': 'mmdet.CocoDataset',
    'CityscapesDataset': 'mmseg.CityscapesDataset',
    'PascalVOCDataset': 'mmseg.PascalVOCDataset',
    'ADE20KDataset': 'mmseg.ADE20KDataset',
    'COCOStuffDataset': 'mmseg.COCOStuffDataset',
    'SegFolderDataset': 'mmseg.BaseSegDataset',
}
_PAINTERS = ('LoadShapes', 'LoadShapesDet')  # paint a picture where others read one
# The runner takes all keys of a row or none of them.
_TRAIN = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler')
_VAL = ('val_dataloader', 'val_cfg', 'val_evaluator')
_TEST = ('test_dataloader', 'test_cfg', 'test_evaluator')
_INFERENCE = ('model', 'test_pipeline', 'test_dataloader')
_WRITES = {'type': 'IoUMetric', 'format_only': True, 'output_dir': 'test_labels'}
ORIGIN = 'written by mmdistill_dense.'  # ends the first line
_EMPTY = {'mmseg': 'mmseg.BaseSegDataset', 'mmdet': 'mmdet.CocoDataset'}


def without_package(config: Config, meta: Mapping[str, Any]) -> tuple[Config, dict[str, list[str]], list[str]]:
    """Return a plain config that names nothing of this package, what was left out, and what could not be."""
    # inference of mmdet and mmseg reads pipeline and classes from ``test_dataloader``, so that stays
    flat = ConfigDict(config.to_dict())
    for value in values.mappings(flat):
        if plain := _PLAIN_DATASETS.get(_label(value)):
            value['type'] = plain
            value.pop('label_values', None)
            if endings := values.listed(value.get('img_suffix')):  # one, perhaps in a list
                value['img_suffix'] = endings[0]
    dropped: dict[str, list[str]] = {}

    def drop(options: Any, keys: Sequence[str], names: list[str], prefix: str = '') -> None:
        dropped.update({f'{prefix}{key}': names for key in keys if names and options.pop(key, None) is not None})

    hooks = flat.get('default_hooks') or {}
    for key in list(hooks):
        drop(hooks, [key], _names(hooks[key]), 'default_hooks.')
    if names := _names(flat.get('custom_hooks')):
        flat.custom_hooks = [hook for hook in flat.custom_hooks if not _names(hook)]
        dropped['custom_hooks'] = names
    for keys in (_TRAIN, _VAL):
        drop(flat, keys, _names([flat.get(key) for key in keys]))
    # a runner takes a loader only beside loop and evaluator; these measure nothing: mmseg's writes predictions
    test, loader = _names([flat.get(key) for key in _TEST]), flat.get('test_dataloader') or {}
    kind = _EMPTY.get(str(flat.get('default_scope'))) if loader else None
    drop(flat, _TEST[1:] if kind else _TEST, test)
    if test and kind:
        dataset = {'type': kind, **_inference_set(flat, meta), 'lazy_init': True}
        parts = {key: value for key, value in loader.items() if not _names(value)}
        flat.test_dataloader, flat.test_cfg = {**parts, 'dataset': dataset}, {'type': 'TestLoop'}
        flat.test_evaluator = _WRITES if kind == _EMPTY['mmseg'] else []
    read_files([flat.get(key) for key in ('test_pipeline', 'tta_pipeline', 'test_dataloader')])
    for key in [key for key in flat if key not in _INFERENCE]:
        drop(flat, [key], _names(flat[key]))
    kinds = ((*key.rpartition('.'), _package_class(kind)) for key, kind in values.flat(flat).items())
    needed = [f'{path} ({name})' for path, _, key, name in kinds if key == 'type' and name]
    return Config(flat), dropped, needed or _names(flat)  # also those in lists of lists


def header_lines(
    weights: Path, dropped: Mapping[str, Sequence[str]], needed: Sequence[str], config: Config, checkpoint: str | Path
) -> str:
    """Return what stands at the head of a written config, also how to test the checkpoint with its own one."""
    lines = [f'The network of {weights.name}, {ORIGIN}']
    because = f'It runs only where mmdistill_dense is installed, because of {", ".join(needed)}.'
    lines.append(because if needed else 'It runs without mmdistill_dense.')
    if dropped:
        lines.append('Left out, since mmdistill_dense is needed for it:')
    for classes in dict.fromkeys(map(tuple, dropped.values())):
        keys = [key for key, names in dropped.items() if tuple(names) == classes]
        lines.append(f'  {", ".join(keys)} ({", ".join(classes)})')
    if 'test_evaluator' in dropped:
        lines.append('Inference works, also by `mim test`, which measures nothing: the labels need mmdistill_dense.')
        scope, file = config.get('default_scope') or 'mmseg', config.filename  # none where a name was given
        words = ['mim', 'test', for_mim(scope)]
        words += [str(file) if file and Path(file).is_file() else 'CONFIG', '--checkpoint', str(checkpoint)]
        lines.append(f'To measure on the same data: {shlex.join(words)}')
    return ''.join(f'# {remark(line)}\n' for line in lines)


def _package_class(kind: Any) -> str | None:
    """Return the name of a class of this package, given in a config by its name or itself; ``None`` for others."""
    name = kind if isinstance(kind, str) else f'{getattr(kind, "__module__", "")}.{getattr(kind, "__qualname__", "")}'
    return name.rsplit('.', 1)[-1] if name.startswith(PACKAGE) else None


def _label(option: Mapping[str, Any]) -> str:
    """Return the class of this package that options name, and which of them no plain one has; empty for others."""
    several = len(values.listed(option.get('img_suffix'))) > 1
    extra = {'label_values': option.get('label_values'), 'several img_suffix': several}
    name = _package_class(option.get('type'))
    return ' with '.join([name, *(key for key, value in extra.items() if value)]) if name else ''


def _names(value: Any) -> list[str]:
    """Return the classes of this package below a value of a config, each with the options that plain ones lack."""
    return list(dict.fromkeys(filter(None, map(_label, values.mappings(value)))))


def _inference_set(flat: ConfigDict, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the test set as inference reads it: pictures, if others can read them, classes and pipeline, no labels."""
    dataset = flat.test_dataloader.get('dataset') or {}
    dataset = next((layer for layer in reversed(values.chain(dataset)) if 'pipeline' in layer), dataset)
    meta_info, steps = meta.get('dataset_meta') or {}, dataset.get('pipeline') or flat.get('test_pipeline') or []
    metainfo = {key: meta_info[key] for key in ('classes', 'palette') if meta_info.get(key) is not None}
    pictures = {}
    if _package_class(dataset.get('type')) == 'SegFolderDataset':
        suffix, folder = dataset.get('img_suffix', '.jpg'), (dataset.get('data_prefix') or {}).get('img_path', '')
        pictures = {key: dataset[key] for key in ('data_root', 'ann_file') if dataset.get(key)}
        pictures |= {'data_prefix': {'img_path': folder}, 'img_suffix': values.listed(suffix)[0]}
    return {**pictures, 'metainfo': dataset.get('metainfo') or metainfo, 'pipeline': drop_label_steps(steps)}


def drop_label_steps(steps: Sequence[Any]) -> list[Any]:
    """Return the steps of a test pipeline without those that load labels."""
    return [step for step in steps if not values.type_name(step).endswith('LoadAnnotations')]


def read_files(pipeline: Any) -> None:
    """Let a pipeline that paints pictures read files, as inference needs it."""
    for value in values.mappings(pipeline):
        if _package_class(value.get('type')) in _PAINTERS:
            value.clear()
            value['type'] = 'LoadImageFromFile'
