"""The sections that run networks: predictions and the truth side by side, and the masks of learned tokens."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope

from mmdistill_dense.apps.export.write_student import load_student
from mmdistill_dense.apps.inspect.drawing import CONFIDENT, draw, image_of
from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.apps.inspect.token_masks import draw_mask, masks_of_sample
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun, starts_of
from mmdistill_dense.apps.report.section import Panel, Section, Sheet, Strip, gain_sheet, panel
from mmdistill_dense.apps.suite.definition import TEACHER
from mmdistill_dense.config.values import pipeline_of, tested_set, type_name
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.registry import DATASETS, DISTILLERS, MODELS, kind_of
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.runner_internals import IGNORED, Network, Sample, parameters_in_use
from mmdistill_dense.utils.sampling import evenly, evenly_spaced
from mmdistill_dense.weights.strict_load import read_checkpoint

PICTURES = 6
CANDIDATES = 24  # pictures among which they are chosen
CHOOSING_SECONDS = 20.0  # of each of two networks, on a slow machine with fewer candidates


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
    """Predictions of each method's first run and of the teacher, for ``count`` pictures; 0 runs no network.

    The pictures are those on which the student alone and the ``best`` method differ most, and on which the latter errs
    most, among some that are spread over the set; all of them where there is no such pair. ``data`` is a config with
    the test set, where the runs' own may name a folder that was moved.
    """

    def __init__(self, comparison: Comparison, count: int, best: str | None = None, data: Config | None = None) -> None:
        self.costs: dict[str, NetworkCost] = {}
        self.samples: dict[str, dict[int, Sample]] = {}  # by network and number of the picture
        self._times: dict[str, float] = {}
        self.section = Section('predictions', 'Predictions', f'Boxes and masks have a score above {CONFIDENT}.')
        if count:
            self.section.attempt(partial(self._strips, comparison, count, best, data))
        else:
            self.section.reasons.append('Pictures were switched off (--pictures 0).')

    def _strips(self, comparison: Comparison, count: int, best: str | None, data: Config | None) -> list[Strip | Sheet]:
        """Return for each picture its panels: input, students, teacher, truth; and the gain of each class of pixels."""
        first_runs = comparison.first_runs
        if not first_runs:
            raise ValueError('No predictions: no run holds a checkpoint.')
        alone = [run.name for run in first_runs if run in comparison.controls]
        taught = [run.name for run in first_runs if run not in comparison.controls and best in (None, run.name)]
        pair = [alone[0], taught[0]] if alone and taught else []
        # the newest run of a suite knows the folders of data and teacher, where its project was moved
        by_start = sorted(comparison.students, key=lambda run: starts_of(run.folder)[-1].name, reverse=True)
        runs = [*(run for run in by_start if run.suite and run.suite == first_runs[0].suite), *first_runs]
        scenes, meta = scenes_of(data or runs[0].config, max(count, CANDIDATES) if pair else count)
        networks = {run.name: partial(student_of, run) for run in first_runs} | self._teachers(runs)
        numbers = list(range(len(scenes)))
        for name in pair:
            self.section.attempt(partial(self._predict, name, networks[name], scenes, numbers, count))
            numbers = list(self.samples.get(name, numbers))  # as many as the time allowed
        predicted = [self.samples[name] for name in pair if name in self.samples]
        if len(predicted) == 2:
            shown = choose_pictures(predicted[0], predicted[1], count)
            choice = f'on which {" and ".join(pair)} differ most, and the latter errs most.'
            self.section.note = f'Of {len(numbers)} pictures those {choice} {self.section.note}'
        else:
            shown = evenly(numbers, count)
        for name in [name for name in networks if name not in self.samples]:
            self.section.attempt(partial(self._predict, name, networks[name], scenes, shown, len(shown)))
        colours = zip(meta['palette'] or (), meta['classes'] or (), strict=False)
        self.section.legend = [(f'background: rgb{colour}'.replace(',', ''), name) for colour, name in colours][:30]
        names = [name for name in networks if name in self.samples]
        strips = list[Strip | Sheet]()
        for number, scene in ((number, scenes[number]) for number in shown if names):
            panels = [panel(scene.image, 'input', f'The picture {scene.name}')]
            panels += [labelled_panel(scene, self.samples[name][number], name, meta) for name in names]
            truth = scene.item['data_samples']
            if len(truth.gt_instances) if 'gt_instances' in truth else 'gt_sem_seg' in truth:
                panels.append(labelled_panel(scene, truth, 'truth', meta, 'gt'))
            strips.append(Strip(scene.name, panels))
        sheet = class_sheet(dict(zip(pair, predicted, strict=True)), meta) if len(predicted) == 2 else None
        return [*strips, *([sheet] if sheet else [])]

    def _teachers(self, runs: Sequence[TrainedRun]) -> dict[str, Callable[[], Any]]:
        """Return what loads each teacher; note why there is none."""
        # the teacher that a control names may not exist
        run = sorted(runs, key=lambda run: (not run.teachers, not run.distillers))[0]
        configs = {str([option.get('cfg') for option in run.teachers.values()]) for run in runs if run.distillers}
        teachers = run.teachers if len(configs - {'[]'}) < 2 else {}
        if not teachers:
            cause = 'the runs have several' if run.teachers else 'the config has none'
            self.section.reasons.append(f'No predictions of a teacher: {cause}.')
        return {name: partial(teacher_of, run, name) for name in teachers}

    def _predict(
        self, name: str, load: Callable[[], Any], scenes: Sequence[Scene], numbers: Sequence[int], least: int
    ) -> None:
        """Predict pictures of these numbers: ``least`` of them, and more as long as there is time."""
        network = load()
        has_head = any(hasattr(network, head) for head in ('decode_head', 'bbox_head', 'roi_head'))
        if not has_head or not hasattr(network, 'test_step'):
            kind = type(network).__name__
            raise ValueError(f'No predictions of {name}: {kind} has no head that segments or detects.')
        network = revert_sync_batchnorm(network)
        network.eval()  # not chained: mmseg's backbones return nothing from it
        samples, seconds, begin = dict[int, Sample](), list[float](), time.monotonic()
        for number in numbers:
            if len(samples) >= least and time.monotonic() - begin > CHOOSING_SECONDS:
                break
            if not samples:
                predict_items(network, [scenes[number].item])  # warms up
            (samples[number],), passed = predict_items(network, [scenes[number].item])
            if 'pred_sem_seg' not in samples[number] and 'pred_instances' not in samples[number]:
                raise ValueError(f'No predictions of {name}: it predicts neither classes of pixels nor boxes.')
            seconds.append(passed)
        predicted, true = (
            {label for sample in samples.values() if key in sample for label in sample.get(key).data.unique().tolist()}
            for key in ('pred_sem_seg', 'gt_sem_seg')
        )
        # networks that differ in weights alone take one time
        kind = repr((network, getattr(network, 'test_cfg', None)))
        milliseconds = self._times.setdefault(kind, 1000 * median(seconds))
        one_class = len(predicted) == 1 < len(true - {IGNORED})
        self.costs[name], self.samples[name] = NetworkCost(parameters_in_use(network), milliseconds, one_class), samples


def choose_pictures(controls: Mapping[int, Sample], students: Mapping[int, Sample], count: int) -> list[int]:
    """Return the numbers of pictures: half those on which two networks differ most, then those with most errors."""
    by_difference = sorted(students, key=lambda number: -difference(controls[number], students[number]))
    by_error = sorted(students, key=lambda number: -difference(students[number], None))
    return list(dict.fromkeys([*by_difference[: -(-count // 2)], *by_error]))[:count]


def difference(sample: Sample, other: Sample | None) -> float:
    """Return the share of pixels, or of confident boxes, that differ from another prediction, or from the truth."""
    if 'pred_sem_seg' in sample:
        accuracy = pixel_accuracy(sample, other)
        return 0.0 if accuracy is None else 1 - accuracy
    both: Any = (sample.pred_instances, getattr(sample, 'gt_instances', ()) if other is None else other.pred_instances)
    boxes, others = (part[part.scores >= CONFIDENT] if 'scores' in part else part for part in both)
    if not len(boxes) or not len(others):
        return float(len(boxes) != len(others))
    corners = [torch.as_tensor(getattr(part.bboxes, 'tensor', part.bboxes)).cpu().float() for part in (boxes, others)]
    from mmdet.structures.bbox import bbox_overlaps  # there where boxes are

    equal = (bbox_overlaps(*corners) > 0.5) & (boxes.labels.cpu()[:, None] == others.labels.cpu())  # (N, M)
    return 1 - float(equal.any(1).sum() + equal.any(0).sum()) / sum(equal.shape)


def pixel_accuracy(sample: Sample, other: Sample | None = None) -> float | None:
    """Return the share of pixels with the class of another prediction, or of the labelled ones with the true class.

    ``None`` without labels of this size.
    """
    predicted, reference = sample.pred_sem_seg, sample.get('gt_sem_seg') if other is None else other.pred_sem_seg
    if reference is None or reference.shape != predicted.shape or not (reference.data != IGNORED).any():
        return None
    return float((predicted.data == reference.data)[reference.data != IGNORED].float().mean())


def class_sheet(samples: Mapping[str, Mapping[int, Sample]], meta: Mapping[str, Any]) -> Sheet | None:
    """Return the IoU of each class of pixels by two networks, on the pictures that both saw; ``None`` for boxes."""
    (_, controls), (_, students) = samples.items()
    pictures = [number for number in students if number in controls and 'pred_sem_seg' in students[number]]
    numbers = [number for number in pictures if pixel_accuracy(students[number]) is not None]
    if not numbers or not meta['classes']:
        return None
    from mmseg.evaluation import IoUMetric

    ious = list[list[float]]()  # in percent; NaN for a class that the truth lacks
    for predicted in samples.values():
        pairs = ((predicted[number].pred_sem_seg.data, predicted[number].gt_sem_seg.data) for number in numbers)
        areas = [IoUMetric.intersect_and_union(*pair, len(meta['classes']), IGNORED) for pair in pairs]
        both, union, _, true = (torch.stack(area).sum(0) for area in zip(*areas, strict=True))
        ious.append(torch.where(true > 0, 100 * both / union, math.nan).tolist())
    scores = zip(meta['classes'], *ious, strict=True)
    return gain_sheet(f'IoU of each class on {len(numbers)} pictures', list(samples), scores)


def scenes_of(config: Config, count: int) -> tuple[list[Scene], dict[str, Any]]:
    """Return evenly spaced pictures of a test set, always the same, and names and colours of its classes."""
    scenes, option = [], tested_set(config)
    pads = any(type_name(step).endswith('Pad') for step in pipeline_of(option))
    with DefaultScope.overwrite_default_scope(config.get('default_scope') or 'mmengine'):
        dataset = DATASETS.build(option)
        for index in evenly_spaced(len(dataset), count):
            item = dataset[index]
            image, meta = image_of(item['inputs']), item['data_samples'].metainfo
            height, width = meta.get('ori_shape', image.shape)[:2]
            if pads and 'scale_factor' in meta:  # without what was added
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
    trained = (run.suite or run.folder) / TEACHER / Path(option.checkpoint or '').name
    if trained.is_file():  # by the suite, which may have been moved since
        option = replace(option, checkpoint=str(trained))
    if option.other_classes:
        reason = 'so its classes need not be those of the validation pictures'
        raise ValueError(f'No predictions of {name}: model.{name} sets allow_other_classes or classes, {reason}.')
    init_default_scope(run.config.get('default_scope') or 'mmengine')
    teacher = FrozenTeacher(option)
    teacher.load(torch.zeros(1))
    return teacher.network


def labelled_panel(scene: Scene, sample: Sample, title: str, meta: Mapping[str, Any], which: str = 'pred') -> Panel:
    """Return a picture with its predicted or true (``'gt'``) classes or objects."""
    objects, least = getattr(sample, f'{which}_instances', None), CONFIDENT if which == 'pred' else 0.0
    if objects is not None:
        shown = objects[objects.scores >= least] if 'scores' in objects else objects
        title += f': {len(shown)} {"masks" if "masks" in objects else "boxes"}'
    elif which == 'pred' and (right := pixel_accuracy(sample)) is not None:
        title += f': {right:.1%} of the labelled pixels right'
    return panel(draw(scene.image, sample, meta, which, least), title, f'{title}, in {scene.name}')


def token_section(comparison: Comparison, data: Config | None = None) -> Section:
    """Return the masks of each method that has tokens, over the first picture of the test set; perhaps without any."""
    note = 'Each token in a column, each map of the teacher in a row; yellow is a mask of 1, violet of 0.'
    section = Section('tokens', 'Masks of the tokens', note)
    for run in comparison.first_runs:
        kinds = (kind_of(DISTILLERS, option) for option in run.distillers.values())
        if any(isinstance(kind, type) and issubclass(kind, TokenDistiller) for kind in kinds):
            section.attempt(partial(_token_strips, run, data or run.config))
    return section


def _token_strips(run: TrainedRun, data: Config) -> list[Strip]:
    """Return a strip for each map: the picture, and the mask of each token over it."""
    with DefaultScope.overwrite_default_scope(run.config.get('default_scope') or 'mmengine'):
        model: Any = MODELS.build(ConfigDict(run.model))
    assert run.checkpoint is not None, 'a first run has one'
    state = read_checkpoint(run.checkpoint).get('distillers')
    if state is None:
        problem = 'its checkpoint holds the student alone (keep: weights of its suite)'
        raise ValueError(f'No masks of {run.title}: {problem}.')
    model.distillers.load_state_dict(state, strict=False)
    model.eval()  # not chained: mmseg's backbones return nothing from it
    (scene, *_), _ = scenes_of(data, 1)
    picture, strips = image_of(scene.item['inputs']), list[Strip]()
    for name, distiller in model.distillers.items():
        if not isinstance(distiller, TokenDistiller):
            continue
        assert distiller.teacher is not None, 'the model sets it'
        distiller.teacher.load(next(model.parameters()))
        for title, masks in masks_of_sample(model, distiller, scene.item):
            panels = [panel(picture, 'input', f'The picture {scene.name}')]
            for number, mask in enumerate(masks):
                panels.append(panel(draw_mask(picture, mask), f'token {number}', f'Mask of token {number} at {title}'))
            strips.append(Strip(f'{run.name}, {name}: {title}', panels))
    return strips
