"""The texts of the files that ``new`` writes."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from mmdistill_dense.apps.project.box_labels import BoxData
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.training_plan import Loading, Training
from mmdistill_dense.utils.colours import distinct_colours
from mmdistill_dense.utils.literals import Source, Template, assignments, literal

Options = Mapping[str, Any]
Steps = tuple[list[Any], list[Any]]  # of training and test
WORK = 'work'  # folder of all runs
VALIDATIONS, SAVES = 5, 10  # in a training
FEW = 50  # steps: shorter trainings, for a trial, validate and save at the end alone


def pair_file(student: Options, teacher: Options, words: str) -> str:
    """Return the text of ``pair.py``; ``words``: by which a suite chooses the options of other methods."""
    model = {'type': 'mmdistill_dense.DistillModel', 'student': student, 'teacher': teacher}
    about = 'Student and teacher: their configs, and beside `cfg` what the data change in them.'
    return f'"""{about}"""\n\n# pair: {words}\n{assignments({"model": model})}'


def teacher_file(training: Training, batch: int, task: str, boxes_alone: bool = False) -> str:
    """Return the text of ``teacher.py``; ``boxes_alone``: it predicts no masks, so their metric would fail."""
    text = training_file('Trains the teacher of pair.py, in the place of the student.', training, batch, task)
    metric = "val_evaluator = test_evaluator = dict(metric='bbox')\n" if boxes_alone else ''
    return (
        f'{text}{metric}'
        "network = dict(_base_.model.teacher, _delete_=True)  # nothing of the student's settings stays\n"
        "network.pop('checkpoint')\nmodel = dict(student=network)\ndel network\n"
    )


def method_file(name: str, distillers: Options, unlabelled: Options | None) -> str:
    model = {'distillers': distillers, **({'unlabelled': unlabelled} if unlabelled else {})}
    also = ', also on pictures without labels' if unlabelled else ''
    head = f'"""The student of control.py, taught by the method {name}{also}."""\n\n_base_ = \'./control.py\'\n'
    return f'{head}{assignments({"model": model})}{_WORK_DIR}'


def suite_file(methods: Sequence[str], trains: bool, tests: bool, masks: bool) -> str:
    """Return the text of ``suite.yaml``, which `run` trains; networks that predict ``masks`` are compared by them."""
    lines = ['# What `mmdistill run` trains, see docs/suite.md. One seed says little: try [0, 1, 2].']
    lines += [f'out: ./{WORK}', 'control: control.py']
    lines += ['teacher: teacher.py'] if trains else ['test_teacher: true'] if tests else []
    lines += ['metric: coco/segm_mAP  # that of the boxes: coco/bbox_mAP'] if masks else []
    lines += ['methods:', *(f'  {name}: {{config: {name}.py}}' for name in methods)]
    return '\n'.join([*lines, 'seeds: [0]', ''])


_WORK_DIR = f"work_dir = '{{{{ fileDirname }}}}/{WORK}/{{{{ fileBasenameNoExtension }}}}'\n"


def training_file(title: str, training: Training, batch: int, task: str, save_best: str | None = None) -> str:
    """Return the text of a config that trains; the checkpoint with the highest ``save_best`` is kept too."""

    def interval(times: int) -> int:
        return max(training.steps // times, min(training.steps, FEW))

    recipe = f'The recipe of docs/one_command.md: {training.note}.'
    about = '\n'.join(textwrap.wrap(recipe, 118, break_on_hyphens=False))
    runtime = f"__import__('mmdistill_dense').base('mmdistill_dense::_base_/runtime_{task}.py')"
    checkpoint: dict[str, Any] = {'by_epoch': False, 'interval': interval(SAVES), 'max_keep_ckpts': 2}
    checkpoint |= {'save_best': save_best} if save_best else {}
    settings: dict[str, Any] = {
        **({'load_from': training.start} if training.start else {}),
        'optim_wrapper': training.optim_wrapper,
        'param_scheduler': training.param_scheduler,
        'auto_scale_lr': {'base_batch_size': batch},  # a warning tells if a step has others
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': training.steps, 'val_interval': interval(VALIDATIONS)},
        'val_cfg': {'type': 'ValLoop'},
        'test_cfg': {'type': 'TestLoop'},
        'log_processor': {'by_epoch': False},
        'default_hooks': {
            'distill': {'type': 'mmdistill_dense.DistillHook'},
            'logger': {'type': 'LoggerHook', 'interval': 10, 'log_metric_by_epoch': False},
            'checkpoint': {'type': 'CheckpointHook', **checkpoint},
            'visualization': {'type': {'seg': 'SegVisualizationHook', 'det': 'DetVisualizationHook'}[task]},
        },
    }
    bases = f"_base_ = [\n    './data.py',\n    './pair.py',\n    {runtime},\n]\n"
    return f'"""{title}\n\n{about}\n"""\n\n{bases}{assignments(settings)}{_WORK_DIR}'


def seg_file(data: SegData, loading: Loading, edges: Sequence[Options] = ()) -> str:
    """Return the text of ``data.py`` for segmentation; ``edges``: the step that draws what PIDNet's loss needs."""
    train = [
        {'type': 'LoadAnnotations'},
        {'type': 'RandomResize', 'scale': loading.size[::-1], 'ratio_range': (0.5, 2.0), 'keep_ratio': True},
        {'type': 'RandomCrop', 'crop_size': loading.crop, 'cat_max_ratio': 0.75},
        {'type': 'RandomFlip', 'prob': 0.5},
        {'type': 'PhotoMetricDistortion'},
        *edges,
        {'type': 'PackSegInputs'},
    ]
    resize = [{'type': 'Resize', 'scale': loading.size[::-1], 'keep_ratio': True}] if loading.resize else []
    test = [*resize, {'type': 'LoadAnnotations'}, {'type': 'PackSegInputs'}]
    folder = {
        'type': 'mmdistill_dense.SegFolderDataset',
        'data_root': str(data.root),
        'metainfo': {'classes': data.classes, 'palette': distinct_colours(len(data.classes)).tolist()},
        'img_suffix': data.img_suffix if len(data.img_suffix) > 1 else data.img_suffix[0],
        'seg_map_suffix': data.seg_map_suffix,
        **({'label_values': data.values} if data.values else {}),
    }
    parts: dict[str, dict[str, Any]] = {}
    for name, split in data.splits.items():
        names_file = {'ann_file': Template(f'{{{{ fileDirname }}}}/{name}.txt')} if split.names else {}
        parts[name] = {'data_prefix': {'img_path': split.pictures, 'seg_map_path': split.labels}, **names_file}
    metric = {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}
    about = 'the size of the crop is also that of data_preprocessor.size in pair.py'
    metrics = {'val_evaluator': metric, 'test_evaluator': Source('val_evaluator')}
    return _data_file(about, data, loading, (train, test), folder, parts, metrics)


def box_file(
    data: BoxData, loading: Loading, masks: bool, predicted: bool, empty: bool = True, varied: bool = False
) -> str:
    """Return the text of ``data.py`` for detection; ``masks`` are loaded, ``predicted``; ``empty``: trained on.

    ``varied``: the pictures of a training are scaled, cropped and coloured too.
    """
    boxes = {'type': 'LoadAnnotations', 'with_bbox': True, **({'with_mask': True} if masks else {})}
    resize = {'type': 'Resize', 'scale': loading.size[::-1], 'keep_ratio': loading.keep_ratio}
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    flip = {'type': 'RandomFlip', 'prob': 0.5}
    # another part of a picture each time, in other colours
    variations = [
        {**resize, 'type': 'RandomResize', 'ratio_range': (0.5, 2.0)},
        {'type': 'RandomCrop', 'crop_size': resize['scale'], 'recompute_bbox': True, 'allow_negative_crop': empty},
        {'type': 'FilterAnnotations', 'min_gt_bbox_wh': (1, 1), 'keep_empty': not empty},
        {'type': 'YOLOXHSVRandomAug'},
        {'type': 'Pad', 'size': resize['scale'], 'pad_val': {'img': (114, 114, 114)}},
    ]
    train = [boxes, *(variations if varied else [resize]), flip, {'type': 'PackDetInputs'}]
    test = [resize, boxes, {'type': 'PackDetInputs', 'meta_keys': keys}]
    folder = {
        'type': 'mmdistill_dense.CocoDataset',
        'data_root': str(data.root),
        # the first colour is nearly black: good for a background, bad for lines
        'metainfo': {'classes': data.classes, 'palette': distinct_colours(len(data.classes) + 1)[1:].tolist()},
    }
    parts, metrics = dict[str, dict[str, Any]](), dict[str, Any]()
    metric = ['bbox', 'segm'] if predicted else 'bbox'
    for name in [name for name in ('train', 'val', 'test') if name in data.splits]:
        split = data.splits[name]
        kind = {'filter_cfg': {'filter_empty_gt': not empty}} if name == 'train' else {'test_mode': True}
        parts[name] = {'ann_file': split.labels, 'data_prefix': {'img': split.pictures}, **kind}
        if name != 'train':
            below = Source(f"folder['data_root'] + {literal(f'/{split.labels}')}")
            file = split.labels if isinstance(split.labels, Template) else below
            metrics[f'{name}_evaluator'] = {'type': 'CocoMetric', 'ann_file': file, 'metric': metric, 'classwise': True}
    metrics.setdefault('test_evaluator', Source('val_evaluator'))
    changed = 'scaled, cropped, coloured' if varied else 'only resized'
    about = f'pictures are {changed} and mirrored, for all networks alike'
    return _data_file(about, data, loading, (train, test), folder, parts, metrics)


def _data_file(
    about: str, data: SegData | BoxData, loading: Loading, steps: Steps, folder: Any, parts: Options, metrics: Options
) -> str:
    counts = ', '.join(f'{split.count} {name}' for name, split in data.splits.items())
    summary = f'{len(data.classes)} classes, {counts} pictures, usually of {data.size[0]}x{data.size[1]} pixels'
    text = f'"""The data set: {summary}."""\n\n# {about}\n'
    load = {'type': 'LoadImageFromFile', **({'color_type': 'color_ignore_orientation'} if data.stored else {})}
    pipelines = {f'{name}_pipeline': [load, *others] for name, others in zip(('train', 'test'), steps, strict=True)}
    text += f'{assignments(pipelines)}\n{assignments({"folder": folder})}'
    for name in ('train', 'val', 'test'):
        if name not in parts:
            text += f'{name}_dataloader = val_dataloader  # a third split would be better\n'
            continue
        kind = 'train' if name == 'train' else 'test'
        inside = {**parts[name], 'pipeline': Source(f'{kind}_pipeline')}
        lines = ''.join(f'        {key}={literal(value, "        ", len(key) + 1)},\n' for key, value in inside.items())
        sampler = "type='InfiniteSampler', shuffle=True" if name == 'train' else "type='DefaultSampler', shuffle=False"
        text += (
            f'{name}_dataloader = dict(\n    batch_size={loading.batch if name == "train" else 1},\n'
            f'    num_workers={loading.workers},\n    sampler=dict({sampler}),\n'
            f'    dataset=dict(\n        folder,\n{lines}    ),\n)\n'
        )
    return f'{text}{assignments(metrics)}del folder\n'
