"""``DistillModel``: the student's own class, with a distillation step in its loss."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence, ValuesView
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmdistill_dense.config.resolve import ModelConfig
from mmdistill_dense.distillers.base import Distiller, Losses, Recorded, RunState, check_losses
from mmdistill_dense.networks.building import naming_weights
from mmdistill_dense.networks.modes import attributes
from mmdistill_dense.networks.recording import Recorder
from mmdistill_dense.networks.teacher import FrozenTeacher, Inherit, copy_inherited
from mmdistill_dense.networks.trace import Traced
from mmdistill_dense.utils.reproducible import mix
from mmdistill_dense.utils.runner_internals import Samples
from mmdistill_dense.utils.validate import some

if TYPE_CHECKING:
    from mmdistill_dense.utils.runner_internals import Network

    class Distillers(nn.ModuleDict):  # the same with the type of its values
        def items(self) -> ItemsView[str, Distiller]: ...
        def values(self) -> ValuesView[Distiller]: ...
else:
    Network = object  # methods of a real base class would hide the student's own
    Distillers = nn.ModuleDict


def distillers_of(model: nn.Module) -> dict[str, Distiller]:
    """Return the distillers of a model by name; an ordinary student has none."""
    return dict(getattr(model, 'distillers', {}).items())


class StepPlugin:
    """What a model adds to its training step besides its distillers, registered in ``STEP_PLUGINS``."""

    def add(self, step: TrainStep) -> None:
        """Add losses or terms to a step whose labelled pictures are compared."""

    def attach(self, student: nn.Module, distillers: Mapping[str, Distiller], heads: Sequence[str]) -> None:
        """Get the student, its bound distillers, and the paths of its heads that hold taps."""

    def hooks(self) -> Sequence[Hook]:
        """Return what ``DistillHook`` calls for it at the events that it gets itself, but no others of a hook."""
        return ()

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed."""
        return {}

    def seen(self, model: Network) -> Iterator[tuple[str, Tensor, Samples]]:
        """Yield the pictures that it adds to this step: what they are, the preprocessed batch, and the samples."""
        return iter(())

    def copy(self) -> StepPlugin:
        """Return the same for a copy of the model."""
        return self


Extra = StepPlugin  # its name until 0.3


@dataclass(eq=False)
class Distillation:
    """Frozen teachers, state of the run, what is inherited.

    A copy of the student has its own ``Distillation`` and shares the teachers until one of the two is moved or cast.
    """

    teachers: dict[str, FrozenTeacher]  # by name
    student: ModelConfig  # that the student was built from, resolved
    state: RunState = field(default_factory=RunState)  # how far the run is; the distillers read it
    inherit: Sequence[Inherit] = ()  # what to copy; empty once that is done, and where weights come from a file
    traced: Traced = field(default_factory=Traced)  # what the trace found in the student
    extras: Sequence[StepPlugin] = ()  # what else the step consists of, in this order
    started: bool = False  # whether DistillHook, or a loop, told the length of the run
    _recorder: Recorder | None = field(default=None, init=False, repr=False)
    _recorded: Sequence[Distiller] = field(default=(), init=False, repr=False)  # whose taps that records

    def __post_init__(self) -> None:
        for teacher in self.teachers.values():
            teacher.users.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        state, extras = copy.deepcopy(self.state, memo), [extra.copy() for extra in self.extras]
        return replace(self, teachers=dict(self.teachers), state=state, extras=extras)

    def __reduce__(self) -> Any:
        extras = [extra.copy() for extra in self.extras]
        return Distillation, (self.teachers, self.student, self.state, self.inherit, self.traced, extras)

    def start(self, max_iters: int, seed: int = 0, iteration: int = 0) -> None:
        """Begin a run of ``max_iters`` steps, or go on at ``iteration``, in a training loop of your own.

        The loop calls this before its first step, and sets ``state.iteration`` in each. ``seed`` is the same in all
        processes. With a runner, ``DistillHook`` does both.
        """
        if self.extras:
            problem = 'model.unlabelled needs DistillHook, and so a runner'
            raise ValueError(f'{problem}: leave it out in a loop of your own.')
        self.enter_run(max_iters, seed, iteration)

    def enter_run(self, max_iters: int, seed: int = 0, iteration: int = 0) -> None:
        """Set the state of the run."""
        state = self.state
        state.max_iters, state.seed, state.rank, state.iteration = max_iters, seed, get_rank(), iteration
        self.started = True

    def set_aside(self) -> AbstractContextManager[None]:
        """Load no teacher and inherit nothing while the context is open: the student initialises itself alone."""
        return attributes(self, teachers={}, inherit=())

    def check_ready(self) -> None:
        """Raise a ``RuntimeError`` unless a run was started and every teacher is loaded."""
        if not self.started:
            raise RuntimeError(
                'A DistillModel is trained without DistillHook. Add to the config: default_hooks = '
                "dict(distill=dict(type='mmdistill_dense.DistillHook')); a loop of your own calls "
                'model.distillation.start(max_iters=…, seed=…) before its first step.'
            )
        for teacher in self.teachers.values():
            if teacher.network is None and teacher.receipt is None and teacher.taps:
                raise RuntimeError(f'{teacher.key} is not loaded: call model.init_weights() before training.')


class Distilled(Network):
    """Mixin that turns a student class into a distilled one; it stands before that class in the bases."""

    distillers: Distillers
    distillation: Distillation

    def _attach(self, distillers: Mapping[str, Distiller], distillation: Distillation) -> None:
        self.distillers = Distillers(distillers)
        self.distillation = distillation
        self._register_state_dict_hook(_drop_distillers)
        self.register_load_state_dict_post_hook(_ignore_missing_distillers)

    def init_weights(self) -> None:
        """Initialise the student as its class does, load the teachers, and copy what the student inherits."""
        # Taken out meanwhile: the student's init_cfg would initialise the parameters of the distillers again.
        modules: dict[str, Any] = self._modules
        distillers = modules.pop('distillers')
        try:
            with naming_weights(self, 'model.student'):
                super().init_weights()
        finally:
            modules['distillers'] = distillers
        like = next(self.parameters())
        inherit = self.distillation.inherit
        givers = {entry.teacher for entry in inherit}
        for name, teacher in self.distillation.teachers.items():
            if teacher.taps or name in givers:
                teacher.load(like)
        copy_inherited(self, inherit, self.distillation.teachers)
        self.distillation.inherit = ()  # a second call after training must not copy again
        for teacher in self.distillation.teachers.values():
            if not teacher.taps:
                teacher.network = None  # the student only inherits from it

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distilled:
        before = next(self.parameters())
        device, dtype = before.device, before.dtype
        super()._apply(fn, recurse)
        after = next(self.parameters())
        for name, teacher in self.distillation.teachers.items():
            if len(teacher.users) == 1:
                teacher.follow(fn)
            elif (after.device, after.dtype) != (device, dtype):
                teacher.users.discard(self.distillation)
                teacher_copy = self.distillation.teachers[name] = teacher.unloaded()  # the next step loads it
                teacher_copy.users.add(self.distillation)
                for distiller in self.distillers.values():
                    if distiller.teacher_name == name:
                        distiller.learn_from(teacher_copy)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle finds classes by name: it stores the student's class, and fills what _blank makes from it.
        _, _, *state = tuple(super().__reduce_ex__(protocol))
        return _blank, (type(self).__bases__[1],), *state

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the student's own losses and, in training, those of the distillers as ``distill.<name>.loss_…``.

        ``distill.<name>.share`` is that distiller's part of the total, for the log. The arguments are those of the
        student's class, by position or under its names.
        """
        if not self.training:
            return super().loss(*args, **kwargs)
        self.distillation.check_ready()
        inputs, data_samples = _eager(_batch)(super().loss, args, kwargs)
        active = {name: d for name, d in self.distillers.items() if d.is_active()}
        # The teachers run first, so that their temporary memory is free before the student's graph is built.
        teachers = _eager(run_teachers)(active, inputs, next(self.parameters()), data_samples)
        with recording(self, active) as student:
            losses = super().loss(*args, **kwargs)
        terms = _eager(distill_losses)(active, student, teachers, data_samples)
        step = TrainStep(self, active, len(inputs), losses, terms)
        _eager(run_plugins)(step)
        return _eager(combine_losses)(step)


Terms = Mapping[str, Losses]  # the losses of each distiller by its name


@dataclass(eq=False)
class TrainStep:
    """A training step when student and teachers are compared; each :class:`StepPlugin` may add to it."""

    model: Distilled
    active: Mapping[str, Distiller]  # those that compute something in this step, by name
    labelled: int  # number of pictures
    losses: Mapping[str, Any]  # the student's own
    terms: Terms  # the losses of the active distillers, without weight
    added: Mapping[str, Any] = field(default_factory=dict)  # further losses, which count as they are


def run_teachers(
    active: Mapping[str, Distiller], inputs: Tensor, like: Tensor, samples: Samples | None = None
) -> dict[str, Recorded]:
    """Return the tapped tensors of each teacher that an active distiller needs.

    ``inputs`` is the student's preprocessed batch (B, C, H, W). A teacher that lost its network by a move or a pickle
    is loaded ``like`` a parameter of the student.
    """
    taught: dict[str, Recorded] = {}
    for name, (teacher, state) in _teachers_of(active).items():
        if teacher.network is None:
            teacher.load(like)
        taught[name] = teacher(inputs, mix(state.seed, state.iteration, *state.part.encode()), samples)
    return taught


@contextlib.contextmanager
def recording(model: Distilled, active: Mapping[str, Distiller]) -> Iterator[Recorded]:
    """Record the student's taps of the active distillers while the context is open."""
    distillers, distillation = [*active.values()], model.distillation
    recorder = distillation._recorder
    if recorder is None or recorder.network is not model or distillation._recorded != distillers:
        taps = [tap for distiller in distillers for tap in distiller.recorded_taps]
        methods = [path for distiller in distillers for path in distiller.noted_methods]
        distillation._recorder = recorder = Recorder(model, taps, 'student_tap', methods=methods)
        distillation._recorded = distillers
    with recorder.recording() as student:
        yield student
    recorder.check_complete()


def distill_losses(
    active: Mapping[str, Distiller], student: Recorded, taught: Mapping[str, Recorded], data_samples: Samples
) -> Terms:
    """Return the losses of the active distillers without weight."""
    _check_gradients(student, {tap.text for distiller in active.values() for tap in distiller.student_taps})
    with contextlib.ExitStack() as stack:
        for teacher, _ in _teachers_of(active).values():
            stack.enter_context(teacher.compared())
        terms = {}
        for name, distiller in active.items():
            terms[name] = distiller(student, taught.get(str(distiller.teacher_name), {}), data_samples)
            _check_terms(f'model.distillers.{name}', distiller, terms[name])
    return terms


def run_plugins(step: TrainStep) -> None:
    """Run the step plugins."""
    for extra in step.model.distillation.extras:
        extra.add(step)


def combine_losses(step: TrainStep) -> dict[str, Any]:
    """Return all losses of a step, the distillers' with their weights, and numbers for the log."""
    terms = {name: distiller.weighted(step.terms.get(name, {})) for name, distiller in step.model.distillers.items()}
    losses = {**step.losses, **step.added}
    distill_terms = {f'distill.{name}.{key}': value for name, group in terms.items() for key, value in group.items()}
    return {**losses, **distill_terms, **shares(losses, terms)}


def _teachers_of(active: Mapping[str, Distiller]) -> dict[str, tuple[FrozenTeacher, RunState]]:
    return {str(d.teacher_name): (d.teacher, d.state) for d in active.values() if d.teacher is not None}


def _check_gradients(student: Mapping[str, list[Tensor]], compared: Collection[str]) -> None:
    if not torch.is_grad_enabled():
        return
    for name, tensors in student.items():
        if name in compared and not all(tensor.requires_grad for tensor in tensors):
            raise ValueError(
                f'student_tap={name!r} has no gradient. Inside a block with activation checkpointing (with_cp=True) '
                'tap its stage, e.g. backbone[3]; behind frozen layers (frozen_stages) tap a later module.'
            )


def _check_terms(key: str, distiller: Distiller, terms: Losses) -> None:
    """Refuse what is no loss, terms that would teach the student nothing, and parameters that nothing would train."""
    check_losses(key, terms)
    losses = [value for name, value in terms.items() if 'loss' in name]
    if not losses:
        raise ValueError(f'{key}: its loss returns {some(terms) or "nothing"}; names of losses must hold "loss".')
    if several := [f'{name} of shape {tuple(terms[name].shape)}' for name in terms if terms[name].numel() != 1]:
        raise ValueError(f'{key}: its loss returns {several[0]}: return one number, such as its mean.')
    has_gradient = not torch.is_grad_enabled() or any(value.requires_grad for value in losses)
    if not has_gradient and any(bool(value.ne(0).any()) for value in losses):  # an empty queue gives exactly 0
        raise ValueError(f'{key}: its loss has no gradient, so the student learns nothing from it. Is it detached?')
    if late := [name for name, p in distiller.named_parameters() if p.requires_grad and name not in distiller.trained]:
        reason = 'after the optimizer was made, which does not train it. Make it in setup() or build_level()'
        raise RuntimeError(f'{key}: its parameter {late[0]} was made {reason}.')


@torch.no_grad()
def shares(losses: Mapping[str, Any], terms: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return each distiller's part of the total loss; the total is summed as mmengine does."""
    task = [tensor.detach().mean() for name, value in losses.items() if 'loss' in name for tensor in _tensors(value)]
    parts = {
        name: torch.stack([value.detach().float() for key, value in group.items() if 'loss' in key]).sum()
        for name, group in terms.items()
        if any('loss' in key for key in group)
    }
    total = torch.stack([t.float() for t in task]).sum() + sum(parts.values()) if task else sum(parts.values())
    whole = torch.as_tensor(total)
    whole = whole.masked_fill(whole == 0, 1)  # the total is 0 with an empty queue and no task loss
    return {f'distill.{name}.share': part / whole for name, part in parts.items()}


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


# torch.compile gets the student alone, because the code around it changes with the iteration. torch.compiler.disable
# imports the compiler, so it is called when the first model needs it.
_eager = functools.cache(torch.compiler.disable)


def _batch(loss: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """Return pictures and samples, the first two parameters of a ``loss``, whatever their names."""
    bound = inspect.signature(loss).bind(*args, **kwargs)
    inputs, data_samples = [*bound.args, *bound.kwargs.values()][:2]
    return inputs, data_samples


@functools.cache
def distilled_class(student: type[Network]) -> type[Distilled]:
    """Return the subclass of a student's class that distils."""

    loss: Any = torch.compiler.disable(Distilled.loss, recursive=False)
    loss.__signature__ = inspect.signature(student.loss)
    doc = f'{student.__name__} with a distillation step in its training loss.'
    namespace = {'__module__': __name__, '__doc__': doc, 'loss': loss}
    return type(f'Distilled{student.__name__}', (Distilled, student), namespace)


def _blank(student: Any) -> Distilled:
    return object.__new__(distilled_class(student))


def _drop_distillers(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f'{prefix}distillers.')]:
        del state[name]


def _ignore_missing_distillers(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [
        name for name in incompatible.missing_keys if not (name.startswith('distillers.') or '.distillers.' in name)
    ]
