"""Learn receptive tokens: the teacher's loss on masked maps, the options, one step, and the loop over training data."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.optim import OPTIMIZERS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmdistill_dense.config.unknown_keys import read_options
from mmdistill_dense.config.values import plain
from mmdistill_dense.distillers.maskd.token_files import BRANCH, TOKEN, TokenTensors
from mmdistill_dense.guards.config import check_num_classes
from mmdistill_dense.losses import Branch, gate, mask_dice, mask_weights, token_masks
from mmdistill_dense.networks.inputs import check_teacher_inputs
from mmdistill_dense.networks.modes import followed, restoring
from mmdistill_dense.networks.recording import replacing
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.utils.distributed import mean_over_ranks, unwrap
from mmdistill_dense.utils.reproducible import SeededBatches, fork_rng, mix, seed_everything
from mmdistill_dense.utils.runner_internals import Network, Samples
from mmdistill_dense.utils.validate import Count, NotNegative

if TYPE_CHECKING:
    from mmengine.runner import Runner

    from mmdistill_dense.networks.teacher import FrozenTeacher

# of all tokens, a level and its map: the map that replaces it, and its masks
Gate = Callable[[TokenTensors, int, Tensor], tuple[Tensor, list[Tensor]]]


def token_gate(values: TokenTensors, level: int, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return ``x * sum_i p_i m_i`` (or ``sum_i m_i``), the gate of MasKD."""
    masks = token_masks(values[f'{level}.{TOKEN}'], x)
    branch: list[Any] = [values.get(f'{level}.{name}') for name in BRANCH]
    return gate(x, masks, None if branch[0] is None else mask_weights(Branch(*branch), x)), [masks]


@dataclass(frozen=True)
class GatedTap:
    """A tap of the teacher with its token levels: ``start`` to ``start + count - 1``, one per tensor."""

    tap: Tap
    start: int
    count: int
    gate: Gate = token_gate


@contextmanager
def training_objective(network: nn.Module) -> Iterator[None]:
    """Put a frozen network into training mode, but not its normalisation and dropout, as where it is compared.

    Some detection heads return other outputs when ``training`` is False. Modes and buffers are restored at the end.
    """
    trained = {*followed(network)}
    with restoring(network.modules(), network.buffers()):
        for module in network.modules():
            module.training = module in trained  # not train(), which backbones override
        yield


@contextmanager
def only_possible_heads(network: nn.Module, data_samples: Samples) -> Iterator[bool]:
    """Remove the mask branch of a two-stage teacher if the data hold no instance masks; yield whether it did."""
    roi_head: Any = getattr(network, 'roi_head', None)
    lacks_masks = getattr(roi_head, 'with_mask', False) and not all(
        'masks' in getattr(sample, 'gt_instances', ()) for sample in data_samples
    )
    if not lacks_masks:
        yield False
        return
    mask_head = roi_head.mask_head
    roi_head.mask_head = None
    try:
        yield True
    finally:
        roi_head.mask_head = mask_head


def gated_loss(
    network: Network, taps: Sequence[GatedTap], values: TokenTensors, inputs: Tensor, data_samples: Samples
) -> tuple[Tensor, list[Tensor]]:
    """Return the training loss of a teacher on its own masked maps, and Dice per level, summed over bands."""
    dice: dict[int, Tensor] = {}

    def gated(tap: GatedTap) -> Callable[[int, Tensor], Tensor]:
        def replace(index: int, x: Tensor) -> Tensor:
            level = tap.start + index
            masked, masks = tap.gate(values, level, x)
            dice[level] = torch.stack([mask_dice(mask) for mask in masks]).sum()
            return masked

        return replace

    with ExitStack() as stack:
        for tap in taps:
            stack.enter_context(replacing(network, tap.tap, gated(tap), 'teacher_tap'))
        stack.enter_context(only_possible_heads(network, data_samples))  # a tap may be in the branch that leaves
        task = network.parse_losses(network.loss(inputs, data_samples))[0]
    levels = [level for tap in taps for level in range(tap.start, tap.start + tap.count)]
    if sorted(dice) != sorted(levels):
        raise RuntimeError(f'{len(dice)} maps were masked in the teacher, but its trace had {len(levels)}.')
    return task, [dice[level] for level in levels]


# The learning


@dataclass(frozen=True)
class LearnOptions:
    """How tokens are learned on the teacher; defaults are those of the released detection configs.

    Args:
        max_iters: Iterations. Defaults to 2000.
        optimizer: Any optimizer that mmengine knows, with its ``lr``. Defaults to Adam, 0.01, weight decay 0.001.
        schedule: ``'cosine'``, or ``'poly'`` for ``lr (1 - k / max_iters)^power``, per iteration.
        eta_min: Learning rate at the end. Defaults to 1e-6 for cosine and 0 for poly.
        power: Exponent of the poly schedule. Defaults to 0.9.
        clip_grad: As in ``optim_wrapper``, e.g. ``dict(max_norm=35)``, over all gradients. Defaults to no clipping.
        dice_weight: Weight of the Dice term beside the teacher's task loss. Defaults to 1.
        save_interval: Iterations between two files from which interrupted learning continues.
        log_interval: Iterations between two log lines; for each, the teacher also runs once without masks.
    """

    max_iters: Count = 2000
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {'type': 'Adam', 'lr': 0.01, 'weight_decay': 1e-3})
    schedule: Literal['cosine', 'poly'] = 'cosine'
    eta_min: float | None = None
    power: float | None = None
    clip_grad: Mapping[str, Any] | None = None
    dice_weight: NotNegative = 1.0
    save_interval: Count = 500
    log_interval: Count = 50

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> LearnOptions:
        """Check the dict that a config holds."""
        learn = read_options(cls, plain(options), 'learn')
        if learn.power is not None and learn.schedule != 'poly':
            raise ValueError("learn.power has an effect only with learn.schedule='poly'; set that or leave power out.")
        if not {'type', 'lr'} <= set(learn.optimizer):
            raise ValueError(f"learn.optimizer must be dict(type='Adam', lr=…, …), got {learn.optimizer!r}.")
        learn.build_optimizer([torch.zeros(1, requires_grad=True)])  # fails now, not hours later
        clip = learn.clip_grad
        if clip is not None and not {'max_norm'} <= set(clip) <= {'max_norm', 'norm_type'}:
            raise ValueError(f'learn.clip_grad must be None or dict(max_norm=…, norm_type=2), got {clip!r}.')
        return learn

    def build_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Build the optimizer."""
        try:
            return OPTIMIZERS.build({**self.optimizer, 'params': parameters})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'learn.optimizer={dict(self.optimizer)!r} cannot be built: {error}') from error

    def rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        peak = float(self.optimizer['lr'])
        default = 1e-6 if self.schedule == 'cosine' else 0.0
        last = default if self.eta_min is None else self.eta_min
        if self.schedule == 'cosine':
            return last + (peak - last) * (1 + math.cos(math.pi * iteration / self.max_iters)) / 2
        return last + (peak - last) * (1 - iteration / self.max_iters) ** (0.9 if self.power is None else self.power)

    def identity(self) -> dict[str, Any]:
        """Return the options on which the learned values depend."""
        return {name: value for name, value in asdict(self).items() if name not in ('save_interval', 'log_interval')}


PATIENCE = 10  # steps in a row that may be skipped


@dataclass
class TokenTask:
    """What is to be learned, and where."""

    name: str
    teacher: FrozenTeacher
    taps: Sequence[GatedTap]
    shapes: Mapping[str, torch.Size]
    options: LearnOptions


@dataclass
class TokenStepLog:
    """Learning rate and losses of one iteration, means over all processes."""

    rate: float
    task: float
    dice: list[float]


class TokenLearner:
    """The values, which begin at a seed on the teacher's device, their optimizer and the progress of the learning."""

    def __init__(self, task: TokenTask, seed: int, device: torch.device) -> None:
        self.task = task
        self.values = {n: v.to(device).requires_grad_() for n, v in initial_tokens(task.shapes, seed).items()}
        self.optimizer = task.options.build_optimizer(list(self.values.values()))
        self.iteration = 0
        self.skipped = 0
        self.origin = {'seed': seed}  # what the values depend on besides the fingerprint

    def step(self, inputs: Tensor, data_samples: Samples) -> TokenStepLog:
        """Do one iteration: forward, gradients averaged over the processes, one step of the optimizer."""
        options = self.task.options
        rate = options.rate(self.iteration)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        network: Any = self.task.teacher.network
        task_term, dice = gated_loss(network, self.task.taps, self.values, inputs, data_samples)
        total = task_term + options.dice_weight * torch.stack(dice).sum()
        parameters = list(self.values.values())
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        scalars = torch.stack([value.detach().float() for value in (task_term, *dice)])
        flat = mean_over_ranks(torch.cat([*(gradient.flatten() for gradient in gradients), scalars]))  # (n,)
        *means, scalars = flat.split([*(parameter.numel() for parameter in parameters), len(scalars)])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean.view_as(parameter)
        task, *levels = scalars.tolist()
        finite = bool(flat.isfinite().all())
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped >= PATIENCE:
            means_of = zip(self.values, means, strict=True)
            bad = {int(name.split('.')[0]) for name, mean in means_of if not mean.isfinite().all()}
            bad |= {level for level, term in enumerate(levels) if not math.isfinite(term)}
            task_text = '' if math.isfinite(task) else 'task loss not finite, '
            raise RuntimeError(
                f'distillers.{self.task.name}: the loss was not finite in {PATIENCE} iterations in a row, the last is '
                f'{self.iteration} ({task_text}level {", ".join(map(str, sorted(bad))) or "none"}). Lower '
                'learn.optimizer.lr or set learn.clip_grad.'
            )
        if finite:
            if options.clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(parameters, **options.clip_grad)
            self.optimizer.step()
        self.iteration += 1
        return TokenStepLog(rate, task, levels)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for :meth:`load_state_dict`, without the values."""
        progress = {'origin': self.origin, 'iteration': self.iteration, 'skipped': self.skipped}
        return {**progress, 'optimizer': self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict()`` with the ``values`` added."""
        with torch.no_grad():
            for name, value in state['values'].items():
                self.values[name].copy_(value)
        self.optimizer.load_state_dict(state['optimizer'])
        self.iteration, self.skipped = state['iteration'], state['skipped']

    def detached(self) -> TokenTensors:
        """Return the values as they are now."""
        return {name: value.detach().clone() for name, value in self.values.items()}


def initial_tokens(shapes: Mapping[str, torch.Size], seed: int) -> TokenTensors:
    """Draw initial values: tokens N(0, 0.01²), for masks of about ½; convolutions N(0, 2 / (k² C_out)); biases 0."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, shape in shapes.items():
        if name.endswith('bias'):
            values[name] = torch.zeros(shape)
            continue
        deviation = 0.01 if name.endswith(TOKEN) else math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        values[name] = torch.randn(shape, generator=generator) * deviation
    return values


def learn_distiller_tokens(
    task: TokenTask, runner: Runner, partial: Mapping[str, Any] | None, save: Callable[[TokenLearner], None]
) -> TokenTensors:
    """Learn the tokens of a distiller; all processes of a run call it together.

    Random streams, the run's loader and the teacher (weights, buffers, modes, hooks) are restored at the end. The
    method ``after_prepare_iter(runner, done, whole)`` of hooks that have it is called after each iteration.
    """
    network: Any = task.teacher.network
    if not hasattr(network, 'loss'):
        problem = f'tokens are learned through the training loss of {task.teacher.key}, but'
        remedy = 'set tokens to a file of learned ones'
        raise ValueError(f'distillers.{task.name}: {problem} {type(network).__name__} has none; {remedy}.')
    _check_classes(task, runner)
    learner = _begin(task, runner, partial)
    seed, start, whole = learner.origin['seed'], learner.iteration, task.options.max_iters
    preprocessor = copy.deepcopy(unwrap(runner.model).data_preprocessor)  # some have a state, which belongs to the run
    loader = learning_batches(runner.train_dataloader, seed, learner.iteration)
    with fork_rng(), training_objective(network), torch.enable_grad(), loader as batches:
        while learner.iteration < whole:
            batch = next(batches)
            seed_everything(seed, get_rank(), learner.iteration, 2)
            data = preprocessor(batch, True)
            inputs, samples = task.teacher.renormalised(data['inputs']), data['data_samples']
            if learner.iteration == start:
                check_teacher_inputs(task.teacher.key, [task.teacher.measure_inputs(inputs, {})], runner.cfg)
                with only_possible_heads(network, samples) as off:
                    if off:
                        runner.logger.info(
                            f'{task.name}: the data hold no instance masks, so the mask branch of {task.teacher.key} '
                            'is left out of its loss while tokens are learned (published tokens had it).'
                        )
            step = learner.step(inputs, samples)
            done = learner.iteration
            runner.call_hook('after_prepare_iter', done=done, whole=whole)
            if done % task.options.log_interval == 0 or done == whole:
                values = f'task loss: {step.task:.4f}  dice: {" ".join(f"{value:.3f}" for value in step.dice)}'
                runner.logger.info(f'{task.name}: tokens [{done}/{whole}] lr: {step.rate:.3e}  {values}')
            if learner.iteration % task.options.save_interval == 0 and learner.iteration < whole:
                save(learner)
    return learner.detached()


def _check_classes(task: TokenTask, runner: Runner) -> None:
    """Refuse labels that mean other classes to the teacher; ``allow_other_classes`` lets it pass up to here."""
    metainfo, pairs = getattr(runner.train_dataloader.dataset, 'metainfo', {}), task.teacher.pairs
    try:
        check_num_classes(metainfo.get('classes'), task.teacher.key, task.teacher.config.model)
        if pairs is not None and not pairs.same:
            raise ValueError(f'{task.teacher.key}.classes maps classes that stand in another order.')
    except ValueError as error:
        raise ValueError(
            f'distillers.{task.name}: tokens are learned on the labels of this run, but {task.teacher.key} has other '
            f'classes. Set tokens to a file that was learned on its own data. {error}'
        ) from error


def _begin(task: TokenTask, runner: Runner, partial: Mapping[str, Any] | None) -> TokenLearner:
    """Return a new learner, or one restored from ``partial`` if that has the same origin."""
    seeds = [mix(runner.seed, zlib.crc32(task.name.encode()))]
    broadcast_object_list(seeds)  # the seeds of processes may differ; tokens and order of the data must not
    network: Any = task.teacher.network
    learner = TokenLearner(task, seeds[0], next(network.parameters()).device)
    learner.origin.update(batch_size=runner.train_dataloader.batch_sampler.batch_size, processes=get_world_size())
    if partial is not None and partial['origin'] == learner.origin:
        learner.load_state_dict(partial)
    elif partial is not None:
        runner.logger.warning(
            f'{task.name}: the unfinished tokens were started with {partial["origin"]}, but this run has '
            f'{learner.origin} and would continue to other values: learning starts anew.'
        )
    return learner


@contextmanager
def learning_batches(loader: DataLoader, seed: int, start: int) -> Iterator[Iterator[Any]]:
    """Yield endless batches of a loader's data set, with its batch size, collation, workers and grouping.

    The loader itself is not touched. Each process gets its own part. The content of a batch depends only on seed, rank
    and the number of the batch; the workers end with the context.
    """
    configured: Any = loader.batch_sampler  # of the loader's kind, e.g. by aspect ratio
    dataset: Any = loader.dataset
    sampler, workers = InfiniteSampler(dataset, shuffle=True, seed=mix(seed, 0)), loader.num_workers
    try:
        batch_sampler = type(configured)(sampler, configured.batch_size, True)
    except TypeError as error:
        raise ValueError(
            f'train_dataloader.batch_sampler: {type(configured).__name__}(sampler, batch_size, drop_last) fails '
            f'({error}). Learn the tokens with another batch sampler (mmdistill tokens), and give the file as tokens=.'
        ) from error
    batch_loader: DataLoader = DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=loader.collate_fn,
        num_workers=workers,
        pin_memory=loader.pin_memory,
        prefetch_factor=loader.prefetch_factor if workers else None,
        multiprocessing_context=loader.multiprocessing_context if workers else None,
    )
    batches = SeededBatches(batch_loader, seed, get_rank())
    batches.skip_iter(start)
    try:
        yield batches
    finally:
        batches.close()
