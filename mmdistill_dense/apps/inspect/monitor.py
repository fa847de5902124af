"""MonitorHook: log during a run what the distillation does to the student."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process, master_only
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmengine.visualization import MLflowVisBackend, Visualizer
from torch import Tensor, nn

from mmdistill_dense.apps.inspect.drawing import (
    CONFIDENT,
    classes_at,
    differing,
    grid,
    image_of,
    painted,
    shrunk,
    with_objects,
)
from mmdistill_dense.apps.inspect.gradients import BACKBONE, Term, pulls_of, tap_agreement
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine.loss_guard import loss_scale, no_single_gradients
from mmdistill_dense.losses.tensors import sum_dtype
from mmdistill_dense.model.balanced_step import TASK, backbone_parameters, split_terms
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.networks.modes import evaluating
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.colours import palette_of
from mmdistill_dense.utils.distributed import means_over_ranks, unwrap
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.measuring_hook import MeasuringHook, write_scalars
from mmdistill_dense.utils.reproducible import fork_rng

LONGEST = 512  # side of a picture in a panel
_HEADS = ('decode_head', 'bbox_head', 'roi_head', 'panoptic_head')


class Pictures:
    """Draws on some pictures what a student predicts, and the teachers of its classes that are loaded whole."""

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
            with evaluating(self.model):
                batch = dict(inputs=[item['inputs']], data_samples=[copy.deepcopy(item['data_samples'])])
                data = self.model.data_preprocessor(batch, False)
                if len(self._taught) <= number:
                    self._taught.append({name: _taught(t, data) for name, t in self._teachers().items()})
                student = _predict(self.model, data['inputs'], data)
            picture = image_of(item['inputs'])
            panels = self._panels(picture, {**self._taught[number], 'student': student})
            yield f'monitor_picture_{number}', grid([{'picture': shrunk(picture, LONGEST), **panels}])

    def _teachers(self) -> dict[str, FrozenTeacher]:
        several = self.model.distillation.teachers
        shown = {str(name): teacher for name, teacher in several.items() if _predicts(teacher)}
        return shown if len(several) > 1 else dict(zip(['teacher'], shown.values(), strict=False))

    def _panels(self, picture: np.ndarray, predicted: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if 'pred_instances' in predicted['student']:
            return {name: self._boxes(picture, found.pred_instances) for name, found in predicted.items()}
        picture = shrunk(picture, LONGEST)
        classes = {name: classes_at(found.pred_sem_seg, picture.shape) for name, found in predicted.items()}
        panels = {name: painted(picture, found, self.palette) for name, found in classes.items()}
        if len(classes) > 1:
            differs = classes['student'] != next(iter(classes.values()))
            panels[f'differ: {differs.mean():.1%}'] = differing(picture, differs)
        return panels

    def _boxes(self, picture: np.ndarray, found: InstanceData) -> np.ndarray:
        sure = found[found.scores > CONFIDENT]
        names = (self.names[label] if label < len(self.names) else str(label) for label in sure.labels.tolist())
        told = [f'{name} {score:.2f}' for name, score in zip(names, sure.scores.tolist(), strict=True)]
        return with_objects(picture, sure, self.palette, LONGEST, told)


def _predicts(teacher: FrozenTeacher) -> bool:
    whole = teacher.receipt is not None and teacher.receipt.matched == teacher.receipt.total
    return whole and hasattr(teacher.network, 'predict') and not teacher.option.other_classes


def _taught(teacher: FrozenTeacher, data: Mapping[str, Any]) -> Any:
    with teacher.option.acceleration.running(teacher.renormalised(data['inputs'])) as inputs:
        return _predict(teacher.network, inputs, data)


def _predict(network: Any, inputs: Tensor | Sequence[Tensor], data: Mapping[str, Any]) -> Any:
    """Return the prediction for a batch of one: boxes in pixels of ``inputs``, labels at the size of the file."""
    options = {'rescale': False} if 'rescale' in inspect.signature(network.predict).parameters else {}
    return network.predict(inputs, copy.deepcopy(data['data_samples']), **options)[0].cpu()


@HOOKS.register_module()
class MonitorHook(MeasuringHook):
    """Log at intervals what the distillers contribute to a step, and how far the student is from the teacher.

    The training is not affected: the hook reads the tensors of the step and takes further gradients of the same graph.
    The values go to the log, to the message hub and to every backend of the visualizer
    (``vis_data/scalars.json``, TensorBoard, W&B, MLflow), as means over the processes:

    - ``monitor/share.<term>``: part of the total loss, of the task and of each term of a distiller;
    - ``monitor/cosine.<distiller>.<tap>``: see :func:`mmdistill_dense.apps.inspect.gradients.tap_agreement`;
    - ``monitor/gradient_share.<term>``: the norm of the term's gradient at the backbone, over the sum of these norms;
    - ``monitor/gradient_cosine.<term>``: the cosine of that gradient with the task's.

    Terms and cosines of pictures without labels have names of their own: ``<distiller>.unlabelled_loss_…``,
    ``<distiller>.unlabelled.<tap>``.

    Cost of a measured step: some percent for shares and cosines; a backward pass per term, and two vectors as long as
    the backbone's parameters, for gradients; the predictions on these pictures for pictures.

    Example::

        custom_hooks = [dict(type='mmdistill_dense.MonitorHook', interval=50, picture_interval=1000)]

    Args:
        interval: Measure shares and cosines in every n-th iteration. Defaults to 50.
        gradient_interval: Measure the gradients in every n-th; 0 means never. Defaults to 500.
        picture_interval: Draw pictures after every n-th; 0, the default, means never.
        pictures: How many, evenly spaced over the validation set. Defaults to 2.

    Raises:
        ValueError: For an interval or a number out of range.
    """

    def __init__(
        self, interval: int = 50, gradient_interval: int = 500, picture_interval: int = 0, pictures: int = 2
    ) -> None:
        super().__init__()
        lowest = {'interval': 1, 'gradient_interval': 0, 'picture_interval': 0, 'pictures': 1}
        given = dict(zip(lowest, (interval, gradient_interval, picture_interval, pictures), strict=True))
        for name, value in given.items():
            if not isinstance(value, int) or value < lowest[name]:
                raise ValueError(f'MonitorHook: {name} must be an integer >= {lowest[name]}, got {value!r}.')
        self.interval, self.gradient_interval, self.picture_interval = interval, gradient_interval, picture_interval
        self.count = pictures
        self.pictures: Pictures | None = None
        self._model: Distilled | None = None  # only if it has distillers
        self._agreement: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the distillers, decide whether gradients can be measured, and choose pictures."""
        model: Any = unwrap(runner.model)
        if not hasattr(model, 'distillation'):
            runner.logger.info('MonitorHook: the model has no distillers, nothing is watched.')
            return
        self._model = model
        reason = no_single_gradients(runner, model)
        if self.gradient_interval and reason:
            self.gradient_interval = 0
            message = f'{reason}, so gradients of single losses cannot be taken; all else is measured.'
            runner.logger.warning(f'MonitorHook: {message}')
        if self.picture_interval and is_main_process():
            self.pictures = Pictures.of(runner, model, self.count)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Register the measuring hooks if this step is due."""
        self._remove()
        cheap = runner.iter % self.interval == 0
        dear = bool(self.gradient_interval) and runner.iter % self.gradient_interval == 0
        if self._model is None or not (cheap or dear):
            return
        self._handles.append(self._model.register_forward_hook(self._measuring(runner, dear)))
        for name, distiller in self._model.distillers.items() if cheap else ():
            self._handles.append(distiller.register_forward_pre_hook(self._comparing(name)))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the measured values and draw the pictures that are due."""
        self._end_step(runner)
        step = runner.iter + 1
        if self.pictures is not None and step % self.picture_interval == 0:
            write_scalars(runner, {}, step)  # W&B puts a picture at the last ``iter`` that it was given
            for name, picture in self.pictures.draw():
                _show(runner.visualizer, name, picture, step)

    def after_train(self, runner: Runner) -> None:
        """Release the model and the pictures."""
        self._remove()
        self._model = self.pictures = None

    def _comparing(self, name: str) -> Callable[..., None]:
        def compare(distiller: Distiller, recorded: tuple[Any, ...]) -> None:
            found = tap_agreement(distiller, *recorded)
            for key, value in found.items():
                kind, tap = key.split('.', 1)
                part = f'{distiller.state.part}.' if distiller.state.part else ''
                self._agreement[f'{kind}.{name}.{part}{tap}'] = value

        return compare

    def _measuring(self, runner: Runner, with_gradients: bool) -> Callable[..., None]:
        def measure(model: nn.Module, _: Any, losses: Any) -> None:
            if not isinstance(losses, Mapping):
                return
            if with_gradients:
                with torch.autocast(next(model.parameters()).device.type, enabled=False):
                    terms = pulls_of(losses, {BACKBONE: backbone_parameters(model)}, loss_scale(runner))
                self._found |= _of_gradients(terms)
            self._found |= means_over_ranks({**_shares(losses), **self._agreement})
            self._agreement = {}

        return measure

    def _remove(self) -> None:
        super()._remove()
        self._agreement = {}


def _shares(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    values = {name: term.detach().to(sum_dtype(term)) for name, term in split_terms(losses).items()}
    total = torch.stack(list(values.values())).sum() if values else torch.ones(())
    return {f'share.{_short(name)}': value / total for name, value in values.items()}


def _of_gradients(terms: list[Term]) -> dict[str, float]:
    found = {}
    for term in terms:
        pull = term.pulls[BACKBONE]
        found[f'gradient_share.{_short(term.name)}'] = pull.share
        if term.name != TASK:
            found[f'gradient_cosine.{_short(term.name)}'] = pull.cosine
    return found


def _short(term: str) -> str:
    return term.removeprefix('distill.')


@master_only
def _show(visualizer: Visualizer, name: str, picture: np.ndarray, step: int) -> None:
    for backend in visualizer._vis_backends.values():
        # MLflow writes a file, whose name mmengine leaves without an ending and without the step (mmengine #1681)
        mlflow = isinstance(backend, MLflowVisBackend)
        backend.add_image(f'{name}_{step}.png' if mlflow else name, picture, step)
