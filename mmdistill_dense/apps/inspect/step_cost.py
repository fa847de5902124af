"""What a method costs: size of the student, time and memory of a training step on a generated batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmdistill_dense.config.resolve import model_of, teachers_of
from mmdistill_dense.config.values import chain
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.engine.loss_guard import clip_unscaled
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.registry import DATASETS, MODELS
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.utils.process import quiet_profiler
from mmdistill_dense.utils.runner_internals import Network, Sample, wrappers_of
from mmdistill_dense.weights.strict_load import is_path

Size = tuple[int, int]
Work = Callable[[], object]

BOXES = 8  # an image of COCO has 7 on average
REPEATS = 5
NOISE = 0.1  # of a time, on a machine that others use too


def training_batch(network: Any, config: Mapping[str, Any], images: int, size: Size | None = None) -> dict[str, Any]:
    """Return a generated batch in the form that a data loader gives."""
    draw = torch.Generator().manual_seed(0)
    if hasattr(network, 'decode_head'):
        size, sample = size or _crop(network), _labels
    elif hasattr(network, 'bbox_head') or hasattr(network, 'roi_head'):
        size, sample = size or _training_size(config), _boxes
    else:
        said = f'must have a decode_head, bbox_head or roi_head, {type(network).__name__} has none of them'
        raise ValueError(f'step benchmark: the student {said}')
    samples = [sample(network, size, draw) for _ in range(images)]
    inputs = [torch.randint(256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def picture_size(dataset: Mapping[str, Any]) -> Size:
    """Return height and width of the first picture of a data set, after its pipeline."""
    picture = DATASETS.build(dataset)[0]['inputs']
    return picture.shape[1], picture.shape[2]


def _crop(network: Network) -> Size:
    size = getattr(network.data_preprocessor, 'size', None)
    if size is None:
        raise ValueError('step benchmark: the student has no data_preprocessor.size, the training crop; give --size')
    return tuple(size)


def _training_size(config: Mapping[str, Any]) -> Size:
    dataset = config['train_dataloader'].get('dataset', {})
    size = pipeline_size(dataset)
    if size is None and _pipeline(dataset):  # generated at its size
        return picture_size(dataset)
    if size is None:
        raise ValueError('step benchmark: no step of train_dataloader.dataset.pipeline has a scale; give --size')
    return size


def pipeline_size(dataset: Mapping[str, Any]) -> Size | None:
    """Return the height and width that a detector's pipeline crops to, else the largest that it resizes to."""
    steps = _pipeline(dataset)
    for step in reversed(steps):
        if step['type'] == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute':
            width, height = step['crop_size']  # the order of mmdet
            return height, width
    scales = list(_scales(steps))
    if not scales:
        return None
    width, height = max(scales, key=lambda scale: scale[0] * scale[1])
    return height, width


def _pipeline(dataset: Mapping[str, Any]) -> Sequence[Any]:
    return chain(dataset)[0].get('pipeline', [])


def _scales(steps: Iterable[Any]) -> Iterator[Size]:
    for step in steps:
        if not isinstance(step, Mapping):  # one of several branches
            yield from _scales(step)
            continue
        yield from _pairs(step.get('scale') or step.get('scales') or [])
        yield from _scales(step.get('transforms', []))


def _pairs(scale: Any) -> Sequence[Size]:
    """Return the scales of a step, which has one or several of them, or the side of a square."""
    if isinstance(scale, int):
        return [(scale, scale)]
    return scale if not scale or isinstance(scale[0], (list, tuple)) else [scale]


def _labels(network: Network, size: Size, draw: torch.Generator) -> Sample:
    from mmseg.structures import SegDataSample

    head: Any = network.decode_head
    labels = torch.randint(head.num_classes, (1, *size), generator=draw)
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': size})


def _boxes(network: Network, size: Size, draw: torch.Generator) -> Sample:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}
    limits = torch.tensor([size[1], size[0]])
    sides = limits * 2 ** -(1 + 3 * torch.rand(BOXES, 2, generator=draw))  # 1/16 to 1/2 of the image
    corners = (limits - sides) * torch.rand(BOXES, 2, generator=draw)
    boxes = torch.cat([corners, corners + sides], 1)
    labels = torch.randint(_num_classes(network), (BOXES,), generator=draw)
    instances = InstanceData(bboxes=boxes, labels=labels)
    if getattr(network, 'with_mask', False):
        instances.masks = BitmapMasks(_filled(boxes, size).numpy(), *size)
    return DetDataSample(metainfo=meta, gt_instances=instances)


def _filled(boxes: Tensor, size: Size) -> Tensor:
    ys, xs = torch.arange(size[0])[None, :, None], torch.arange(size[1])[None, None]
    left, top, right, bottom = (side[:, None, None] for side in boxes.T)
    return ((xs >= left) & (xs < right) & (ys >= top) & (ys < bottom)).to(torch.uint8)


def _num_classes(network: Network) -> int:
    head: Any = network if hasattr(network, 'bbox_head') else network.roi_head
    first: Any = head.bbox_head[0] if isinstance(head.bbox_head, nn.ModuleList) else head.bbox_head
    return first.num_classes


N = TypeVar('N', bound=Network)

DEFAULT_ITERATIONS = 1000  # of a run whose length is unknown, because its data set is missing


@dataclass(frozen=True)
class Step(Generic[N]):
    """A training step of a network, always on the same batch."""

    network: N
    wrapper: OptimWrapper | OptimWrapperDict
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
        return list(self.distilled.network.distillation.teachers.values())

    @property
    def batch(self) -> int:
        return len(self.inputs)

    @property
    def size(self) -> tuple[int, int]:
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
    """Return the control's and the distilled step on a generated batch, as a runner does them."""
    # random weights of a teacher without its file have batch statistics: the time of the contrast depends on how far
    # features lie apart; the weights of the student are fixed by a learning rate of 0, and tokens are random
    model = model_of(config)
    if not model.get('distillers') or not model.get('teacher'):
        raise ValueError('step benchmark: model has no teacher and distillers to measure')
    scope = config.get('default_scope', 'mmseg')
    init_default_scope(scope)
    if image_size and scope == 'mmseg':  # it pads to its training crop
        model['data_preprocessor'] = {**(model.get('data_preprocessor') or {}), 'size': tuple(image_size)}
    control: Network = build_student({**model, 'distillers': {}, 'inherit': ()})
    distilled: Distilled = build_student(model)
    # one student in both steps: the time of NMS and of sampled RoIs depends on its weights
    distilled.load_state_dict(control.state_dict(), strict=False)
    data = training_batch(control, config, batch or config.train_dataloader.batch_size, image_size)
    control, distilled = control.to(device), distilled.to(device)
    inputs = distilled.data_preprocessor(data, True)['inputs']
    for teacher in distilled.distillation.teachers.values():
        load_teacher(teacher, next(distilled.parameters()), inputs)
    distilled.distillation.enter_run(run_length(config))
    second = unlabelled_of(distilled)
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
    """Load a teacher as a training does; without its file, give it random weights with the statistics of a batch."""
    given = teacher.option.checkpoint
    if given and not random and (not is_path(given) or Path(given).expanduser().is_file()):
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
    """Return the iterations of a config's run."""
    loop = config.get('train_cfg') or {}
    if 'max_iters' in loop:
        return loop['max_iters']
    if 'max_epochs' not in loop or pictures is None:
        return DEFAULT_ITERATIONS
    return loop['max_epochs'] * max(pictures // (config.train_dataloader.get('batch_size', 1) * processes), 1)


def draw_tokens(distiller: TokenDistiller, draw: torch.Generator) -> None:
    shapes = distiller.token_shapes()
    distiller.load_tokens({name: 0.01 * torch.randn(shape, generator=draw) for name, shape in shapes.items()})


def _give_tokens(network: Distilled) -> None:
    draw = torch.Generator().manual_seed(0)
    for distiller in distillers_of(network).values():
        if isinstance(distiller, TokenDistiller):
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
    first, *_ = wrappers = wrappers_of(wrapper)
    for group in (group for one in wrappers for group in one.param_groups):
        group['lr'] = 0.0
    for distiller in distillers_of(network).values():
        if distiller.clip_max_norm is not None:
            first.optimizer.register_step_pre_hook(partial(_clip, distiller))
    return Step(network, wrapper, data)


def _clip(distiller: Distiller, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    clip_unscaled(distiller, optimizer)  # what a hook returns would replace the optimizer's arguments


# Time and memory


@dataclass(frozen=True)
class Timing:
    """Seconds over the repetitions, of process CPU time or of a GPU."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.3g} ({self.low:.3g}-{self.high:.3g})'


def interleaved_times(works: Mapping[str, Work], repeats: int, device: str | torch.device = 'cpu') -> dict[str, Timing]:
    """Time several works in turns, after one untimed turn, so that all see the same machine."""
    # process CPU time leaves out other programs; on a GPU it would measure launches only, so events are timed
    seconds_of = _cuda_seconds if torch.device(device).type == 'cuda' else _process_seconds
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            taken = seconds_of(work)
            if turn:
                seconds[name].append(taken)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def check_whole(times: Mapping[str, Timing], whole: str, parts: Sequence[str]) -> None:
    """Raise RuntimeError if a whole took less time in every turn than its parts, by more than noise."""
    least, usual = sum(times[part].low for part in parts), sum(times[part].median for part in parts)
    repeated = times[whole].low < times[whole].high
    if repeated and times[whole].high < least and times[whole].median < (1 - NOISE) * usual:
        raise RuntimeError(
            f'The {whole} step took {times[whole]} s. Its parts alone ({" and ".join(parts)}) took {usual:.3g} s. A '
            f'ratio of {times[whole].median / usual:.3f} is not a measurement: the step did less than a step of '
            'training does, or the machine was disturbed. Measure again.'
        )


def _process_seconds(work: Work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _cuda_seconds(work: Work) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()  # what was launched before on other streams
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def peak_extra_memory(work: Work, device: str | torch.device = 'cpu') -> int:
    """Return the most bytes that torch held at once on the device beyond the start, without scratch of libraries."""
    if torch.device(device).type == 'cuda':
        return _cuda_peak(work)
    with quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _cuda_peak(work: Work) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def student_cost(config: Config, size: Size | None = None) -> dict[str, Any]:
    """Return parameters and GFLOPs (multiply-adds that mmengine counts) of student and teachers at the test size."""
    init_default_scope(config.get('default_scope', 'mmseg'))
    student = build_student({**model_of(config), 'distillers': {}, 'inherit': ()})
    size, origin = (size, 'given') if size else test_size(student, config)
    cost = {'student': _size_of(student, student, config, size), 'test_size': list(size), 'test_size_from': origin}
    teachers = [TeacherOption.parse(option).build() for option in teachers_of(config.model).values()]
    sizes = [_size_of(teacher, student, config, size) for teacher in teachers]
    total = {key: sum(one[key] for one in sizes) for key in ('parameters', 'gflops')}
    return {**cost, 'teacher': total if sizes else None}


def step_cost(config: Config, device: str, batch: int | None = None, repeats: int = REPEATS) -> dict[str, Any]:
    """Return time and memory of the distilled step and of the control's, measured in turns on one generated batch."""
    steps = prepare_steps(config, batch, device=device)
    times = interleaved_times({'control': steps.control, 'distilled': steps.distilled}, repeats, device)
    check_whole(times, 'distilled', ['control'])
    return {
        'batch': steps.batch,
        'train_size': list(steps.size),
        'teacher_weights': steps.teacher_weights,
        'adapter_parameters': sum(p.numel() for p in steps.distilled.network.distillers.parameters()),
        'seconds': {name: asdict(timing) for name, timing in times.items()},
        'ratio': times['distilled'].median / times['control'].median,
        'memory': extra_memory(steps, device),
    }


def test_size(student: Network, config: Config) -> tuple[Size, str]:
    """Return height and width of a test picture as the network gets it, and where they come from."""
    dataset = config.test_dataloader.dataset
    try:
        return picture_size(dataset), 'the first test picture'
    except FileNotFoundError:
        resized = None if hasattr(student, 'decode_head') else pipeline_size(dataset)
        if resized:
            return resized, 'the test pipeline'
        picture = training_batch(student, config, 1)['inputs'][0]
        return (picture.shape[1], picture.shape[2]), 'the size in training, as the test set is not there'


def _size_of(network: Any, student: Network, config: Config, size: Size) -> dict[str, Any]:
    batch = student.data_preprocessor(training_batch(student, config, 1, size), False)
    return {'parameters': sum(p.numel() for p in network.parameters()), 'gflops': gflops_of(network, batch)}


def gflops_of(network: Any, batch: Mapping[str, Any]) -> float:
    """Return the operations of a forward pass over a prepared batch, in 1e9, as mmengine counts them."""
    network.eval()
    forward = network.forward
    if hasattr(network, 'roi_head') or hasattr(network, 'bbox_head'):  # may ask for the size
        network.forward = partial(network.forward, data_samples=batch['data_samples'])
    try:
        with torch.no_grad():
            counted = FlopAnalyzer(network, (batch['inputs'],))
            return counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() / 1e9
    finally:
        network.forward = forward


def extra_memory(steps: Steps, device: str) -> dict[str, int]:
    """Return, in bytes, the peaks of both steps, what distillation holds between steps, and the extra in all."""
    control, distilled = (peak_extra_memory(step, device) for step in (steps.control, steps.distilled))
    held = _held(steps.distilled) - _held(steps.control) + sum(_bytes(_tensors(t.network)) for t in steps.teachers)
    return {'control_step': control, 'distilled_step': distilled, 'held': held, 'extra': distilled - control + held}


def _held(step: Step) -> int:
    states = [state for one in wrappers_of(step.wrapper) for state in one.optimizer.state.values()]
    return _bytes(_tensors(step.network)) + _bytes(v for state in states for v in state.values() if torch.is_tensor(v))


def _tensors(network: nn.Module | None) -> list[Tensor]:
    assert network is not None, 'the teacher is loaded before a step'
    return [*network.parameters(), *network.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
    return sum(storages.values())
