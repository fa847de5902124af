"""The frozen teacher: loaded strictly, never part of the student; and the parts of it that a student starts from."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmdistill_dense.config.values import num_classes, with_one_more_class
from mmdistill_dense.networks.building import move
from mmdistill_dense.networks.class_pairs import ClassPairs, check_names
from mmdistill_dense.networks.inputs import InputStats
from mmdistill_dense.networks.modes import followed
from mmdistill_dense.networks.recording import Recorder, TappedPass
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.networks.trace import TeacherOption, Traced
from mmdistill_dense.utils.reproducible import fork_rng, seed_everything, stream_states
from mmdistill_dense.utils.runner_internals import Network, Samples
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.strict_load import (
    Receipt,
    below,
    class_names_in,
    load_strictly,
    local_file,
    read_checkpoint,
    sha256,
    state_dict_of,
)


class FrozenTeacher:
    """Runs a network up to its last tap, in eval mode and without gradient.

    It is no ``nn.Module`` on purpose: its weights are not in the student's ``state_dict`` or ``parameters``, not
    averaged by EMA, not broadcast by DDP, not re-initialised and not switched by ``train()``. The network is built and
    loaded by :meth:`load`, which the runner calls in training only.

    ``deepcopy`` shares it. ``pickle`` leaves the network out, as :meth:`unloaded` does.

    Args:
        option: ``dict(cfg=…, checkpoint=…, **overrides)`` with the keys of :class:`TeacherOption`, or the result of its
            ``parse``. ``accelerate`` holds the options of :class:`Acceleration`, ``scale`` and ``fit`` are those of
            :class:`InputGrid`.
        plan: What is recorded, and how. Defaults to a whole pass without taps.
    """

    def __init__(self, option: Mapping[str, Any] | TeacherOption, plan: Traced | None = None) -> None:
        self.option = option if isinstance(option, TeacherOption) else TeacherOption.parse(option)
        self.plan = plan or Traced()
        self.key, self.config = self.option.key, self.option.config
        self.network: Network | None = None
        self.receipt: Receipt | None = None
        self.classes: Sequence[str] | None = self.option.class_names
        self.pairs: ClassPairs | None = None  # for the option `classes`; known when a run starts
        self.users: WeakSet[object] = WeakSet()  # the `Distillation` of each model that runs this teacher
        self.class_rows: list[str] = []  # tensors with a row for each of its other classes that a student copied
        self.input_stats: list[InputStats] | None = None  # of each pass in the first step of a run
        self._step_cache: dict[Hashable, Any] | None = None
        self._recorder: Recorder | None = None  # of the network, which the options of `accelerate` have prepared
        self._pass: TappedPass | None = None
        self._as_trained = False  # whether its modules are in the mode of a training, but for what is random there
        self._draws: bool | None = None  # whether it draws random numbers; the first pass finds out

    @property
    def taps(self) -> Sequence[Tap]:
        """What is recorded; a teacher without taps is only inherited from."""
        return self.plan.taps

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), 'network': None, 'input_stats': None, '_step_cache': None}
        state |= {'_recorder': None, '_pass': None, '_draws': None}
        del state['users']
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.users = WeakSet()

    def unloaded(self) -> FrozenTeacher:
        """Return the same teacher without its network, which :meth:`load` reads from the file again."""
        return copy.copy(self)

    def load(self, like: Tensor, random: bool = False) -> None:
        """Build the network and load its weights, unless that is done.

        It takes the device and dtype of ``like``, a parameter of the student. ``random`` draws random weights instead,
        for measurements that need no trained ones.
        """
        if self.network is not None:
            return
        before, checkpoint = self.receipt, None if random else self.option.checkpoint
        if checkpoint is None and not (random or self.option.allow_random):
            raise ValueError(
                f'{self.key}.checkpoint is not set: random weights teach nothing. Give a file, or '
                f"'auto' for the weights published for {self.config.source or 'a zoo config'} (or allow_random=True)."
            )
        # A runner may build under another default device; the weights come from files on the CPU.
        with torch.device('cpu'), fork_rng():
            torch.manual_seed(0)  # before it is built: constructors draw weights too
            network = self.option.build()
            if checkpoint is None:
                if hasattr(network, 'init_weights'):
                    network.init_weights()
                source = self.config.source or getattr(network, 'source', None)
                self.receipt = Receipt(source, None, None, 0, len(network.state_dict()), 0)
            else:
                # Cast before loading, so that a float64 file keeps its digits beside a float64 student.
                self._load_weights(move(network, dtype=like.dtype), checkpoint)
        if before is not None and self.receipt is not None and before.sha256 != self.receipt.sha256:
            self.receipt = before
            raise ValueError(f'{self.key}.checkpoint={checkpoint!r} is another file than the one loaded before.')
        self.adopt(move(network, device=like.device, dtype=like.dtype))

    def adopt(self, network: Network) -> None:
        """Use this network, in eval mode and with its weights."""
        self.network = network.requires_grad_(False)
        self._recorder = self._pass = self._draws = None

    def match_classes(self, student: Sequence[str] | None, distillers: Iterable[Any] = ()) -> Sequence[str]:
        """Resolve the option ``classes`` by the names of the data set's classes, and return what to tell of it.

        Distillers of this teacher refuse pairs that they cannot compare. Nothing is done while its names are unknown,
        which :meth:`load` may read.
        """
        key = f'{self.key}.classes'
        if student is None:
            raise ValueError(f"{key} needs the student's classes: set metainfo.classes of the training set.")
        if self.classes is None and self.receipt is None:
            return []
        check_names(self.key, self.classes, num_classes(self.config.model))
        assert self.classes is not None, 'it is checked'
        self.pairs = ClassPairs.of(self.option.classes, student, self.classes, key)
        for distiller in distillers:
            if distiller.teacher is self:
                distiller.check_classes(self.pairs)
        return self.pairs.describe()

    def class_pairs(self) -> ClassPairs | None:
        """Return ``pairs``, or ``None`` for a teacher of the student's classes."""
        if self.option.classes is not None and self.pairs is None:
            raise RuntimeError(f'{self.key}.classes: a loop of your own calls match_classes before its first step.')
        return self.pairs

    def _load_weights(self, network: Network, checkpoint: str) -> None:
        key = f'{self.key}.checkpoint'
        path = local_file(checkpoint, self.config.source, key)
        if hasattr(network, 'load_teacher'):
            reader: Any = network  # an SSLTeacher reads files of other layouts, as strictly
            matched, ignored = reader.load_teacher(path, key)
            source = self.config.source or reader.source
        else:
            content = read_checkpoint(path)
            state = state_dict_of(content, path)
            matched, ignored = load_strictly(network, state, self.plan.parts, f'{key}={checkpoint!r}')
            source = self.config.source
            self.classes = self.option.class_names or class_names_in(content) or None
        self.receipt = Receipt(source, path.name, sha256(path), matched, len(network.state_dict()), ignored)

    def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow a device or dtype change of the student; before :meth:`load` do nothing."""
        if self.network is not None:
            self.network._apply(fn)
            move(self.network, device=next(self.network.parameters()).device)  # tells its data preprocessor the device

    def module(self, path: str) -> nn.Module:
        """Return a part of the loaded network, ``''`` being all of it."""
        assert self.network is not None, 'the teacher is loaded before training'
        return self.network.get_submodule(path)

    @contextmanager
    def compared(self) -> Iterator[None]:
        """Keep the results of :meth:`cached` while the context is open."""
        self._step_cache = {}
        try:
            yield
        finally:
            self._step_cache = None

    def cached(self, question: Hashable, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``, a result of parts of the frozen network; compute it once per ``question`` and step."""
        cache = {} if self._step_cache is None else self._step_cache
        if question not in cache:
            cache[question] = compute()
        return cache[question]

    def renormalised(self, inputs: Tensor) -> Tensor:
        """Return a batch in the teacher's normalisation; the student's preprocessor normalised it."""
        return inputs if self.plan.renormalise is None else self.plan.renormalise(inputs)

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor | Sequence[Tensor], seed: int = 0, samples: Samples | None = None
    ) -> dict[str, list[Tensor]]:
        """Return the tapped tensors for a batch ``(B, C, H, W)`` that the student's preprocessor made.

        For a list of views, the tensors of the first view come first. A network that draws random numbers (SegNeXt)
        draws them from streams of its own, which begin at ``seed``. Of the ``samples`` a detector with queries sees the
        metadata, never a label.
        """
        views = [inputs] if isinstance(inputs, Tensor) else inputs
        if not isinstance(views, (list, tuple)) or not all(isinstance(view, Tensor) for view in views):
            batch: Any = inputs  # a dict of semi-supervised detectors
            keys = f' of {", ".join(batch)}' if isinstance(batch, Mapping) else ''
            raise TypeError(
                f'{self.key} takes one batch of pictures (a tensor) or a list of views (tensors), but '
                f'model.student.data_preprocessor gives a {type(inputs).__name__}{keys}: set model.student to the '
                "network that gets the pictures in the end; of a semi-supervised detector, the config's model.detector."
            )
        is_first = self._draws is None
        with nullcontext() if self._draws is False else self._own_streams(seed):
            if len(views) == 1:
                tensors = self._record(views[0], samples)
            else:
                runs = [self._record(view) for view in views]
                tensors = {tap.text: [map_ for run in runs for map_ in run[tap.text]] for tap in self.plan.taps}
        if is_first and self._draws and self._as_trained:  # or is it random in training alone?
            self._run_as_trained(False)
            self._draws = None
            quiet = self(inputs, seed, samples)
            if not self._draws:
                warning = 'draws random numbers in training, so its taps are those of eval mode'
                print_log(f'{self.key} {warning}.', 'current', logging.WARNING)
                return quiet
            self._run_as_trained(True)
        return tensors

    def _run_as_trained(self, as_trained: bool) -> None:
        """Put the modules that compute something else in training into that mode, or back into eval mode."""
        assert self.network is not None, 'the teacher is loaded before training'
        self._as_trained = as_trained
        for module in followed(self.network):
            module.training = as_trained  # not train(), which does more in backbones of mm*

    @contextmanager
    def _own_streams(self, seed: int) -> Iterator[None]:
        with fork_rng():
            seed_everything(seed)
            before = None if self._draws else stream_states()
            yield
            self._draws = self._draws or stream_states() != before

    def _record(self, inputs: Tensor, samples: Samples | None = None) -> dict[str, list[Tensor]]:
        assert self.network is not None, 'the teacher is loaded before training'
        plan, acceleration = self.plan, self.option.acceleration
        if self._recorder is None or self._pass is None:
            acceleration.prepare(self.network)
            # of the loaded network: a head made for its file may have other layers than the traced one
            self._run_as_trained(plan.as_trained)
            self._recorder = Recorder(self.network, plan.taps, f'{self.key} tap', plan.stop_after)
            self._pass = TappedPass(self.network, plan.taps, heads=plan.heads)
        pixels = self.renormalised(inputs)
        with ExitStack() as stack:
            prepared = stack.enter_context(acceleration.running(pixels)) if acceleration.changes_pass else pixels
            tensors = stack.enter_context(self._recorder.recording())
            self._pass(prepared, samples)
        self._recorder.check_complete()
        if self.input_stats is not None:
            # random weights are asked for to measure times: a new head's scores may well be the same everywhere
            self.input_stats.append(self.measure_inputs(pixels, tensors if self.option.checkpoint is not None else {}))
        grid = getattr(self.network, 'input_grid', None)
        if grid is not None:
            tensors = grid.restored(tensors, inputs.shape[2:])
        if self.option.acceleration.dtype is not None:
            return {name: [tensor.to(inputs.dtype) for tensor in maps] for name, maps in tensors.items()}
        return tensors

    def measure_inputs(self, inputs: Tensor, maps: Mapping[str, Sequence[Tensor]]) -> InputStats:
        """Return the statistics of a renormalised batch and of its maps; the CPU waits for the device."""
        assert self.network is not None, 'the teacher is loaded before training'
        return InputStats.of(inputs, self.option.preprocessor_of(self.network), maps)


@dataclass(frozen=True)
class Inherit:
    """One entry of ``model.inherit``: a prefix in the student (``target``) and one in the teacher (``source``)."""

    target: str
    source: str
    teacher: str | None = None  # None: the only teacher


def parse_inherit(option: Sequence[Sequence[str]] | None) -> list[Inherit]:
    """Read the option ``model.inherit``."""
    entries = [] if option is None else option
    valid = isinstance(entries, (list, tuple)) and all(
        isinstance(entry, (list, tuple)) and len(entry) in (2, 3) and all(isinstance(x, str) and x for x in entry)
        for entry in entries
    )
    if not valid:
        problem = "model.inherit must be a list of (student prefix, teacher prefix), e.g. [('neck', 'neck')]"
        raise TypeError(f'{problem}; with several teachers the third member names one. Got {option!r}.')
    return [Inherit(*(part.rstrip('.') for part in entry)) for entry in entries]


def with_teacher_names(entries: Sequence[Inherit], teachers: Collection[str]) -> list[Inherit]:
    """Return the entries, each with the name of its teacher; an entry that names none gets the only teacher."""
    only = next(iter(teachers)) if len(teachers) == 1 else None
    inherits = [replace(entry, teacher=only) if entry.teacher is None else entry for entry in entries]
    for entry in inherits:
        if entry.teacher not in teachers:
            members, names = (entry.target, entry.source, entry.teacher), ', '.join(teachers)
            raise ValueError(f'model.inherit={members!r}: name one of the teachers {names} as the third member.')
    return inherits


def copy_inherited(student: nn.Module, entries: Sequence[Inherit], teachers: Mapping[str, FrozenTeacher]) -> None:
    """Copy the entries' tensors from the loaded teachers into the student.

    The tensors below a prefix, or the one of this name, are copied by name; both sides must hold the same names and
    shapes, but a bias that only the student has becomes 0, which makes the two layers equal. That is done after the
    student's own initialisation and before a checkpoint is resumed. A run from ``load_from`` inherits nothing.
    """
    target = student.state_dict()
    for entry in entries:
        teacher = teachers[str(entry.teacher)]
        if teacher.receipt is None or teacher.receipt.file is None:
            raise ValueError(f'model.inherit: {teacher.key} has no weights from a file: give {teacher.key}.checkpoint.')
        source = teacher.module('').state_dict()
        _copy(target, below(source, entry.source), entry, teacher.key)
        part = entry.source.split('.')[0]
        if part == 'backbone' and teacher.plan.renormalise is not None:
            print_log(
                f"model.inherit: the backbone's weights are for the pixels of {teacher.key}, and the student sees "
                "others. Set model.student.data_preprocessor to the teacher's mean, std and order of colours.",
                'current',
                logging.WARNING,
            )
        if part not in ('backbone', 'neck') and teacher.option.other_classes:
            # tensors with a row for each class have another shape in a network for one class more
            wider = replace(teacher.config, model=with_one_more_class(teacher.config.model))
            with torch.device('cpu'):
                other = replace(teacher.option, config=wider).build().state_dict()
            rows = [name for name, value in source.items() if name not in other or other[name].shape != value.shape]
            teacher.class_rows += [name for name in rows if f'{name}.'.startswith(f'{entry.source}.')]


def _copy(state: Mapping[str, Tensor], source: dict[str, Tensor], entry: Inherit, key: str) -> None:
    target = below(state, entry.target)
    weights = {name.removesuffix('weight') for name in target.keys() & source.keys() if name.endswith('.weight')}
    for name in target.keys() - source.keys():
        if name.endswith('.bias') and name.removesuffix('bias') in weights:
            source[name] = torch.zeros_like(target[name])
    for side, prefix, tensors in (('model.student', entry.target, target), (key, entry.source, source)):
        if not tensors:
            raise ValueError(f'model.inherit: no tensor of {side} has the prefix {prefix!r}.')
    shapes = {name: (tuple(target[name].shape), tuple(source[name].shape)) for name in target.keys() & source.keys()}
    wrong = [f'{name} {s} and {t}' for name, (s, t) in sorted(shapes.items()) if s != t]
    problems = {
        'only in the student': sorted(target.keys() - source.keys()),
        'only in the teacher': sorted(source.keys() - target.keys()),
        'with another shape (student, teacher)': wrong,
    }
    if any(problems.values()):
        lines = '; '.join(f'{title}: {some(names)}' for title, names in problems.items() if names)
        problem = f'the student and {key} differ here, so nothing can be copied. {lines}'
        raise ValueError(f'model.inherit={(entry.target, entry.source)!r}: {problem}. Inherit a part that both share.')
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])
    print_log(
        f'model.inherit: {len(target)} tensors of {entry.target!r} copied from {entry.source!r} of {key}', 'current'
    )
