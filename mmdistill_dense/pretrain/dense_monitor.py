"""DenseMonitor: the hook that measures a network's pixel features during pre-training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.hooks import RemovableHandle

from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.pcd.pcd import PCD
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.pretrain.measures import measure_step
from mmdistill_dense.pretrain.probe import DenseProbe
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.protocols import Network
from mmdistill_dense.utils.tracked import write_monitored
from mmdistill_dense.utils.validate import check_option

_COLLAPSED = 0.01


@HOOKS.register_module()
class DenseMonitor(Hook):
    """Measure at intervals the features in a step of each distiller, and probe the backbone on labelled images.

    Distillers that compare feature maps are watched: ``PCD`` and every ``FeatureDistiller`` without class scores.

    The training is not affected: no weight, buffer, mode, gradient or random stream changes; a run with it resumes to
    the same bits. What is measured: :func:`mmdistill_dense.pretrain.measures.measure_step`. The values go to the log,
    to the visualizer (``vis_data/scalars.json``, TensorBoard) and to the message hub, as
    ``monitor/<distiller>.<name>`` and ``monitor/<kind>.<name>``, e.g. ``monitor/pcd.positive``, ``monitor/knn.miou``.
    If all student outputs are alike, a warning is logged.

    Example::

        custom_hooks = [dict(type='mmdistill_dense.DenseMonitor', probe=dict(train=dict(…), test=dict(…)))]

    Args:
        interval: Measure the first step of every n-th epoch, or every n-th iteration. Defaults to 1.
        by_epoch: Count epochs (the default) or iterations.
        probe: Options of :class:`~mmdistill_dense.pretrain.probe.DenseProbe`. It runs before the first iteration, with
            the teachers beside the student, and then on the student.
        probe_interval: Probe after every n-th epoch or iteration, and after the last. Defaults to 10.

    Raises:
        ValueError: For an interval below 1; at start for ``by_epoch=True`` in iteration-based training.
    """

    priority = 'NORMAL'

    def __init__(
        self, interval: int = 1, by_epoch: bool = True, probe: Mapping[str, Any] | None = None, probe_interval: int = 10
    ) -> None:
        for name, value in {'interval': interval, 'probe_interval': probe_interval}.items():
            if value < 1:
                raise ValueError(f'DenseMonitor: {name} must be >= 1, got {value}.')
        check_option('by_epoch', by_epoch, (True, False))
        self.interval, self.by_epoch, self.probe_interval = interval, by_epoch, probe_interval
        self.probe = None if probe is None else DenseProbe(**probe)
        self._handles: list[RemovableHandle] = []
        self._found: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Probe the student before training, and the teachers."""
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                'DenseMonitor counts epochs, but this run counts iterations: set by_epoch=False and intervals in '
                'iterations.'
            )
        model = unwrap(runner.model)
        if not _watched(model) and self.probe is None:
            runner.logger.info(
                'DenseMonitor: no distiller compares feature maps, and no probe is given: nothing is watched.'
            )
        if self.probe is not None and runner.iter == 0:
            self._probe(runner, model)
            self._probe_teachers(runner, model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Register a measuring hook on each watched distiller if this step is due."""
        due = batch_idx == 0 and runner.epoch % self.interval == 0 if self.by_epoch else not runner.iter % self.interval
        if due:
            for name, distiller in _watched(unwrap(runner.model)).items():
                self._handles.append(distiller.register_forward_pre_hook(self._measuring(name)))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the measured values; probe after every n-th iteration."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._found:
            self._write(runner, self._found, runner.iter + 1)
            for name in (name for name, value in self._found.items() if name.endswith('.out_std')):
                self._warn_of_collapse(runner, name)
            self._found = {}
        if self.probe is not None and not self.by_epoch:
            self._probe_every(runner, runner.iter + 1, runner.max_iters, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Probe after every n-th epoch."""
        if self.probe is not None and self.by_epoch:
            self._probe_every(runner, runner.epoch + 1, runner.max_epochs, runner.iter)

    def _measuring(self, name: str) -> Callable[..., None]:
        def measure(distiller: PCD | FeatureDistiller, recorded: tuple[Any, ...]) -> None:
            self._found |= {f'{name}.{key}': value for key, value in measure_step(distiller, *recorded).items()}

        return measure

    def _warn_of_collapse(self, runner: Runner, name: str) -> None:
        if self._found[name] < _COLLAPSED:
            runner.logger.warning(
                f'DenseMonitor: {name} is {self._found[name]:.1e}: all pixels of the student have almost the same '
                'output, it has collapsed. Try a smaller learning rate or a longer warm-up.'
            )

    def _probe_every(self, runner: Runner, done: int, end: int, step: int) -> None:
        if done % self.probe_interval == 0 or done == end:
            self._probe(runner, unwrap(runner.model), step)

    def _probe(self, runner: Runner, model: Network, step: int = 0) -> None:
        if self.probe is not None and is_main_process():
            found = self.probe.student(model)
            self._write(runner, {f'{self.probe.kind}.{name}': value for name, value in found.items()}, step)

    def _probe_teachers(self, runner: Runner, model: Network) -> None:
        if self.probe is None or not is_main_process():
            return
        for name, distiller in _watched(model).items():
            found = self.probe.teacher(model, distiller)
            values = {f'{self.probe.kind}.teacher_of_{name}.{key}': value for key, value in found.items()}
            self._write(runner, values, 0)

    def _write(self, runner: Runner, values: Mapping[str, float], step: int) -> None:
        write_monitored(runner, 'DenseMonitor', values, step)


def _watched(model: Network) -> dict[str, PCD | FeatureDistiller]:
    return {
        name: distiller
        for name, distiller in distillers_of(model).items()
        if isinstance(distiller, (PCD, FeatureDistiller)) and not distiller.needs_scores
    }
