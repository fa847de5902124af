"""The section that runs networks: what the students and the teacher predict, and the truth, side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import cv2
import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope

from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.apps.inspect.drawing import CONFIDENT, draw, image_of
from mmdistill_dense.apps.inspect.inference import predict_timed
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import Key, Missing, Panel, Section, Strip, panel
from mmdistill_dense.config.values import layers, type_name
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.runner_internals import IGNORED, Network, Sample, parameters_in_use

_HEADS = ('decode_head', 'bbox_head', 'roi_head')
_MOST_KEYS = 30


@dataclass(frozen=True)
class Scene:
    name: str  # the stem of its file
    image: np.ndarray  # uint8 (H, W, 3), RGB, in the size of predictions
    item: dict[str, Any]  # the output of the pipeline


@dataclass(frozen=True)
class NetworkCost:
    parameters: int  # without auxiliary heads, which only train
    milliseconds: float  # of a picture's pass, the median; batch 1, on the CPU
    one_class: bool = False  # whether it predicts one class everywhere, on pictures that have several


class Predictions:
    """Predictions of each method's first run and of the teacher, for ``count`` pictures; 0 runs no network."""

    def __init__(self, comparison: Comparison, count: int) -> None:
        self.costs: dict[str, NetworkCost] = {}
        self._times: dict[str, float] = {}
        note = f'The same validation pictures for all. Boxes and masks have a score above {CONFIDENT}.'
        self.section = Section('predictions', 'Predictions', note)
        if count:
            self.section.attempt(partial(self._strips, comparison, count))
        else:
            self.section.reasons.append('Pictures were switched off (--pictures 0).')

    def _strips(self, comparison: Comparison, count: int) -> list[Strip]:
        """Return for each picture its panels: input, students, teacher, truth."""
        first_runs = comparison.first_runs
        if not first_runs:
            raise Missing('No predictions: no run holds a checkpoint.')
        scenes, meta = scenes_of(first_runs[0], count)
        rows = [[panel(scene.image, 'input', f'The picture {scene.name}')] for scene in scenes]
        networks: list[tuple[str, Callable[[], Any]]] = [(run.name, partial(student_of, run)) for run in first_runs]
        # the teacher that a control names may not exist
        teacher_run = sorted(first_runs, key=lambda run: (not run.teachers, not run.distillers))[0]
        configs = {str([option.get('cfg') for option in run.teachers.values()]) for run in first_runs if run.distillers}
        teachers = teacher_run.teachers if len(configs - {'[]'}) < 2 else {}
        networks += [(name, partial(teacher_of, teacher_run, name)) for name in teachers]
        if not teachers:
            cause = 'the runs have several' if teacher_run.teachers else 'the config has none'
            self.section.reasons.append(f'No predictions of a teacher: {cause}.')
        for name, load in networks:
            self.section.attempt(partial(self._add, name, load, scenes, meta, rows))
        for scene, row in zip(scenes, rows, strict=True):
            row += [truth] if (truth := truth_panel(scene, meta)) else []
        colours = zip(meta['palette'] or (), meta['classes'] or (), strict=False)
        self.section.legend = [Key(f'rgb{colour}'.replace(',', ''), name) for colour, name in colours][:_MOST_KEYS]
        return [Strip(scene.name, row) for scene, row in zip(scenes, rows, strict=True)] if self.costs else []

    def _add(
        self, name: str, load: Callable[[], Any], scenes: list[Scene], meta: Mapping[str, Any], rows: list[list[Panel]]
    ) -> None:
        network, panels, seconds, predicted, true = load(), [], [], set[int](), set[int]()
        if not hasattr(network, 'test_step') or not any(hasattr(network, head) for head in _HEADS):
            raise Missing(f'No predictions of {name}: {type(network).__name__} has no head that segments or detects.')
        network = revert_sync_batchnorm(network)
        network.eval()  # not chained: mmseg's backbones return nothing from it
        batches = [{'inputs': [scene.item['inputs']], 'data_samples': [scene.item['data_samples']]} for scene in scenes]
        predict_timed(network, batches[0])  # warms up
        for scene, batch in zip(scenes, batches, strict=True):
            (sample,), passed = predict_timed(network, batch)
            seconds.append(passed)
            panels.append(prediction_panel(scene, sample, name, meta))
            for key, classes in (('pred_sem_seg', predicted), ('gt_sem_seg', true)):
                classes |= {*sample.get(key).data.unique().tolist()} - {IGNORED} if key in sample else set()
        # networks that differ in weights alone take one time
        kind = repr((network, getattr(network, 'test_cfg', None)))
        milliseconds = self._times.setdefault(kind, 1000 * median(seconds))
        self.costs[name] = NetworkCost(parameters_in_use(network), milliseconds, len(predicted) == 1 < len(true))
        for row, cell in zip(rows, panels, strict=True):
            row.append(cell)


def scenes_of(run: TrainedRun, count: int) -> tuple[list[Scene], dict[str, Any]]:
    """Return evenly spaced pictures of a validation set, always the same, and names and colours of its classes."""
    loader = run.config.get('val_dataloader') or run.config.get('test_dataloader')
    if loader is None:
        raise Missing('No predictions: the config has neither val_dataloader nor test_dataloader.')
    scenes = []
    steps = (step for _, layer in layers(loader.dataset) for step in layer.get('pipeline') or ())
    pads = any(type_name(step).endswith('Pad') for step in steps)
    with DefaultScope.overwrite_default_scope(run.config.get('default_scope') or 'mmengine'):
        dataset = DATASETS.build(loader.dataset)
        for index in evenly_spaced(len(dataset), count):
            item = dataset[index]
            image, meta = image_of(item['inputs']), item['data_samples'].metainfo
            height, width = meta.get('ori_shape', image.shape)[:2]
            if pads and 'scale_factor' in meta:  # without what that added
                wide, high = meta['scale_factor'][:2]
                image = image[: round(height * high), : round(width * wide)]
            image = image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))
            scenes.append(Scene(Path(meta.get('img_path') or '').stem or f'picture {index}', image, item))
    classes = tuple(dataset.metainfo.get('classes') or ())
    palette = [tuple(colour) for colour in palette_of(dataset.metainfo.get('palette'), len(classes)).tolist()]
    return scenes, {'classes': classes or None, 'palette': palette if classes else None}


def student_of(run: TrainedRun) -> Network:
    """Return the plain student of a run with the weights of its last checkpoint."""
    path = run.checkpoint
    assert path is not None, 'such runs alone are first_runs'
    return cast(Network, load_student(run.config, path)[1])


def teacher_of(run: TrainedRun, name: str) -> Network | None:
    """Return a teacher of a run, by its key under ``model``, with its weights."""
    option = TeacherOption.parse(copy.deepcopy(run.teachers[name]), f'model.{name}')
    if option.other_classes:
        raise Missing(
            f'No predictions of {name}: model.{name} sets allow_other_classes or classes, so its classes need not be '
            'those of the validation pictures.'
        )
    init_default_scope(run.config.get('default_scope') or 'mmengine')
    teacher = FrozenTeacher(option)
    teacher.load(torch.zeros(1))
    return teacher.network


def prediction_panel(scene: Scene, sample: Sample, title: str, meta: Mapping[str, Any]) -> Panel:
    """Return a picture with its predicted classes or objects."""
    if 'pred_sem_seg' in sample:
        right = pixel_accuracy(sample)
        caption = title if right is None else f'{title}: {right:.1%} of the labelled pixels right'
        return panel(draw(scene.image, sample, meta, 'pred'), caption, f'{caption}, in {scene.name}')
    if 'pred_instances' not in sample:
        raise Missing(f'No predictions of {title}: it predicts neither classes of pixels nor boxes.')
    instances = sample.pred_instances
    kind = 'masks' if 'masks' in instances else 'boxes'
    caption = f'{title}: {int((instances.scores >= CONFIDENT).sum())} {kind}'
    image = draw(scene.image, sample, meta, 'pred', CONFIDENT)
    return panel(image, caption, f'{caption}, in {scene.name}')


def truth_panel(scene: Scene, meta: Mapping[str, Any]) -> Panel | None:
    """Return a picture with its true classes or objects; ``None`` if the pipeline loads none."""
    sample = scene.item['data_samples']
    if 'gt_sem_seg' in sample and 'gt_instances' not in sample:
        return panel(draw(scene.image, sample, meta, 'gt'), 'truth', f'Truth of {scene.name}')
    if not len(getattr(sample, 'gt_instances', ())):
        return None
    instances = sample.gt_instances
    caption = f'truth: {len(instances)} {"masks" if "masks" in instances else "boxes"}'
    return panel(draw(scene.image, sample, meta, 'gt'), caption, f'{caption}, in {scene.name}')


def pixel_accuracy(sample: Sample) -> float | None:
    """Return the share of the labelled pixels with the right class; ``None`` without labels of this size."""
    predicted, truth = sample.pred_sem_seg.data.cpu(), sample.gt_sem_seg.data.cpu() if 'gt_sem_seg' in sample else None
    if truth is None or truth.shape != predicted.shape or not (truth != IGNORED).any():
        return None
    return float((predicted == truth)[truth != IGNORED].float().mean())
