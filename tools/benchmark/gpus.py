"""How long full-size training would take on GPUs: an estimate from steps measured here and a throughput published
elsewhere.

Nothing of it was run on a GPU. The operations of a step are counted, the ratio of a distilled step to the control's is
measured where this runs, the speed of a GPU is that of a published training of ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.utils.flop_counter import FlopCounterMode

from mmdistill_dense.analysis.batches import Size, pipeline_size
from mmdistill_dense.analysis.timing import check_whole, interleaved_times
from mmdistill_dense.analysis.training_step import prepare_steps
from tools.benchmark.section import table

BEGIN, END = '<!-- estimate: begin -->', '<!-- estimate: end -->'
GPUS = (1, 2, 4, 8, 16, 32, 64)
COCO = 118287  # pictures of train2017, as configs/_base_/datasets/coco_detection.py says


@dataclass(frozen=True)
class Assumptions:
    """What was not measured here.

    Attributes:
        gpu: Its name and precision.
        images: ResNet-50 training pictures a second on one of them, 224 x 224.
        images_on_eight: The same on eight of one machine; nothing is computed from it, it is compared.
        batch: Pictures of each GPU in those two.
        source: Of the three.
        inside: Bytes a second that an all-reduce moves between GPUs of one machine.
        between: The same between machines.
        machine: GPUs of a machine.
    """

    gpu: str = 'A100 80 GB, TF32'
    images: float = 938.0
    images_on_eight: float = 7248.0
    batch: int = 256
    source: str = (
        'NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md, "Training performance: '
        'NVIDIA DGX A100 (8x A100 80GB)"'
    )
    inside: float = 100e9
    between: float = 25e9
    machine: int = 8


@dataclass(frozen=True)
class Work:
    """One row: the step of the control or of a method.

    Attributes:
        ratio: Seconds of its step / seconds of the control's, measured in turns.
        operations: Floating-point operations of its step / of the control's, counted.
        gradients: Bytes that the processes exchange in a step: 4 for each parameter that is trained.
    """

    ratio: float
    operations: float
    gradients: int


@dataclass(frozen=True)
class Recipe:
    """What was measured and counted of a recipe.

    Attributes:
        operations: Of the control's step for one picture of the size in training.
        size: Height and width in training.
        measured: Height, width and number of the pictures that were measured.
        pictures: Of the whole training.
        batch: Of a step of the published recipe.
        rows: The control and the methods.
        resnet50: Operations of a training step of ResNet-50 for one picture of 224 x 224, by the same counter.
        resnet50_gradients: Bytes of its gradients.
    """

    name: str
    operations: float
    size: Size
    measured: tuple[int, int, int]
    pictures: int
    batch: int
    rows: Mapping[str, Work]
    resnet50: float
    resnet50_gradients: int

    @classmethod
    def read(cls, figures: Mapping[str, Any]) -> Recipe:
        """Return what :func:`measure` gave, from JSON."""
        rows = {name: Work(**row) for name, row in figures['rows'].items()}
        return cls(**{**figures, 'rows': rows, 'size': tuple(figures['size']), 'measured': tuple(figures['measured'])})


def measure(name: str, configs: Iterable[tuple[str, Config]], batch: int, size: Size, repeats: int) -> Recipe:
    """Measure a recipe's control and methods on the CPU.

    Args:
        name: Of the recipe.
        configs: By method; the control is that of the first one.
        batch: Pictures of a measured step.
        size: Their height and width; operations grow with the pixels.
        repeats: Timed turns.
    """
    rows: dict[str, Work] = {}
    for method, config in configs:
        steps = prepare_steps(config, batch, size)
        times = interleaved_times({'control': steps.control, 'distilled': steps.distilled}, repeats)
        check_whole(times, 'distilled', ['control'])
        counts = {part: operations(step) for part, step in (('control', steps.control), ('distilled', steps.distilled))}
        if not rows:
            whole = pipeline_size(config.train_dataloader.dataset) or size
            per_picture = counts['control'] / batch * (whole[0] * whole[1]) / (size[0] * size[1])
            total, step = pictures(config)
            rows['control'] = Work(1.0, 1.0, gradients(steps.control.network))
        ratio = times['distilled'].median / times['control'].median
        share = counts['distilled'] / counts['control']
        rows[method] = Work(ratio, share, gradients(steps.distilled.network))
    return Recipe(name, per_picture, whole, (*size, batch), total, step, rows, *resnet50())


def operations(work: Callable[[], object]) -> int:
    """Count the floating-point operations of convolutions and matrix products; a multiplication and its addition are
    two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def gradients(network: Any) -> int:
    """Return the bytes of the gradients that DDP averages in a step."""
    return sum(4 * parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def pictures(config: Config) -> tuple[int, int]:
    """Return the pictures of a whole training, and of one step, as the recipe is published."""
    batch = config.auto_scale_lr.base_batch_size
    loop = config.train_cfg
    return (loop.max_iters * batch if 'max_iters' in loop else loop.max_epochs * COCO), batch


def resnet50() -> tuple[float, int]:
    """Count a training step of ResNet-50 for one picture, and its gradients, without its last layer (0.1 % and 8 %)."""
    init_default_scope('mmdet')
    with torch.device('meta'):
        network = MODELS.build(dict(type='mmdet.ResNet', depth=50, norm_eval=False, frozen_stages=-1))
        batch = torch.rand(2, 3, 224, 224)
    return operations(lambda: network(batch)[-1].sum().backward()) / 2, gradients(network)


def seconds(recipe: Recipe, row: Work, gpus: int, given: Assumptions) -> float:
    """Return the time of a step in which each GPU has ``max(1, batch / gpus)`` pictures."""
    compute = per_gpu(recipe, gpus) * row.ratio * recipe.operations / (given.images * recipe.resnet50)
    return compute + exchange(row.gradients, gpus, given)


def exchange(size: float, gpus: int, given: Assumptions) -> float:
    """Return the time of an all-reduce that waits for the whole backward pass, as a ring."""
    bandwidth = given.inside if gpus <= given.machine else given.between
    return 2 * (gpus - 1) / gpus * size / bandwidth


def per_gpu(recipe: Recipe, gpus: int) -> int:
    """Return the pictures of one GPU in a step."""
    return max(1, recipe.batch // gpus)


def hours(recipe: Recipe, row: Work, gpus: int, given: Assumptions) -> float:
    """Return the time of the whole training, of as many pictures on any number of GPUs."""
    steps = recipe.pictures / (per_gpu(recipe, gpus) * gpus)
    return steps * seconds(recipe, row, gpus, given) / 3600


def as_markdown(recipes: Sequence[Recipe], given: Assumptions | None = None) -> str:
    """Return the tables, with what they come from.

    Args:
        recipes: As measured.
        given: Defaults to those of this file.
    """
    given = given or Assumptions()
    text = [_assumed(recipes[0], given)]
    for recipe in recipes:
        text += [_introduced(recipe), _table(recipe, given)]
    return '\n\n'.join(text)


def _assumed(recipe: Recipe, given: Assumptions) -> str:
    eight = 8 * given.batch / (given.batch / given.images + exchange(recipe.resnet50_gradients, 8, given))
    giga, tera = recipe.resnet50 / 1e9, given.images * recipe.resnet50 / 1e12
    return (
        f'Assumed: one {given.gpu} trains ResNet-50 at {given.images:.0f} pictures a second ({given.source}). Counted '
        f'at {giga:.1f} GFLOP for a picture, that is {tera:.1f} TFLOP/s, and dense networks are taken to run at the '
        f'same. An all-reduce moves {given.inside / 1e9:.0f} GB/s between the {given.machine} GPUs of a machine and '
        f'{given.between / 1e9:.0f} GB/s between machines (200 Gbit/s), and nothing of it is hidden behind the '
        f'backward pass. Of eight GPUs these assumptions give {eight:.0f} ResNet-50 pictures a second; published are '
        f'{given.images_on_eight:.0f}: the estimate is {eight / given.images_on_eight - 1:+.0%}.'
    )


def _introduced(recipe: Recipe) -> str:
    height, width, count = recipe.measured
    return (
        f'**{recipe.name}**: {recipe.pictures:,} training pictures of {recipe.size[0]} x {recipe.size[1]}, '
        f"{recipe.batch} in a step; the control's step counts {recipe.operations / 1e9:.0f} GFLOP for one of them. "
        f'Ratios were measured on a CPU, on {count} pictures of {height} x {width}.'
    )


def _table(recipe: Recipe, given: Assumptions) -> str:
    own = ['', 'step / control, measured', 'operations / control, counted', 'gradients, MB']
    head = own + [f'{gpus} GPU, h' for gpus in GPUS]
    return table(head, [_cells(recipe, name, row, given) for name, row in recipe.rows.items()])


def _cells(recipe: Recipe, name: str, row: Work, given: Assumptions) -> list[str]:
    times = [f'{hours(recipe, row, gpus, given):.3g}' for gpus in GPUS]
    return [name, f'{row.ratio:.2f}', f'{row.operations:.2f}', f'{row.gradients / 1e6:.0f}', *times]


def write(page: Path, recipes: Sequence[Recipe]) -> None:
    """Renew the part of a page that stands between two marks.

    Raises:
        ValueError: For a page without the marks.
    """
    text = page.read_text(encoding='utf-8')
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f'{page} has no lines {BEGIN} and {END}, between which the estimate stands')
    page.write_text(f'{before}{begin}\n\n{as_markdown(recipes)}\n\n{end}{after}', encoding='utf-8')
