"""``DistillModel``: the student's own class, with a distillation step in its loss."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.config.resolve import load_model, merge
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.model.balanced_step import balance
from mmdistill_dense.model.build import Option, build_distillation, build_distillers, distiller_options
from mmdistill_dense.model.distillation import Distillation
from mmdistill_dense.model.step import compare, named, recording, shares, teach, weighted
from mmdistill_dense.model.unlabelled import KEY, Unlabelled, UnlabelledOption
from mmdistill_dense.model.unlabelled_step import with_unlabelled
from mmdistill_dense.networks.building import build_network, naming_weights
from mmdistill_dense.networks.inherit import copy_inherited, parse_inherit
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.random_streams import fork_rng

if TYPE_CHECKING:
    from mmdistill_dense.utils.protocols import Network, Samples

    class Distillers(nn.ModuleDict):  # the same with the type of its values
        def items(self) -> ItemsView[str, Distiller]: ...
        def values(self) -> ValuesView[Distiller]: ...
else:
    Network = object  # methods of a real base class would hide the student's own
    Distillers = nn.ModuleDict


@MODELS.register_module()
def DistillModel(
    student: Option,
    teacher: Option | None = None,
    distillers: Option | None = None,
    inherit: Sequence[Sequence[str]] | None = None,
    unlabelled: Option | None = None,
    **student_keys: Any,
) -> Network:
    """Build a student that distils from a teacher in its training step and is an ordinary student in everything else.

    The result is an instance of a subclass of the student's own class: parameter names, ``predict`` and checkpoints are
    those of the plain network. Without distillers and ``inherit`` it *is* the plain network (the control), and no
    teacher is built.

    Args:
        student: ``dict(cfg='mmseg::…', **overrides)`` or a whole model dict.
        teacher: The same with ``checkpoint`` (file, address or ``'auto'``), see :class:`FrozenTeacher`; or a dict of
            several by name.
        distillers: Options of the distillers by name, e.g. ``dict(kd=dict(type='LogitKD'))``; ``loss_weight=0``
            removes one.
        inherit: What the student copies from the teacher at its start: pairs of prefixes ``(student, teacher)``,
            e.g. ``[('neck', 'neck'), ('bbox_head', 'bbox_head')]``; a third member names the teacher where there are
            several. See :mod:`mmdistill_dense.networks.inherit`.
        unlabelled: Pictures without labels on which the distillers teach too, e.g. ``dict(data_root='data/more',
            ratio=1)``, see :class:`~mmdistill_dense.model.unlabelled.UnlabelledOption`; ignored without distillers.
        **student_keys: Further keys of the model config, which are merged over the student.

    Returns:
        The student.

    Raises:
        KeyError, ValueError, FileNotFoundError: For options that do not fit together, each naming the config key.
    """
    options = distiller_options(distillers or {})
    entries = parse_inherit(inherit)
    pictures = UnlabelledOption.parse(unlabelled)
    config = load_model(merge(student, student_keys, 'model.student'), 'model.student')
    config.beside = student_keys
    network = build_network(config)
    if pictures is not None and not options:
        print_log(f'{KEY} is ignored: without distillers, nothing is learnt from pictures without labels.', 'current')
    if not options and not entries:
        return network
    if options:
        _check_loss(network)
    with fork_rng():
        parts = build_distillers(options, config.scope)
        pseudo = None if pictures is None or not parts else pictures.pseudo
        distillation = build_distillation(network, config, parts, teacher, entries, pseudo)
        if pictures is not None and parts:
            distillation.unlabelled = Unlabelled.of(pictures, network, parts, distillation.traced.heads)
    kind: Any = type(network)  # mypy takes no class for hashable, which a cached function needs
    network.__class__ = _distilled_class(kind)
    assert isinstance(network, Distilled)
    network._attach(parts, distillation)
    return network


def _check_loss(student: Network) -> None:
    """Refuse a student that computes its losses elsewhere than in ``loss``: it would not be distilled."""
    if not hasattr(type(student), 'loss'):
        raise ValueError(
            f'model.student: {type(student).__name__} has no method loss(inputs, data_samples), which distillation '
            'extends. Give it one that returns the losses, and let its forward return self.loss(inputs, data_samples) '
            "for mode='loss', as the networks of mmseg and mmdet do."
        )


class Distilled(Network):
    """Mixin that turns a student class into a distilled one; it stands before that class in the bases."""

    distillers: Distillers
    distillation: Distillation

    def _attach(self, distillers: Mapping[str, Distiller], distillation: Distillation) -> None:
        self.distillers = Distillers(distillers)
        self.distillation = distillation
        self._register_state_dict_hook(_drop_distillers)
        self.register_load_state_dict_post_hook(_forgive_distillers)

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
        self.distillation.inherit_nothing()  # a second call after training must not copy again
        for teacher in self.distillation.teachers.values():
            if not teacher.taps:
                teacher.unload()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distilled:
        before = next(self.parameters())
        device, dtype = before.device, before.dtype
        super()._apply(fn, recurse)
        now = next(self.parameters())
        moved = (now.device, now.dtype) != (device, dtype)
        for name, teacher in self.distillation.teachers.items():
            shared = len(teacher.users) > 1
            if moved and (shared or now.is_meta):
                self._part_from(name)
            elif not shared:
                teacher.follow(fn)
        return self

    def to_empty(self, **options: Any) -> Distilled:
        """Move the student without its weights, as ``nn.Module`` does; the teachers keep theirs."""
        for name in self.distillation.teachers:
            self._part_from(name)
        return super().to_empty(**options)

    def _part_from(self, name: str) -> None:
        teacher = self.distillation.part_from(name)
        for distiller in self.distillers.values():
            if distiller.teacher_name == name:
                distiller.learn_from(teacher)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # pickle finds classes by name: it stores the student's class, and _blank makes this one from it.
        _, _, *state = tuple(super().__reduce_ex__(protocol))
        return _blank, (type(self).__bases__[1],), *state

    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the student's own losses and, in training, those of the distillers as ``distill.<name>.loss_…``.

        ``distill.<name>.share`` is that distiller's part of the total, for the log; see also :func:`balance`. The
        arguments are those of the student's class, by position or under its names.
        """
        if not self.training:
            return super().loss(*args, **kwargs)
        self.distillation.check_ready()
        inputs, data_samples = _eager(_batch)(super().loss, args, kwargs)
        distillers = dict(self.distillers.items())
        active = [distiller for distiller in distillers.values() if distiller.is_active()]
        # The teachers run first, so that their temporary memory is free before the student's graph is built.
        taught = _eager(teach)(active, inputs, next(self.parameters()))
        with recording(self, self.distillation, active) as student:
            losses = super().loss(*args, **kwargs)
        compared = _eager(compare)(distillers, student, taught, data_samples)
        parts = self, self.distillation, distillers, compared, len(inputs), super().loss
        compared, pseudo = _eager(with_unlabelled)(*parts)
        told = _eager(balance)(self, self.distillation, losses, compared)
        terms = _eager(weighted)(distillers, compared)
        losses = {**losses, **pseudo}
        return {**losses, **_eager(named)(terms), **_eager(shares)(losses, terms), **told}


# torch.compile gets the student alone, because the code around it changes with the iteration. torch.compiler.disable
# imports the compiler, so it is called when the first model needs it.
_eager = functools.cache(torch.compiler.disable)


def _batch(loss: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Samples]:
    """Return pictures and samples, the first two parameters of a ``loss``, whatever their names."""
    bound = inspect.signature(loss).bind(*args, **kwargs)
    inputs, data_samples = [*bound.args, *bound.kwargs.values()][:2]
    return inputs, data_samples


@functools.cache
def _distilled_class(student: type[Network]) -> type[Distilled]:
    def fill(namespace: dict[str, Any]) -> None:
        namespace['__module__'] = __name__
        namespace['__doc__'] = f'{student.__name__} with a distillation step in its training loss.'
        loss: Any = torch.compiler.disable(Distilled.loss, recursive=False)
        loss.__signature__ = inspect.signature(student.loss)
        namespace['loss'] = loss

    return types.new_class(f'Distilled{student.__name__}', (Distilled, student), exec_body=fill)


def _blank(student: Any) -> Distilled:
    """Return an empty distilled student, which ``pickle`` fills."""
    return object.__new__(_distilled_class(student))


def _drop_distillers(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f'{prefix}distillers.')]:
        del state[name]


def _forgive_distillers(module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [
        name for name in incompatible.missing_keys if not (name.startswith('distillers.') or '.distillers.' in name)
    ]
