"""MonitorHook: log during a run what the distillation does to the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import MLflowVisBackend, Visualizer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmdistill_dense.analysis.agreement import tap_agreement
from mmdistill_dense.analysis.gradients import BACKBONE, Term, pulls_of
from mmdistill_dense.analysis.monitor_pictures import Pictures
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine.single_gradients import loss_scale, no_single_gradients
from mmdistill_dense.losses.precision import sum_dtype
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.term_gradients import TASK, backbone_parameters, split_terms
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.distributed import mean_over_ranks, unwrap
from mmdistill_dense.utils.tracked import write_monitored, write_scalars


@HOOKS.register_module()
class MonitorHook(Hook):
    """Log at intervals what the distillers contribute to a step, and how far the student is from the teacher.

    The training is not affected: the hook reads the tensors of the step and takes further gradients of the same graph.
    The values go to the log, to the message hub and to every backend of the visualizer
    (``vis_data/scalars.json``, TensorBoard, W&B, MLflow), as means over the processes:

    - ``monitor/share.<term>``: part of the total loss, of the task and of each term of a distiller;
    - ``monitor/cosine.<distiller>.<tap>``: see :func:`mmdistill_dense.analysis.tap_agreement`;
    - ``monitor/gradient_share.<term>``: the norm of the term's gradient at the backbone, over the sum of these norms;
    - ``monitor/gradient_cosine.<term>``: the cosine of that gradient with the task's.

    Terms and cosines of pictures without labels have names of their own: ``<distiller>.unlabelled_loss_…``,
    ``<distiller>.unlabelled.<tap>``. The student's loss on labels of the teacher is the term ``unlabelled``.

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

    priority = 'NORMAL'

    def __init__(
        self, interval: int = 50, gradient_interval: int = 500, picture_interval: int = 0, pictures: int = 2
    ) -> None:
        lowest = {'interval': 1, 'gradient_interval': 0, 'picture_interval': 0, 'pictures': 1}
        given = dict(zip(lowest, (interval, gradient_interval, picture_interval, pictures), strict=True))
        for name, value in given.items():
            if not isinstance(value, int) or value < lowest[name]:
                raise ValueError(f'MonitorHook: {name} must be an integer >= {lowest[name]}, got {value!r}.')
        self.interval, self.gradient_interval, self.picture_interval = interval, gradient_interval, picture_interval
        self.count = pictures
        self.pictures: Pictures | None = None
        self._model: Distilled | None = None  # only if it has distillers
        self._handles: list[RemovableHandle] = []
        self._agreement: dict[str, Tensor] = {}
        self._found: dict[str, float] = {}

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
        self._remove()
        step = runner.iter + 1
        if self._found:
            write_monitored(runner, 'MonitorHook', self._found, step)
            self._found = {}
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
            self._found |= _means({**_shares(losses), **self._agreement})
            self._agreement = {}

        return measure

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
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


def _means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the means over the processes as numbers, with one wait for the device."""
    if not values:
        return {}
    first = next(iter(values.values()))
    rows = torch.stack([value.detach().to(first.device).to(sum_dtype(first)) for value in values.values()])
    return dict(zip(values, mean_over_ranks(rows).tolist(), strict=True))


def _short(term: str) -> str:
    return term.removeprefix('distill.')


@master_only
def _show(visualizer: Visualizer, name: str, picture: np.ndarray, step: int) -> None:
    for backend in visualizer._vis_backends.values():
        # MLflow writes a file, whose name mmengine leaves without an ending and without the step (mmengine #1681)
        mlflow = isinstance(backend, MLflowVisBackend)
        backend.add_image(f'{name}_{step}.png' if mlflow else name, picture, step)
