"""Predictions of teacher and student on the same pictures, side by side."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor

from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.networks.modes import evaluating
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.random_streams import fork_rng

LONGEST = 512  # side of a picture in a panel
MIN_SCORE = 0.3  # of a box that is drawn
_HEADS = ('decode_head', 'bbox_head', 'roi_head', 'panoptic_head')
_CAPTION = 18
_RED = (220, 40, 40)


class Pictures:
    """Draw the predictions of a student and its teachers on a fixed set of pictures.

    Segmentation: the picture, the teachers', the student's, and where the student differs from the first teacher.
    Detection: the picture, the teachers' boxes, the student's. A teacher is shown if it predicts the student's classes
    and its file held all of its weights, heads included.

    Args:
        model: A ``DistillModel``; it is left as it was.
        items: What a data set with a test pipeline gives: ``inputs`` (3, H, W) BGR and ``data_samples``.
        metainfo: Of that data set: ``classes`` and ``palette``, if it has them.
    """

    def __init__(self, model: Distilled, items: Sequence[Mapping[str, Any]], metainfo: Mapping[str, Any]) -> None:
        self.model, self.items = model, list(items)
        self.names = list(metainfo.get('classes') or [])
        given = metainfo.get('palette') or []
        self.palette = palette_of(given, len(self.names or given) or 256)
        self._taught: list[dict[str, Any]] = []  # the teachers do not change

    @classmethod
    def of(cls, runner: Runner, model: Distilled, count: int) -> Pictures | None:
        """Choose evenly spaced pictures of a run's validation set; log why and return ``None`` if it has none."""
        if not runner.cfg.get('val_dataloader') or not any(hasattr(model, head) for head in _HEADS):
            runner.logger.warning('MonitorHook: no pictures: they need a val_dataloader and a head that predicts.')
            return None
        dataset = runner.val_dataloader.dataset
        with fork_rng():
            items = [dataset[index] for index in evenly_spaced(len(dataset), count)]
        return cls(model, items, getattr(dataset, 'metainfo', None) or {})

    @torch.no_grad()
    def draw(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield for each picture a name and the RGB panel (H, W, 3) uint8."""
        for number, item in enumerate(self.items):
            with fork_rng(), evaluating(self.model):
                batch = dict(inputs=[item['inputs']], data_samples=[copy.deepcopy(item['data_samples'])])
                data = self.model.data_preprocessor(batch, False)
                if len(self._taught) <= number:
                    self._taught.append({name: _taught(t, data) for name, t in self._teachers().items()})
                student = _predict(self.model, data['inputs'], data)
            picture = _shrunk(_shown(item['inputs']))
            panels = self._panels(picture, {**self._taught[number], 'student': student}, item['inputs'].shape[1:])
            yield f'monitor_picture_{number}', _beside({'picture': picture, **panels})

    def _teachers(self) -> dict[str, FrozenTeacher]:
        several = self.model.distillation.teachers
        shown = {str(name): teacher for name, teacher in several.items() if _predicts(teacher)}
        return shown if len(several) > 1 else dict(zip(['teacher'], shown.values(), strict=False))

    def _panels(self, picture: np.ndarray, predicted: Mapping[str, Any], shape: Sequence[int]) -> dict[str, np.ndarray]:
        if 'pred_instances' in predicted['student']:
            scale = picture.shape[0] / shape[0], picture.shape[1] / shape[1]
            return {name: self._boxes(picture, found.pred_instances, scale) for name, found in predicted.items()}
        size = picture.shape[1::-1]
        labels = {name: _labels(found.pred_sem_seg.data[0], size) for name, found in predicted.items()}
        panels = {name: _blend(picture, self.palette[found % len(self.palette)]) for name, found in labels.items()}
        if len(labels) > 1:
            differs = labels['student'] != next(iter(labels.values()))
            grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
            panels[f'differ: {differs.mean():.1%}'] = np.where(differs[..., None], _RED, grey).astype(np.uint8)
        return panels

    def _boxes(self, picture: np.ndarray, found: InstanceData, scale: tuple[float, float]) -> np.ndarray:
        drawn = picture.copy()
        boxes = getattr(found.bboxes, 'tensor', found.bboxes)
        for box, label, score in zip(boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
            if score < MIN_SCORE:
                continue
            x1, y1, x2, y2 = (round(v * scale[1 - i % 2]) for i, v in enumerate(box))
            colour = tuple(int(c) for c in self.palette[label % len(self.palette)])
            cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, 2)
            name = self.names[label] if label < len(self.names) else str(label)
            cv2.putText(drawn, f'{name} {score:.2f}', (x1, max(y1 - 3, 10)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1)
        return drawn


def _predicts(teacher: FrozenTeacher) -> bool:
    whole = teacher.receipt is not None and teacher.receipt.matched == teacher.receipt.total
    return whole and hasattr(teacher.network, 'predict') and not teacher.option.allow_other_classes


def _taught(teacher: FrozenTeacher, data: Mapping[str, Any]) -> Any:
    with teacher.option.acceleration.running(teacher.renormalised(data['inputs'])) as inputs:
        return _predict(teacher.network, inputs, data)


def _predict(network: Any, inputs: Tensor | Sequence[Tensor], data: Mapping[str, Any]) -> Any:
    """Return the prediction for a batch of one: boxes in pixels of ``inputs``, labels at the size of the file."""
    options = {'rescale': False} if 'rescale' in inspect.signature(network.predict).parameters else {}
    return network.predict(inputs, copy.deepcopy(data['data_samples']), **options)[0].cpu()


def _labels(labels: Tensor, size: Sequence[int]) -> np.ndarray:
    return cv2.resize(labels.numpy().astype(np.int32).astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(
        int
    )


def _shown(inputs: Tensor) -> np.ndarray:
    """Return an input as RGB (H, W, 3) uint8, even if the pipeline reads floats."""
    picture = inputs.numpy().transpose(1, 2, 0)[..., ::-1]
    return np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))


def _shrunk(picture: np.ndarray) -> np.ndarray:
    factor = min(1.0, LONGEST / max(picture.shape[:2]))
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture


def _blend(picture: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return cv2.addWeighted(picture, 0.4, colours, 0.6, 0)


def _beside(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Put panels of one height next to each other, each under its name."""
    columns = []
    for name, panel in panels.items():
        caption = np.full((_CAPTION, panel.shape[1], 3), 255, np.uint8)
        cv2.putText(caption, name, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([caption, panel]))
    return np.ascontiguousarray(np.concatenate(columns, axis=1))
