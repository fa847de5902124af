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
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmdistill_dense.analysis.measure import Timing, interleaved_times
from mmdistill_dense.registry import MODELS
from mmdistill_dense.teacher import FrozenTeacher

Work = Callable[[], object]
Call = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True)
class StepCost:
    """Seconds of each part; ``adapters``: forward and backward of each distiller's own modules alone."""

    batch: int
    size: tuple[int, int]
    teacher_weights: str
    control: Timing
    teacher: Timing
    distilled: Timing
    adapters: dict[str, Timing]

    @property
    def ratio(self) -> float:
        """(distilled step - adapters) / (control step + teacher forward), of the medians."""
        adapters = sum(timing.median for timing in self.adapters.values())
        return (self.distilled.median - adapters) / (self.control.median + self.teacher.median)


def measure_step(config: Config, batch: int | None = None, repeats: int = 5) -> StepCost:
    """Time, in turns, the control's step, the teacher's forward pass to its last tap, and the distilled step.

    The batch is generated and the student's weights are random. The teacher's are the config's where that file exists,
    else random with batch statistics, because the contrast's time depends on how far features lie apart. A step is what
    the runner does: preprocessing, forward, backward, the distillers' clipping, optimizer.

    Args:
        config: A whole config whose model is a ``DistillModel`` with a segmentation student.
        batch: Images. Defaults to the config's.
        repeats: Timed turns.

    Raises:
        ValueError: When the model is no ``DistillModel`` with distillers or its student segments nothing.
    """
    model = dict(config.model)
    if not model.get('distillers') or not model.get('teacher'):
        raise ValueError('step benchmark: model holds no teacher and distillers to measure')
    init_default_scope(config.get('default_scope', 'mmseg'))
    control, distilled = _build({**model, 'distillers': {}}), _build(model)
    images = batch or config.train_dataloader.batch_size
    data = _segmentation_batch(control, images)
    inputs = distilled.data_preprocessor(data, True)['inputs']
    teachers = distilled.distillation.teachers.values()
    for teacher in teachers:
        _load_teacher(teacher, next(distilled.parameters()), inputs)
    distilled.distillation.attended = True
    steps = {'control': _step(control, config, data), 'distilled': _step(distilled, config, data)}
    adapters = _adapter_works(distilled, steps['distilled'])
    works: dict[str, Work] = {**steps, 'teacher': lambda: [teacher(inputs) for teacher in teachers], **adapters}
    times = interleaved_times(works, repeats)
    parts = {name: times[name] for name in adapters}
    weights = ', '.join(teacher.receipt.file or 'random' for teacher in teachers)
    size = tuple(inputs.shape[2:])
    return StepCost(images, size, weights, times['control'], times['teacher'], times['distilled'], parts)


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


def _segmentation_batch(network: Any, images: int) -> dict[str, Any]:
    from mmseg.structures import SegDataSample

    size = getattr(network.data_preprocessor, 'size', None)
    head = getattr(network, 'decode_head', None)
    if size is None or head is None:
        raise ValueError(
            'step benchmark: the student needs a decode_head and data_preprocessor.size, the training crop'
        )
    draw = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        labels = torch.randint(head.num_classes, (1, *size), generator=draw)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': size}))
    inputs = [torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def _step(network: Any, config: Config, data: Mapping[str, Any]) -> Work:
    wrapper = build_optim_wrapper(network, config.optim_wrapper)
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
        'distilled step': cost.distilled,
        **{f'{name}, forward and backward alone': timing for name, timing in cost.adapters.items()},
    }
    title = f'batch {cost.batch} of {cost.size[0]}x{cost.size[1]}, teacher weights: {cost.teacher_weights}'
    lines = [f'| {title} | s |', '|---|---|']
    lines += [f'| {name} | {timing} |' for name, timing in rows.items()]
    lines.append(f'| **(distilled - adapters) / (control + teacher)** | **{cost.ratio:.3f}** |')
    return '\n'.join(lines)
