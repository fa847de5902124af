"""The sections that run networks: predictions side by side, and disagreement with the teacher."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmdistill_dense.apps.inspect.drawing import (
    CONFIDENT,
    TEACHER_RIGHT,
    TEACHER_WRONG,
    classes_at,
    differing,
    image_of,
    painted,
    with_objects,
)
from mmdistill_dense.apps.inspect.step_cost import gflops_of
from mmdistill_dense.apps.report.runs import Comparison, TrainedRun
from mmdistill_dense.apps.report.section import SIDE, Item, Key, Missing, Panel, Section, Table, Viewer, panel
from mmdistill_dense.config.resolve import ModelConfig, is_distill_model, load_model, student_option
from mmdistill_dense.networks.building import build_network
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.runner_internals import AUXILIARY, IGNORED, Network, Sample, parameters_in_use
from mmdistill_dense.weights.strict_load import load_strictly, read_checkpoint, state_dict_of


@dataclass(frozen=True)
class Scene:
    name: str  # the stem of its file
    image: np.ndarray  # uint8 (H, W, 3), RGB, in the size of predictions
    item: dict[str, Any]  # the output of the pipeline


@dataclass(frozen=True)
class Scenes:
    """Some validation pictures, with the names and colours (K, 3) of their classes."""

    pictures: tuple[Scene, ...]
    classes: tuple[str, ...]
    palette: np.ndarray


def scenes_of(run: TrainedRun, count: int) -> Scenes:
    """Return evenly spaced pictures of a run's validation set, always the same."""
    loader = run.config.get('val_dataloader') or run.config.get('test_dataloader')
    if loader is None:
        raise Missing('No predictions: the config has neither val_dataloader nor test_dataloader.')
    with DefaultScope.overwrite_default_scope(run.config.get('default_scope', 'mmengine')):
        dataset = DATASETS.build(loader.dataset)
        items = [(index, dataset[index]) for index in evenly_spaced(len(dataset), count)]
    meta = dataset.metainfo
    classes = tuple(meta.get('classes') or ())
    pictures = tuple(Scene(_name(item, index), _image(item), item) for index, item in items)
    return Scenes(pictures, classes, palette_of(meta.get('palette'), len(classes)))


def student_of(run: TrainedRun) -> Network:
    """Return the plain student of a run with the weights of its last checkpoint, in eval mode."""
    path = run.checkpoint
    if path is None:
        raise Missing(f'No predictions of {run.title}: {run.folder} holds no checkpoint.')
    scope = run.config.get('default_scope', 'mmengine')
    init_default_scope(scope)
    if is_distill_model(run.model):
        option = load_model(student_option(run.model), 'model.student')
    else:
        option = ModelConfig(copy.deepcopy(run.config.model), scope, None)
    network = build_network(option, pretrained=False)
    load_strictly(network, state_dict_of(read_checkpoint(path), path), None, f'checkpoint={str(path)!r}')
    return _ready(network, run.title)


def teacher_of(run: TrainedRun, name: str) -> Network:
    """Return a teacher of a run, by its key under ``model``, with its weights."""
    option = TeacherOption.parse(copy.deepcopy(run.teachers[name]), f'model.{name}')
    if option.other_classes:
        raise Missing(
            f'No predictions of {name}: model.{name} sets allow_other_classes or classes, so its classes need not be '
            'those of the validation pictures.'
        )
    init_default_scope(run.config.get('default_scope', 'mmengine'))
    teacher = FrozenTeacher(option)
    teacher.load(torch.zeros(1))
    return _ready(teacher.network, name)


@torch.no_grad()
def predict(network: Network, pictures: Sequence[Scene]) -> list[Sample]:
    samples: list[Sample] = []
    for picture in pictures:
        batch = {'inputs': [picture.item['inputs']], 'data_samples': [copy.deepcopy(picture.item['data_samples'])]}
        samples += network.test_step(batch)
    return samples


@dataclass(frozen=True)
class Use:
    parameters: int
    megabytes: float  # of its weights; neither counts auxiliary heads, which only train
    gflops: float | None  # of the first picture; None where mmengine cannot count them
    milliseconds: float  # of a picture, the median; batch 1, on the CPU


def use_of(network: Network, pictures: Sequence[Scene]) -> Use:
    """Measure a network that has predicted the pictures before, so that it is warm."""
    seconds = []
    for picture in pictures[:_TIMED]:
        began = time.perf_counter()
        predict(network, [picture])
        seconds.append(time.perf_counter() - began)
    item = copy.deepcopy(pictures[0].item)
    batch = network.data_preprocessor({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}, False)
    try:
        gflops = gflops_of(network, batch)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # it cannot be traced
        gflops = None
    state = [value for name, value in network.state_dict().items() if not name.startswith(AUXILIARY)]
    size = sum(value.numel() * value.element_size() for value in state)
    return Use(parameters_in_use(network), size / 2**20, gflops, 1000 * median(seconds))


_TIMED = 3  # pictures


def _ready(network: nn.Module | None, title: str) -> Network:
    if not hasattr(network, 'test_step') or not any(hasattr(network, head) for head in _HEADS):
        raise Missing(f'No predictions of {title}: {type(network).__name__} has no head that segments or detects.')
    ready: Network = revert_sync_batchnorm(network)
    ready.eval()  # not chained: mmseg's backbones return nothing from it
    return ready


_HEADS = ('decode_head', 'bbox_head', 'roi_head')


def _image(item: dict[str, Any]) -> np.ndarray:
    image = image_of(item['inputs'])
    height, width = item['data_samples'].metainfo.get('ori_shape', image.shape)[:2]
    return image if image.shape[:2] == (height, width) else cv2.resize(image, (width, height))


def _name(item: dict[str, Any], index: int) -> str:
    return Path(item['data_samples'].metainfo.get('img_path') or '').stem or f'picture {index}'


_NAMED = 3  # classes in the description of a picture


def prediction_panel(scenes: Scenes, scene: Scene, sample: Sample, title: str) -> Panel:
    """Return a picture with its predicted classes or objects."""
    if 'pred_sem_seg' in sample:
        predicted = labels_of(sample)
        right = share_right(predicted, truth_of(sample, predicted.shape))
        said = '' if right is None else f': {right:.1%} of the labelled pixels right'
        image = painted(scene.image, predicted, scenes.palette)
        return panel(image, title + said, _alt(title, predicted, scenes, scene))
    if 'pred_instances' not in sample:
        raise Missing(f'No predictions of {title}: it predicts neither classes of pixels nor boxes.')
    found = sample.pred_instances
    found = found[found.scores > CONFIDENT]
    kind = _kind(found)
    caption = f'{title}: {len(found)} {kind} with a score above {CONFIDENT}'
    return _boxes_panel(scenes, scene, found, caption, f'{kind.capitalize()} of {title} in {scene.name}')


def truth_panel(scenes: Scenes, scene: Scene) -> Panel | None:
    """Return a picture with its true classes or objects; ``None`` if the pipeline loads none."""
    sample = scene.item['data_samples']
    truth = truth_of(sample, scene.image.shape[:2])
    if truth is not None:
        return panel(painted(scene.image, truth, scenes.palette), 'truth', _alt('truth', truth, scenes, scene))
    if len(getattr(sample, 'gt_instances', ())):
        found = sample.gt_instances
        kind = _kind(found)
        return _boxes_panel(scenes, scene, found, f'truth: {len(found)} {kind}', f'True {kind} in {scene.name}')
    return None


def _kind(found: InstanceData) -> str:
    return 'masks' if 'masks' in found else 'boxes'


def disagreement_panel(
    scene: Scene, own: np.ndarray, teacher: np.ndarray, truth: np.ndarray | None, title: str
) -> Panel:
    """Return the picture in grey, with the pixels in colour where student and teacher differ."""
    differs = own != teacher
    right = differs & (teacher == truth) if truth is not None else np.zeros_like(differs)
    caption = f'{title}: {differs.mean():.1%} differ'
    said = f', the teacher being right at {right.mean():.1%}' if truth is not None else ''
    image = differing(scene.image, differs, right)
    return panel(image, caption, f'Where {title} and the teacher differ in {scene.name}: {differs.mean():.1%}{said}')


def labels_of(sample: Sample) -> np.ndarray:
    return sample.pred_sem_seg.data.squeeze(0).cpu().numpy()


def truth_of(sample: Sample, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the true class of each pixel at a size (H, W); ``None`` if a sample has none."""
    return classes_at(sample.gt_sem_seg, shape) if 'gt_sem_seg' in sample else None


def share_right(predicted: np.ndarray, truth: np.ndarray | None) -> float | None:
    """Return the share of the labelled pixels with the right class."""
    if truth is None or not (truth != IGNORED).any():
        return None
    return float((predicted == truth)[truth != IGNORED].mean())


def _alt(title: str, labels: np.ndarray, scenes: Scenes, scene: Scene) -> str:
    known = labels[labels < len(scenes.classes)]
    shares = Counter(
        {name: float((known == place).mean()) for place, name in enumerate(scenes.classes)} if known.size else {}
    )
    named = ', '.join(f'{name} {share:.0%}' for name, share in shares.most_common(_NAMED))
    return f'Classes of {title} in {scene.name}: {named}'


def _boxes_panel(scenes: Scenes, scene: Scene, found: InstanceData, caption: str, alt: str) -> Panel:
    labels = found.labels.tolist()
    names = Counter(scenes.classes[label] if label < len(scenes.classes) else f'class {label}' for label in labels)
    counted = ', '.join(f'{count} {name}' for name, count in names.most_common(_NAMED))
    return panel(with_objects(scene.image, found, scenes.palette, SIDE), caption, f'{alt}: {counted or "none"}')


_MOST_KEYS = 30


class Predictions:
    """Predictions of each method's first run and of the teacher, for ``count`` pictures; 0 runs no network."""

    def __init__(self, comparison: Comparison, count: int) -> None:
        self.comparison = comparison
        self.controls = {run.name for run in comparison.controls}
        self.samples: dict[str, list[Sample]] = {}
        self.uses: dict[str, Use] = {}
        self.teachers: list[str] = []
        self.section = Section(
            'predictions',
            'Predictions',
            'Two predictions lie over each other: move the boundary with the slider or on the picture. Each small '
            'picture is a button that puts its prediction on the right.',
        )
        self.scenes = Scenes((), (), np.zeros((0, 3)))
        if count:
            self.section.attempt(partial(self._load, count))
        else:
            self.section.reasons.append('Pictures were switched off (--pictures 0).')

    def _load(self, count: int) -> None:
        shown = self.comparison.shown
        if not shown:
            raise Missing('No predictions: no run holds a checkpoint.')
        self.scenes = scenes_of(shown[0], count)
        for run in shown:
            self.section.attempt(partial(self._add, run.name, partial(student_of, run)))
        # the teacher that a control names may not exist
        teaching = sorted(shown, key=lambda run: (not run.teachers, not run.distillers))[0]
        if not teaching.teachers:
            self.section.reasons.append('No predictions of a teacher: the config has none.')
        for name in teaching.teachers:
            self.section.attempt(partial(self._add, name, partial(teacher_of, teaching, name)))
        self.teachers = [name for name in teaching.teachers if name in self.samples]

    def _add(self, name: str, load: Callable[[], Network]) -> None:
        network = load()
        self.samples[name] = predict(network, self.scenes.pictures)
        self.uses[name] = use_of(network, self.scenes.pictures)

    # Side by side

    def side_by_side(self) -> Section:
        """Return a viewer for each picture: input, students, teacher, truth."""
        if self.samples:
            for place in range(len(self.scenes.pictures)):
                self.section.attempt(partial(self._viewer, place))
            if self.section.items:
                known = zip(self.scenes.palette.tolist(), self.scenes.classes, strict=False)
                self.section.legend = [Key(_css(colour), name) for colour, name in known][:_MOST_KEYS]
        return self.section

    def _viewer(self, place: int) -> Viewer:
        scene = self.scenes.pictures[place]
        panels = [panel(scene.image, 'input', f'The picture {scene.name}')]
        for name, samples in self.samples.items():
            panels.append(prediction_panel(self.scenes, scene, samples[place], name))
        truth = truth_panel(self.scenes, scene)
        panels += [truth] if truth else []
        last = len(panels) - 1
        return Viewer(scene.name, panels, min(1, last), min(2, last))  # the control follows the input

    # Disagreement

    def disagreement(self) -> Section:
        """Return maps of the pixels where a student and the teacher predict different classes."""
        section = Section(
            'disagreement',
            'Where student and teacher disagree',
            'Before is the control, after is each distilled student.',
        )
        section.attempt(self._maps)
        if section.items:
            section.legend = [
                Key(_css(TEACHER_RIGHT), 'they differ, the teacher is right'),
                Key(_css(TEACHER_WRONG), 'they differ, the teacher is not right or nobody knows'),
            ]
        return section

    def _maps(self) -> list[Item]:
        students = [name for name in self.samples if name not in self.teachers]
        if not self.teachers or not students:
            raise Missing('No map: predictions of a student or of the teacher are missing, see above.')
        if not all('pred_sem_seg' in self.samples[name][0] for name in (*students, self.teachers[0])):
            raise Missing('No map: these networks predict objects, not classes of pixels.')
        differing: dict[str, list[np.ndarray]] = {name: [] for name in students}
        viewers = []
        for place, scene in enumerate(self.scenes.pictures):
            teacher = labels_of(self.samples[self.teachers[0]][place])
            truth = truth_of(scene.item['data_samples'], teacher.shape)
            panels = []
            for name in students:
                own = labels_of(self.samples[name][place])
                differing[name].append(
                    np.stack([own != teacher, (own != teacher) & (False if truth is None else teacher == truth)])
                )
                panels.append(disagreement_panel(scene, own, teacher, truth, name))
            viewers.append(Viewer(scene.name, panels, 0, min(1, len(panels) - 1)))
        return [self._table(differing), *viewers]

    def _table(self, differing: dict[str, list[np.ndarray]]) -> Table:
        shares = {
            name: np.concatenate([one.reshape(2, -1) for one in maps], 1).mean(1) for name, maps in differing.items()
        }
        alone = next((shares[name] for name in shares if name in self.controls), None)
        rows = []
        for name, (differs, right) in shares.items():
            change = '' if alone is None or name in self.controls else f'{100 * (differs - alone[0]):+.1f} points'
            rows.append([name, f'{differs:.1%}', f'{right:.1%}', change])
        head = ['student', 'pixels that differ', 'with the teacher right', 'against the control']
        return Table('Disagreement with the teacher on the pictures below', head, rows)


def _css(colour: Sequence[int]) -> str:
    return f'rgb({colour[0]} {colour[1]} {colour[2]})'
