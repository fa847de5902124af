"""Trace student and teachers in one pass, which tells the shape of every tap before any weight is loaded."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmdistill_dense.config.resolve import TEACHER_OPTIONS, ModelConfig, load_model
from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.networks.building import build_network, copy_network
from mmdistill_dense.networks.class_pairs import check_form
from mmdistill_dense.networks.inputs import InputGrid, with_normalisation
from mmdistill_dense.networks.modes import run_as_trained
from mmdistill_dense.networks.recording import Recorder, noting, run_parts
from mmdistill_dense.networks.taps import Tap, check_student_input
from mmdistill_dense.registry import class_of
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.runner_internals import Network

SINGLE = 'teacher'  # the name of the teacher where there is one only


@dataclass(frozen=True)
class TeacherOption:
    """The option ``model.teacher`` or ``model.teacher.<name>``, its network resolved."""

    key: str  # the config key, for errors
    name: str  # the teacher's name among several
    config: ModelConfig  # the network
    checkpoint: str | None = None  # A file, an address, ``'auto'`` or None
    allow_random: bool = False  # permit training without a checkpoint
    allow_other_classes: bool = False  # permit a teacher that was trained on other classes than the data set's
    # the student's classes and the teacher's that they are, or 'auto'; None for a teacher of the same classes
    classes: Any = None
    class_names: Sequence[str] | None = None  # those of its own classes; None for what its checkpoint says
    acceleration: Acceleration = field(default_factory=Acceleration)  # how its forward pass is made cheaper
    grid: InputGrid | None = None  # the size at which it sees the pictures; None: the student's

    @classmethod
    def parse(cls, option: Mapping[str, Any], key: str = 'model.teacher', name: str = SINGLE) -> TeacherOption:
        """Read the option."""
        network = {name: value for name, value in option.items() if name not in TEACHER_OPTIONS}
        if (classes := option.get('classes')) is not None:
            check_form(classes, f'{key}.classes')
            if option.get('allow_other_classes'):
                raise ValueError(f'{key}: classes says which classes are the same, so leave allow_other_classes out.')
        entries = ('checkpoint', 'allow_random', 'allow_other_classes', 'classes', 'class_names')
        return cls(
            key,
            name,
            load_model(network, key),
            acceleration=Acceleration.parse(option.get('accelerate'), key),
            grid=InputGrid.parse(option, key),
            **{entry: option[entry] for entry in entries if option.get(entry) is not None},
        )

    @property
    def other_classes(self) -> bool:
        """Whether the teacher may have other classes than the data set."""
        return self.allow_other_classes or self.classes is not None

    def build(self) -> Network:
        """Return a new network on the current default device, in eval mode and without pre-trained weights."""
        config, preprocessor = self.config, self.config.model.get('data_preprocessor')
        kind = class_of(config.model, config.scope) if 'data_preprocessor' in config.model else None
        parameters = options_of(kind) if inspect.isclass(kind) else None
        if parameters is not None and 'data_preprocessor' not in parameters:  # one that is given is for us then
            model = {name: value for name, value in config.model.items() if name != 'data_preprocessor'}
            config = replace(config, model=ConfigDict(model))
        with fork_rng():
            network = build_network(config, pretrained=False)
        network.eval()  # not chained: mmseg's backbones return nothing from it
        if self.grid is not None:  # its patch, or what its preprocessor pads to
            sizes = preprocessor or {}
            divisor = sizes.get('size_divisor') or sizes.get('pad_size_divisor') or 1
            network.input_grid = self.grid.whole(int(getattr(network, 'size_divisor', None) or divisor), self.key)
        return network

    def preprocessor_of(self, network: nn.Module) -> Mapping[str, Any] | None:
        """Return the normalisation of the pictures: the option's, else the network's own, else None."""
        preprocessor, option = getattr(network, 'preprocessor', None), self.config.model.get('data_preprocessor')
        if option is not None:
            return with_normalisation(option, self.config.scope) if hasattr(network, 'data_preprocessor') else option
        if isinstance(preprocessor, Mapping):
            return preprocessor
        return {} if hasattr(network, 'data_preprocessor') else None  # mm* networks: raw pixels


Shapes = dict[str, list[torch.Size]]
Result = TypeVar('Result')

DEFAULT_SIZE = (512, 512)
_CPU_SIDE = 256
_LARGEST = 2**22  # pixels of a trial


class _NumbersOnCPU(TorchFunctionMode):
    """Makes ``linspace`` on the CPU: transformers read numbers from it (drop path), and meta tensors hold none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        defaults = dict(device='cpu') if func is torch.linspace else {}
        return func(*args, **{**defaults, **(kwargs or {})})


@dataclass(frozen=True)
class Traced:
    """What one pass through a network tells, and how little of the network is enough for its taps."""

    taps: Sequence[Tap] = ()  # what is recorded
    stop_after: int | None = None  # the pass may end after so many recorded calls; None runs the whole network
    parts: Collection[str] | None = None  # the children that run until then, whose weights a file must hold; None: all
    heads: Sequence[str] | None = None  # the heads that run on the features; None lets each pass find out
    as_trained: bool = False  # whether it ran in training mode, see :mod:`mmdistill_dense.networks.modes`
    shapes: Shapes = field(default_factory=dict)  # the shapes of each tap's tensors, for one picture
    channels: int | None = None  # of the pictures that it takes; None where it was not run
    preprocessor: Mapping[str, Any] | None = None  # the normalisation that a teacher sees; None where nothing says it
    features_alone: bool = False  # whether a teacher has neither class scores nor boxes
    renormalise: Callable[[Tensor], Tensor] | None = None  # from the student's normalised pixels; None: the same

    def plan(self, required: Iterable[Collection[str] | None] = ()) -> Traced:
        """Return the plan, extended by the children that distillers call; ``None`` means all children."""
        name_sets = [self.parts, *required]
        return replace(self, parts=None if None in name_sets else {*chain.from_iterable(filter(None, name_sets))})


class Output(NamedTuple):
    """A tensor that a module gave: the tap that names it, the tensor, and its version at that moment."""

    tap: str
    path: str
    tensor: Tensor
    version: int  # another one later tells that it was overwritten


class Pass:
    """One run of a network on a picture, as in training, with what each of its modules got and gave.

    The trace, ``student_tap='auto'`` and ``mmdistill taps`` read it. The network is moved to the device.
    """

    def __init__(
        self, network: Network, size: tuple[int, int], device: str, clock: Callable[[], int] = lambda: 0
    ) -> None:
        network.to(device)
        self.network = network
        self.inputs = torch.zeros(1, input_channels(network), *size, device=device)
        self.clock = clock
        self.began: dict[str, int] = {}  # what ``clock`` gave when a module first began, by path
        self.calls: dict[str, list[tuple[Any, Any]]] = {}  # arguments and output of each call, by path
        self.outputs: list[Output] = []  # the tensors that taps name, in order
        self.as_trained = False  # whether it ran in training mode

    def run(self, function: Callable[[], Result]) -> Result:
        """Return ``function()``, which runs the network; what is noted is that of its last run."""
        result, self.as_trained = run_as_trained(self.network, lambda: self._noted(function))
        return result

    def _noted(self, function: Callable[[], Result]) -> Result:
        for record in (self.began, self.calls, self.outputs):
            record.clear()
        with noting(self.network.named_modules(), self._note, self._begin):
            return function()

    def _begin(self, path: str) -> None:
        self.began.setdefault(path, self.clock())

    def _note(self, path: str, args: Any, output: Any) -> None:
        self.calls.setdefault(path, []).append((args, output))
        is_list = isinstance(output, (tuple, list))
        members = [(f'{path}[{index}]', part) for index, part in enumerate(output)] if is_list else [(path, output)]
        self.outputs += [Output(tap, path, part, part._version) for tap, part in members if isinstance(part, Tensor)]


def trace_pair(
    student: Network,
    student_taps: Sequence[Tap],
    teachers: Mapping[str, tuple[TeacherOption, Sequence[Tap]]],
    size: tuple[int, int] | None,
) -> tuple[Traced, dict[str, Traced]]:
    """Trace the student and each teacher on one picture of the training size, and on one device.

    No global random stream changes.
    """

    def run(size: tuple[int, int], device: str) -> tuple[Traced, dict[str, Traced]]:
        with fork_rng(), torch.no_grad():
            copy = copy_network(student, shapes_alone=device == 'meta')
            traced = _trace(copy, student_taps, size, device, 'student_tap', trains=True)
            by_teacher = {}
            for name, (option, taps) in teachers.items():
                network = _built(option.build, device)
                trace = _trace(network, taps, size, device, 'teacher_tap')
                headless = getattr(network, 'features_alone', False)
                by_teacher[name] = replace(trace, preprocessor=option.preprocessor_of(network), features_alone=headless)
        return traced, by_teacher

    return _on_a_device(run, size)


def read_pass(
    build: Callable[[], Network],
    read: Callable[[Pass], Result],
    size: tuple[int, int] | None,
    graph: bool = False,
) -> Result:
    """Return ``read(passed)``, which runs the :class:`Pass` of a network that ``build`` makes, with or without a graph.

    No global random stream changes.
    """

    def run(size: tuple[int, int], device: str) -> Result:
        with fork_rng(), torch.set_grad_enabled(graph):
            return read(Pass(_built(build, device), size, device))

    return _on_a_device(run, size)


def _built(build: Callable[[], Network], device: str) -> Network:
    with torch.device(device), _NumbersOnCPU():
        return build()


def _on_a_device(run: Callable[[tuple[int, int], str], Result], size: tuple[int, int] | None) -> Result:
    """Return ``run(size, device)`` on the meta device, where it costs no arithmetic.

    Networks that cannot run there (some transformers, deformable convolutions) run on the CPU, at no more than 256
    pixels a side unless they need the whole size, or on the GPU where the CPU lacks one of their operations.
    """
    whole = size or DEFAULT_SIZE
    try:
        return run(whole, 'meta')
    except KeyError:
        raise
    except Exception:  # the meta device cannot do everything; the CPU decides, and has the better message
        small = (min(whole[0], _CPU_SIDE), min(whole[1], _CPU_SIDE))
        if small != whole:
            with contextlib.suppress(Exception):  # some networks run at their own size alone
                return run(small, 'cpu')
        try:
            return run(whole, 'cpu')
        except (RuntimeError, NotImplementedError) as error:
            if not torch.cuda.is_available():
                raise RuntimeError(_no_device(error, lambda size: run(size, 'cpu'), whole)) from error
            return run(whole, 'cuda')


def first_larger(run: Callable[[tuple[int, int]], Any], size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the first of some larger sizes at which ``run`` does not fail; ``None`` if it fails at all of them."""
    for factor in (1.25, 1.5, 2, 3, 4, 6, 8):
        height, width = (math.ceil(side * factor / 32) * 32 for side in size)
        if height * width <= _LARGEST:
            with contextlib.suppress(Exception):
                run((height, width))
                return height, width
    return None


def _no_device(error: Exception, run: Callable[[tuple[int, int]], Any], size: tuple[int, int]) -> str:
    if isinstance(error, NotImplementedError) or re.search('device|backend|GPU|CUDA', str(error)):
        hint = 'If one of its operations exists only for GPUs (CARAFE does), build the model on a machine with a GPU.'
    elif larger := first_larger(run, size):
        hint = (
            f'It cannot run pictures of {size[0]}x{size[1]}, but those of {larger[0]}x{larger[1]}: set a larger '
            'data_preprocessor.size and crop (new: --size), or take another network.'
        )
    else:
        hint = 'Where numbers of channels differ, set in_channels of the named part to those that it is given.'
    return (
        f'The pass that finds the shapes of the taps failed on the CPU{_where(error)}, and there is no GPU here to '
        f'try: {str(error).rstrip(".")}. {hint}'
    )


def _where(error: BaseException) -> str:
    """Return the path and network of the innermost module in which an error was raised, out of its traceback."""
    location, paths = '', {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        variables = frame.f_locals
        if frame.f_code is _trace.__code__:
            paths = {module: path for path, module in variables['network'].named_modules()}
            side = variables['key'].removesuffix('_tap')
        path = paths.get(variables.get('self')) if isinstance(variables.get('self'), nn.Module) else None
        location = f' in {path} of the {side}' if path else location
    return location


def _trace(
    network: Network, taps: Sequence[Tap], size: tuple[int, int], device: str, key: str, trains: bool = False
) -> Traced:
    if not taps:  # a teacher that is only inherited from
        return Traced(parts=set())
    recorder = Recorder(network, taps, key)
    passed = Pass(network, size, device, lambda: recorder.calls)
    for tap in taps if trains else ():
        check_student_input(network, tap, key)

    def run() -> tuple[list[str], Mapping[str, list[Tensor]]]:
        with recorder.recording() as tensors:
            return run_parts(network, taps, passed.inputs, rois=trains), tensors

    heads, tensors = passed.run(run)
    recorder.check_complete()
    if (grid := getattr(network, 'input_grid', None)) is not None:
        tensors = grid.restored(tensors, size)
    shapes = {name: [tensor.shape for tensor in outputs] for name, outputs in tensors.items()}
    parts = {path.split('.')[0] for path, calls in passed.began.items() if path and calls < recorder.calls}
    return Traced(taps, recorder.calls, parts, heads, passed.as_trained, shapes, passed.inputs.shape[1])


def input_channels(network: nn.Module) -> int:
    """Return the number of channels of a network's pictures, from its preprocessor or else its first convolution.

    A preprocessor with one mean does not tell it: that mean serves all channels.
    """
    mean = getattr(getattr(network, 'data_preprocessor', None), 'mean', None)
    if isinstance(mean, torch.Tensor) and mean.numel() > 1:
        return mean.numel()
    modules = list(network.modules())
    if any(type(module).__name__ == 'Focus' for module in modules):  # YOLOX: it turns pixels into channels
        return 3
    return next((module.in_channels for module in modules if isinstance(module, nn.Conv2d)), 3)
