"""What a distilled training step costs beside the student's own step and the teacher's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmdistill_dense.analysis.batches import training_batch
from mmdistill_dense.analysis.measure import Timing, interleaved_times
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.registry import MODELS
from mmdistill_dense.teacher import FrozenTeacher

Work = Callable[[], object]
Call = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class StepCost:
    """Seconds of each part; ``features``: the teachers' backbones and necks; ``adapters``: forward and backward of each
    distiller's own modules alone."""

    batch: int
    size: tuple[int, int]
    teacher_weights: str
    control: Timing
    teacher: Timing
    features: Timing
    distilled: Timing
    adapters: dict[str, Timing]

    @property
    def whole_ratio(self) -> float:
        """Distilled step / (control step + teacher forward), of the medians."""
        return self.distilled.median / (self.control.median + self.teacher.median)

    @property
    def features_ratio(self) -> float:
        """Distilled step / (control step + the teachers' backbones and necks), of the medians."""
        return self.distilled.median / (self.control.median + self.features.median)

    @property
    def ratio(self) -> float:
        """(distilled step - adapters) / (control step + teacher forward), of the medians."""
        adapters = sum(timing.median for timing in self.adapters.values())
        return (self.distilled.median - adapters) / (self.control.median + self.teacher.median)


def measure_step(
    config: Config, batch: int | None = None, repeats: int = 5, image_size: tuple[int, int] | None = None
) -> StepCost:
    """Time, in turns, the control's step, the teacher's forward pass to its last tap, and the distilled step.

    The batch is generated and the student's weights are random; the learning rate is 0, so that they stay so. The
    teacher's are the config's where that file exists, else random with batch statistics, because the contrast's time
    depends on how far features lie apart; MasKD's tokens are random, and the student's masks on where the config has
    them. A step is what the runner does: preprocessing, forward, backward, the distillers' clipping, optimizer.

    Args:
        config: A whole config whose model is a ``DistillModel``.
        batch: Images. Defaults to the config's.
        repeats: Timed turns.
        image_size: Height and width. Defaults to the crop, or the largest size, that the config trains on.

    Raises:
        ValueError: When the model is no ``DistillModel`` with distillers, its student neither segments nor detects, or
            no size is given or found.
    """
    model = dict(config.model)
    if not model.get('distillers') or not model.get('teacher'):
        raise ValueError('step benchmark: model holds no teacher and distillers to measure')
    init_default_scope(config.get('default_scope', 'mmseg'))
    control, distilled = _build({**model, 'distillers': {}, 'inherit': ()}), _build(model)
    images = batch or config.train_dataloader.batch_size
    data = training_batch(control, config, images, image_size)
    inputs = distilled.data_preprocessor(data, True)['inputs']
    teachers = distilled.distillation.teachers.values()
    for teacher in teachers:
        _load_teacher(teacher, next(distilled.parameters()), inputs)
    distilled.distillation.attended = True
    _give_tokens(distilled)
    steps = {'control': _step(control, config, data), 'distilled': _step(distilled, config, data)}
    adapters = _adapter_works(distilled, steps['distilled'])
    forwards: dict[str, Work] = {
        'teacher': lambda: [teacher(inputs) for teacher in teachers],
        'features': lambda: [_features(teacher, inputs) for teacher in teachers],
    }
    works = {**steps, **forwards, **adapters}
    times = interleaved_times(works, repeats)
    parts = {name: times[name] for name in adapters}
    weights = ', '.join(teacher.receipt.file or 'random' for teacher in teachers)
    size = tuple(inputs.shape[2:])
    control_time, teacher_time, features_time, whole = (
        times[n] for n in ('control', 'teacher', 'features', 'distilled')
    )
    return StepCost(images, size, weights, control_time, teacher_time, features_time, whole, parts)


@torch.no_grad()
def _features(teacher: FrozenTeacher, inputs: Tensor) -> object:
    network: Any = teacher.network
    return network.extract_feat(teacher.renormalised(inputs))


def _build(model: Mapping[str, Any]) -> Any:
    return revert_sync_batchnorm(MODELS.build(Config({'model': model}).model)).train()


def _load_teacher(teacher: FrozenTeacher, like: Tensor, inputs: Tensor) -> None:
    if Path(teacher.checkpoint or '').is_file():
        teacher.load(like)
        return
    teacher.checkpoint, teacher.allow_random = None, True
    teacher.load(like)
    assert teacher.network is not None
    norms = [module for module in teacher.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the statistics of this batch alone
        norm.train()
    teacher(inputs)
    teacher.network.eval()


def _give_tokens(network: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    for distiller in network.distillers.values():
        if isinstance(distiller, MasKD):
            shapes = distiller.token_shapes()
            distiller.load_tokens({name: 0.01 * torch.randn(shape, generator=draw) for name, shape in shapes.items()})
            progress = network.distillation.progress
            progress.iteration = max(progress.iteration, distiller.student_mask_from or 0)


def _step(network: Any, config: Config, data: Mapping[str, Any]) -> Work:
    wrapper = build_optim_wrapper(network, config.optim_wrapper)
    for group in wrapper.optimizer.param_groups:
        group['lr'] = 0.0
    for distiller in getattr(network, 'distillers', nn.ModuleDict()).values():
        if distiller.clip_max_norm is not None:
            wrapper.optimizer.register_step_pre_hook(partial(_clip, distiller))
    return lambda: network.train_step(data, wrapper)


def _clip(distiller: Any, *_: Any) -> None:
    distiller.clip_gradients()


def _adapter_works(network: Any, step: Work) -> dict[str, Work]:
    """Record the inputs of each distiller's own modules in one step, to run them again alone."""
    calls: dict[str, list[Call]] = {name: [] for name in network.distillers}
    handles = []
    for name, distiller in network.distillers.items():
        for module in [*getattr(distiller, 'aligns', []), *getattr(distiller, 'parts', [])]:
            handles.append(module.register_forward_pre_hook(partial(_record, calls[name])))
    step()
    for handle in handles:
        handle.remove()
    return {f'{name} adapters': _replay(recorded) for name, recorded in calls.items() if recorded}


def _record(calls: list[Call], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if any(True for _ in module.parameters()):
        calls.append((module, args))


def _replay(recorded: list[Call]) -> Work:
    inputs = [[arg.detach().requires_grad_(arg.is_floating_point()) for arg in args] for _, args in recorded]
    with torch.no_grad():
        upstream = [torch.ones_like(module(*args)) for (module, _), args in zip(recorded, inputs, strict=True)]

    def work() -> None:
        for (module, _), args, grad in zip(recorded, inputs, upstream, strict=True):
            leaves = [*module.parameters(), *(arg for arg in args if arg.requires_grad)]
            torch.autograd.grad(module(*args), leaves, grad)

    return work


def as_markdown(cost: StepCost) -> str:
    """Return the table of one measurement."""
    rows = {
        'control step (student forward, backward, optimizer)': cost.control,
        'teacher forward to its last tap': cost.teacher,
        'teacher backbone and neck': cost.features,
        'distilled step': cost.distilled,
        **{f'{name}, forward and backward alone': timing for name, timing in cost.adapters.items()},
    }
    title = f'batch {cost.batch} of {cost.size[0]}x{cost.size[1]}, teacher weights: {cost.teacher_weights}'
    lines = [f'| {title} | s |', '|---|---|']
    lines += [f'| {name} | {timing} |' for name, timing in rows.items()]
    lines.append(f'| **distilled / (control + teacher)** | **{cost.whole_ratio:.3f}** |')
    lines.append(f'| **distilled / (control + teacher backbone and neck)** | **{cost.features_ratio:.3f}** |')
    lines.append(f'| **(distilled - adapters) / (control + teacher)** | **{cost.ratio:.3f}** |')
    return '\n'.join(lines)
