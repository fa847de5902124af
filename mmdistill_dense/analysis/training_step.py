"""Training steps of a control and of its distilled student on one generated batch, to be timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdistill_dense.analysis.batches import training_batch
from mmdistill_dense.config.resolve import model_of
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.engine.clipping import clip_unscaled
from mmdistill_dense.model.distill_model import Distilled
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.networks.partial_forward import run_parts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.protocols import Network, Sample

N = TypeVar('N', bound=Network)

DEFAULT_ITERATIONS = 1000  # of a run whose length is unknown, because its data set is missing


@dataclass(frozen=True)
class Step(Generic[N]):
    """A training step of a network, always on the same batch."""

    network: N
    wrapper: OptimWrapper
    data: Mapping[str, Any]

    def __call__(self) -> object:
        return self.network.train_step(self.data, self.wrapper)


@dataclass(frozen=True)
class Steps:
    """The steps of a control and its distilled student; ``inputs`` is the batch (B, 3, H, W) that both see."""

    control: Step[Network]
    distilled: Step[Distilled]
    inputs: Tensor

    @property
    def teachers(self) -> list[FrozenTeacher]:
        """The teachers, loaded."""
        return list(self.distilled.network.distillation.teachers.values())

    @property
    def batch(self) -> int:
        """Pictures of a step."""
        return len(self.inputs)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the batch."""
        return self.inputs.shape[2], self.inputs.shape[3]

    @property
    def teacher_weights(self) -> str:
        """The files of the teachers' weights, or ``'random'``."""
        return ', '.join((teacher.receipt and teacher.receipt.file) or 'random' for teacher in self.teachers)


def prepare_steps(
    config: Config,
    batch: int | None = None,
    image_size: tuple[int, int] | None = None,
    device: str | torch.device = 'cpu',
) -> Steps:
    """Return the control's and the distilled step, ready to be run.

    The batch is generated, and the student's weights are random and fixed by a learning rate of 0. A teacher has its
    file's weights if the file exists, else random ones with batch statistics, because the contrast's time depends on
    how far features lie apart. MasKD's tokens are random, and the student's masks are on if the config has them. A step
    does what the runner does: preprocessing, forward, backward, the distillers' clipping, optimizer. It belongs to the
    start of the run, or to where MasKD's student masks begin, so that every distiller is active; it has its pictures
    without labels if the config has some.

    Args:
        config: A whole config whose model is a ``DistillModel``.
        batch: Images. Defaults to the config's.
        image_size: Height and width. Defaults to the crop, or the largest size, that the config trains on.
        device: Device of the networks.
    """
    model = model_of(config)
    if not model.get('distillers') or not model.get('teacher'):
        raise ValueError('step benchmark: model has no teacher and distillers to measure')
    scope = config.get('default_scope', 'mmseg')
    init_default_scope(scope)
    if image_size and scope == 'mmseg':  # it pads to its training crop
        model['data_preprocessor'] = {**(model.get('data_preprocessor') or {}), 'size': tuple(image_size)}
    control: Network = build_student({**model, 'distillers': {}, 'inherit': ()})
    distilled: Distilled = build_student(model)
    data = training_batch(control, config, batch or config.train_dataloader.batch_size, image_size)
    control, distilled = control.to(device), distilled.to(device)
    inputs = distilled.data_preprocessor(data, True)['inputs']
    for teacher in distilled.distillation.teachers.values():
        load_teacher(teacher, next(distilled.parameters()), inputs)
    distilled.distillation.enter_run(run_length(config))
    second = distilled.distillation.unlabelled
    if second is not None:
        more = training_batch(control, config, second.option.count(len(inputs)), image_size)
        second.batch = {**more, 'data_samples': list(map(_without_labels, more['data_samples']))}
    _give_tokens(distilled)
    _go_where_all_work(distilled)
    return Steps(make_step(control, config, data), make_step(distilled, config, data), inputs)


def _without_labels(sample: Sample) -> Any:
    kind: Any = type(sample)
    bare = kind(metainfo=dict(sample.metainfo))
    if 'gt_instances' in sample:
        bare.gt_instances = InstanceData()
    return bare


def build_student(model: Mapping[str, Any]) -> Any:
    """Build a student for one process, in training mode."""
    return revert_sync_batchnorm(MODELS.build(Config({'model': model}).model)).train()


@torch.no_grad()
def load_teacher(teacher: FrozenTeacher, like: Tensor, inputs: Tensor, random: bool = False) -> None:
    """Load a teacher from its file, or give it random weights with the statistics of a batch.

    Args:
        teacher: Neither loaded nor called yet: its first call folds the norms.
        like: A tensor with the device and dtype for it.
        inputs: The batch (B, 3, H, W) as the student sees it.
        random: Use random weights even if there is a file.
    """
    if not random and Path(teacher.option.checkpoint or '').is_file():
        teacher.load(like)
        return
    teacher.load(like, random=True)
    assert teacher.network is not None
    norms = [module for module in teacher.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the statistics of this batch alone
        norm.train()
    run_parts(teacher.network, teacher.taps, teacher.renormalised(inputs))
    teacher.network.eval()


def run_length(config: Config, pictures: int | None = None, processes: int = 1) -> int:
    """Return the iterations of a config's run.

    Args:
        config: A whole config, or one without ``train_cfg``.
        pictures: Length of the training set, for a run given in epochs. Without it, such a run counts
            ``DEFAULT_ITERATIONS``, enough for schedules in fractions of the run.
        processes: Number of processes that train together.
    """
    loop = config.get('train_cfg') or {}
    if 'max_iters' in loop:
        return loop['max_iters']
    if 'max_epochs' not in loop or pictures is None:
        return DEFAULT_ITERATIONS
    return loop['max_epochs'] * max(pictures // (config.train_dataloader.get('batch_size', 1) * processes), 1)


def draw_tokens(distiller: MasKD, draw: torch.Generator) -> None:
    """Give a MasKD random tokens."""
    shapes = distiller.token_shapes()
    distiller.load_tokens({name: 0.01 * torch.randn(shape, generator=draw) for name, shape in shapes.items()})


def _give_tokens(network: Distilled) -> None:
    draw = torch.Generator().manual_seed(0)
    for distiller in distillers_of(network).values():
        if isinstance(distiller, MasKD):
            draw_tokens(distiller, draw)


def _go_where_all_work(network: Distilled) -> None:
    """Set the iteration to where MasKD's student masks begin, or to 0 if a distiller is off by then."""
    state, distillers = network.distillation.state, distillers_of(network)
    begins = [getattr(distiller, 'student_mask_from', None) or 0 for distiller in distillers.values()]
    for state.iteration in (max(begins), 0):
        off = [name for name, distiller in distillers.items() if distiller.weight() == 0]
        if not off:
            return
    raise ValueError(
        f'step benchmark: distillers.{off[0]} is off at the start of the run by its schedule, so a step would not show '
        'its cost: give it another schedule, or leave it out.'
    )


def make_step(network: N, config: Config, data: Mapping[str, Any]) -> Step[N]:
    """Return the training step of a network with the optimizer of its config, at learning rate 0."""
    wrapper = build_optim_wrapper(network, config.optim_wrapper)
    for group in wrapper.optimizer.param_groups:
        group['lr'] = 0.0
    for distiller in distillers_of(network).values():
        if distiller.clip_max_norm is not None:
            wrapper.optimizer.register_step_pre_hook(partial(_clip, distiller))
    return Step(network, wrapper, data)


def _clip(distiller: Distiller, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    clip_unscaled(distiller, optimizer)  # what a hook returns would replace the optimizer's arguments
