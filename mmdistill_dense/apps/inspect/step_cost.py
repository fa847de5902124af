"""What a step costs: a generated batch, and time and memory of a training step on it."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmdistill_dense.config.values import chain, mappings, pipeline_of
from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller
from mmdistill_dense.engine.loss_guard import clip_unscaled
from mmdistill_dense.model.distill_model import Distilled, distillers_of
from mmdistill_dense.networks.building import complete_heads
from mmdistill_dense.networks.recording import run_parts
from mmdistill_dense.networks.teacher import FrozenTeacher
from mmdistill_dense.registry import DATASETS, MODELS
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.process import quiet_profiler
from mmdistill_dense.utils.runner_internals import Network, Sample, wrappers_of
from mmdistill_dense.weights.strict_load import is_path

Size = tuple[int, int]
Work = Callable[[], object]

BOXES = 8  # an image of COCO has 7 on average


def training_batch(network: Any, config: Mapping[str, Any], images: int, size: Size | None = None) -> dict[str, Any]:
    """Return a generated batch in the form that a data loader gives."""
    draw, problem = torch.Generator().manual_seed(0), 'step benchmark: '
    if hasattr(network, 'decode_head'):
        size, sample = size or getattr(network.data_preprocessor, 'size', None), _labels
        problem += 'the student has no data_preprocessor.size, the training crop; give --size'
    elif hasattr(network, 'bbox_head') or hasattr(network, 'roi_head'):
        dataset, sample = config['train_dataloader'].get('dataset', {}) if size is None else {}, _boxes
        size = size or pipeline_size(dataset)
        if size is None and pipeline_of(dataset):  # that of the first picture, after its pipeline
            size = tuple(DATASETS.build(dataset)[0]['inputs'].shape[1:])
        problem += 'no step of train_dataloader.dataset.pipeline has a scale; give --size'
    else:
        problem += 'the student must have a decode_head, bbox_head or roi_head, '
        raise ValueError(f'{problem}{type(network).__name__} has none of them')
    if size is None:
        raise ValueError(problem)
    shape = (size[0], size[1])
    samples = [sample(network, shape, draw) for _ in range(images)]
    inputs = [torch.randint(256, (3, *shape), generator=draw, dtype=torch.uint8) for _ in range(images)]
    return {'inputs': inputs, 'data_samples': samples}


def pipeline_size(dataset: Mapping[str, Any]) -> Size | None:
    """Return the height and width that a detector's pipeline crops to, else the largest that it resizes to."""
    steps = list(mappings([layer.get('pipeline') or [] for layer in chain(dataset)]))  # also those of branches
    for step in reversed(steps):
        if step.get('type') == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute':
            width, height = step['crop_size']  # the order of mmdet
            return height, width
    scales = [pair for step in steps for pair in _pairs(step.get('scale') or step.get('scales') or [])]
    width, height = max(scales, key=lambda scale: scale[0] * scale[1], default=(0, 0))
    return (height, width) if scales else None


def _pairs(scale: Any) -> Sequence[Size]:
    """Return the scales of a step, which has one or several of them, or the side of a square."""
    if isinstance(scale, int):
        return [(scale, scale)]
    return scale if not scale or isinstance(scale[0], (list, tuple)) else [scale]


def _labels(network: Network, size: Size, draw: torch.Generator) -> Sample:
    from mmseg.structures import SegDataSample

    head: Any = network.decode_head
    labels = torch.randint(head.num_classes, (1, *size), generator=draw)
    edges = PixelData(data=labels % 2)  # PIDNet's
    return SegDataSample(gt_sem_seg=PixelData(data=labels), gt_edge_map=edges, metainfo={'img_shape': size})


def _boxes(network: Network, size: Size, draw: torch.Generator) -> Sample:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'scale_factor': (1.0, 1.0)}
    limits = torch.tensor([size[1], size[0]])
    sides = limits * 2 ** -(1 + 3 * torch.rand(BOXES, 2, generator=draw))  # 1/16 to 1/2 of the image
    corners = (limits - sides) * torch.rand(BOXES, 2, generator=draw)
    boxes = torch.cat([corners, corners + sides], 1)
    head: Any = network if hasattr(network, 'bbox_head') else network.roi_head
    bbox_head: Any = head.bbox_head[0] if isinstance(head.bbox_head, nn.ModuleList) else head.bbox_head
    labels = torch.randint(bbox_head.num_classes, (BOXES,), generator=draw)
    instances = InstanceData(bboxes=boxes, labels=labels)
    if getattr(network, 'with_mask', False):
        ys, xs = torch.arange(size[0])[None, :, None], torch.arange(size[1])[None, None]
        left, top, right, bottom = (side[:, None, None] for side in boxes.T)
        filled = (xs >= left) & (xs < right) & (ys >= top) & (ys < bottom)
        instances.masks = BitmapMasks(filled.to(torch.uint8).numpy(), *size)
    return DetDataSample(metainfo=meta, gt_instances=instances)


N = TypeVar('N', bound=Network)

DEFAULT_ITERATIONS = 1000  # of a run whose length is unknown, because its data set is missing


@dataclass(frozen=True)
class Step(Generic[N]):
    """A training step of a network, always on the same batch."""

    network: N
    wrapper: OptimWrapper | OptimWrapperDict
    data: Mapping[str, Any]
    fresh: bool = False  # whether it takes a copy: preprocessors pad samples in place, a second time would be wrong

    def __call__(self) -> object:
        return self.network.train_step(copy.deepcopy(self.data) if self.fresh else self.data, self.wrapper)


def build_student(model: Mapping[str, Any]) -> Any:
    """Build a student for one process, in training mode."""
    network = revert_sync_batchnorm(MODELS.build(Config({'model': model}).model)).train()
    complete_heads(network)
    return network


@torch.no_grad()
def load_teacher(teacher: FrozenTeacher, like: Tensor, inputs: Tensor, random: bool = False) -> None:
    """Load a teacher as a training does; without its file, give it random weights with the statistics of a batch."""
    checkpoint = teacher.option.checkpoint
    if checkpoint and not random and (not is_path(checkpoint) or expand_user(checkpoint).is_file()):
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


def make_step(network: N, config: Config, data: Mapping[str, Any], fresh: bool = False) -> Step[N]:
    """Return the training step of a network with the optimizer of its config, at learning rate 0."""
    wrapper = build_optim_wrapper(network, config.optim_wrapper)
    main_wrapper, *_ = wrappers = wrappers_of(wrapper)
    for group in (group for optim in wrappers for group in optim.param_groups):
        group['lr'] = 0.0
    for distiller in distillers_of(network).values():
        if distiller.clip_max_norm is not None:
            main_wrapper.optimizer.register_step_pre_hook(partial(_clip, distiller))
    return Step(network, wrapper, data, fresh)


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
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = _seconds(work, device)
            if turn:
                seconds[name].append(elapsed)
    return {name: Timing(statistics.median(s), min(s), max(s)) for name, s in seconds.items()}


def _seconds(work: Work, device: str | torch.device) -> float:
    if torch.device(device).type != 'cuda':
        start = time.process_time()
        work()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)  # what was launched before on other streams
    begin.record(torch.cuda.current_stream(device))
    work()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def peak_extra_memory(work: Work, device: str | torch.device = 'cpu') -> int:
    """Return the most bytes that torch held at once on the device beyond the start, without scratch of libraries."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    allocated = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.device_type() == torch.profiler.DeviceType.CPU:
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


def extra_memory(control: Step[Network], distilled: Step[Distilled], device: str) -> dict[str, int]:
    """Return, in bytes, the peaks of both steps, and what distillation adds, with what it holds between steps."""
    plain, taught = (peak_extra_memory(step, device) for step in (control, distilled))
    networks = [teacher.network for teacher in distilled.network.distillation.teachers.values() if teacher.network]
    permanent = _held_bytes(distilled, *networks) - _held_bytes(control)
    return {'control_step': plain, 'distilled_step': taught, 'extra': taught - plain + permanent}


def _held_bytes(step: Step, *teachers: nn.Module) -> int:
    networks = (step.network, *teachers)
    tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    states = [state for optim in wrappers_of(step.wrapper) for state in optim.optimizer.state.values()]
    tensors += [value for state in states for value in state.values() if torch.is_tensor(value)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}.values())
