"""What `tools/benchmark.py losses` compares for the baselines: each loss at the size of a pair of its paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from tools.benchmark import reference_baselines as reference
from tools.benchmark.loss_cases import Case, Function, summed


@dataclass(frozen=True)
class Size:
    """Batch, channels of both sides and maps; ``keys``: of the queue, ``boxes``: per picture, ``classes`` of labels."""

    batch: int
    student: int
    teacher: int
    maps: Sequence[tuple[int, int]]
    repeats: int = 5
    classes: int = 0
    keys: int = 0
    boxes: int = 0


@dataclass(frozen=True)
class Method:
    """Sizes of a method by name, the first is the default, and what makes its cases from one."""

    SIZES: Mapping[str, Size]
    make: Callable[[Size], list[Case]]

    @property
    def DEFAULT_SIZE(self) -> str:
        """The first size."""
        return next(iter(self.SIZES))

    def describe(self, size_name: str) -> str:
        """Return what a size is, in words."""
        size = self.SIZES[size_name]
        maps = ' of ' + ', '.join(f'{height}x{width}' for height, width in size.maps) if size.maps else ''
        channels = f'{size.student}' if size.student == size.teacher else f'{size.student} and {size.teacher}'
        counts = {'classes': size.classes, 'keys of the queue': size.keys, 'boxes a picture': size.boxes}
        extra = ''.join(f', {count} {name}' for name, count in counts.items() if count)
        return f'{size.batch} images, {channels} channels{maps}{extra}'

    def cases(self, size_name: str) -> list[Case]:
        """Return the cases of a size."""
        return self.make(self.SIZES[size_name])


def _maps(size: Size, draw: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Student's and teacher's maps, related where the channels agree."""
    teachers = [torch.randn(size.batch, size.teacher, *shape, generator=draw) for shape in size.maps]
    students = [torch.randn(size.batch, size.student, *shape, generator=draw) for shape in size.maps]
    if size.student == size.teacher:
        students = [teacher + student for teacher, student in zip(teachers, students, strict=True)]
    return students, teachers


def _plain(name: str, ours: Function, released: Function) -> Callable[[Size], list[Case]]:
    """Cases of a loss of two maps, summed over the levels."""

    def make(size: Size) -> list[Case]:
        students, teachers = _maps(size, torch.Generator().manual_seed(0))
        levels = len(size.maps)
        return [Case(name, students, teachers, summed(ours, levels), summed(released, levels), size.repeats)]

    return make


def _ifvd(size: Size) -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    students, teachers = _maps(size, draw)
    blocks = torch.randint(size.classes, (size.batch, *(max(side // 8, 1) for side in size.maps[0])), generator=draw)
    labels = F.interpolate(blocks[:, None].float(), size.maps[0])[:, 0]  # areas, as in a street

    def ours(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return losses.prototype_distance(student, teacher, labels.long(), num_classes=size.classes)

    released = partial(reference.ifvd, classes=size.classes)
    return [Case('cosines to class means', students, [*teachers, labels], ours, released, size.repeats)]


def _cirkd(size: Size) -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    students, teachers = _maps(size, draw)
    rows = [torch.randn(size.batch * size.maps[0][0] * size.maps[0][1], size.teacher, generator=draw) for _ in range(2)]
    keys = F.normalize(torch.randn(size.keys, size.teacher, generator=draw), dim=1)
    pairs, queue = (partial(f, temperature=0.1) for f in (reference.cirkd_minibatch, reference.cirkd_memory))
    return [
        Case('pixels of all pictures', students, teachers, _cirkd_minibatch, pairs, size.repeats),
        Case('pixels against the queue', rows[:1], [rows[1], keys], _cirkd_memory, queue, size.repeats),
    ]


def _cirkd_minibatch(student: Tensor, teacher: Tensor) -> Tensor:
    rows = [losses.normalize_pixels(x)[0] for x in (student, teacher)]
    keys = [x.view(len(student), -1, x.shape[1]) for x in rows]
    return losses.similarity_divergence(rows[0], keys[0], rows[1], keys[1], temperature=0.1)


def _cirkd_memory(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    rows = [losses.normalize_pixels(x[:, :, None, None])[0] for x in (student, teacher)]
    return losses.similarity_divergence(rows[0], keys[None], rows[1], keys[None], temperature=0.1)


def _mgd(size: Size) -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    students, teachers = _maps(size, draw)
    keeps = [losses.random_keep((size.batch, *shape), 0.65, draw) for shape in size.maps]
    c = size.teacher
    shapes = [(c, c, 3, 3), (c,), (c, c, 3, 3), (c,)]
    block = [(2 / (9 * c)) ** 0.5 * torch.randn(shape, generator=draw) for shape in shapes for _ in size.maps]
    levels = len(size.maps)
    inputs, constants = [*students, *block], [*teachers, *keeps]

    def reordered(level: Function) -> Function:
        return summed(lambda s, a, b, c, d, t, keep: level(s, t, keep, a, b, c, d), levels)

    return [
        Case('mask, block, mimic', inputs, constants, reordered(_mgd_level), reordered(reference.mgd), size.repeats)
    ]


def _mgd_level(student: Tensor, teacher: Tensor, keep: Tensor, *block: Tensor) -> Tensor:
    first, first_bias, second, second_bias = block
    hidden = F.conv2d(student * keep, first, first_bias, padding=1).relu_()
    return losses.feature_mimic(F.conv2d(hidden, second, second_bias, padding=1), teacher)


def _fitnet(size: Size) -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    students, teachers = _maps(size, draw)
    weights = [size.student**-0.5 * torch.randn(size.teacher, size.student, 1, 1, generator=draw) for _ in size.maps]

    def ours(student: Tensor, weight: Tensor, teacher: Tensor) -> Tensor:
        return losses.feature_mimic(F.conv2d(student, weight), teacher, reduction='mean')

    def released(student: Tensor, weight: Tensor, teacher: Tensor) -> Tensor:
        return reference.fitnet(student, teacher, weight)

    levels = len(size.maps)
    return [
        Case(
            'regressor and mimic',
            [*students, *weights],
            teachers,
            summed(ours, levels),
            summed(released, levels),
            size.repeats,
        )
    ]


def _ld(size: Size) -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    rows = size.batch * size.boxes * 4
    student, teacher = torch.randn(2, rows, size.student, generator=draw)
    weight = torch.rand(rows, generator=draw)
    ours, released = (partial(f, temperature=10.0) for f in (losses.weighted_divergence, reference.ld))
    return [Case('edges of the boxes', [student], [teacher, weight], ours, released, size.repeats)]


def _fgd(size: Size) -> list[Case]:
    draw = torch.Generator().manual_seed(0)
    students, teachers = _maps(size, draw)
    corners = torch.rand(size.batch, size.boxes, 2, 2, generator=draw).sort(2).values
    boxes = [(corners * torch.tensor([w - 1, h - 1])).flatten(2) for h, w in size.maps]
    c, hidden = size.teacher, size.teacher // 2
    shapes = [(1, c, 1, 1), (hidden, c), (hidden,), (hidden,), (hidden,), (c, hidden), (c,)]
    block = [c**-0.5 * torch.randn(shape, generator=draw) for shape in shapes * 2 for _ in size.maps]

    def level(function: Function) -> Function:
        return summed(lambda s, t, boxes, *blocks: function(s, t, boxes, (blocks[:7], blocks[7:])), len(size.maps))

    functions = level(_fgd_level), level(reference.fgd)
    return [Case('focal and global', students, [*teachers, *boxes, *block], *functions, size.repeats)]


def _fgd_level(student: Tensor, teacher: Tensor, boxes: Tensor, blocks: Sequence[Sequence[Tensor]]) -> Tensor:
    where, which = losses.spatial_attention(teacher, 0.5), losses.channel_attention(teacher, 0.5)
    attention = losses.absolute_error(losses.spatial_attention(student, 0.5), where)
    attention = attention + losses.absolute_error(losses.channel_attention(student, 0.5), which)
    foreground = torch.stack([losses.box_weights(one, *student.shape[2:]) for one in boxes])
    position = (1e-3 * foreground + 5e-4 * losses.background_weights(foreground)) * where
    context = [reference.fgd_context(x, *block) for x, block in zip((student, teacher), blocks, strict=True)]
    relation = losses.shifted_error(student, teacher, context[0] - context[1])
    return losses.focal_error(student, teacher, position, which) + 5e-4 * attention + 5e-6 * relation


_FPN = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]  # of a RetinaNet's picture of 800 x 1333
_TINY_FPN = [(20, 24), (10, 12)]

_SCORES = {
    'cityscapes': Size(2, 19, 19, [(64, 128)], repeats=15),
    'ade20k': Size(4, 150, 150, [(64, 64)], repeats=7),
    'small': Size(2, 19, 19, [(32, 32)], repeats=5),
}


def _named(small: Size, **sizes: Size) -> dict[str, Size]:
    return {**sizes, 'small': small}


METHODS = {
    'kd': Method(
        _SCORES,
        _plain('scores', *(partial(f, temperature=4.0) for f in (losses.softmax_divergence, reference.kd))),
    ),
    'dist': Method(_SCORES, _plain('scores', losses.correlation_distance, reference.dist)),
    'cwd': Method(
        _named(_SCORES['small'], cityscapes=_SCORES['cityscapes'], features=Size(1, 512, 512, [(64, 128)])),
        _plain('channels', *(partial(f, temperature=4.0) for f in (losses.channel_divergence, reference.cwd))),
    ),
    'at': Method(
        _named(Size(2, 16, 32, [(16, 24)]), cityscapes=Size(2, 512, 2048, [(64, 128)])),
        _plain('attention maps', losses.attention_distance, reference.at),
    ),
    'skd': Method(
        _named(Size(2, 16, 32, [(16, 24)]), cityscapes=Size(2, 128, 512, [(32, 64)], repeats=3)),
        _plain('pairs of positions', losses.pairwise_distance, reference.skd),
    ),
    'ifvd': Method(
        _named(Size(2, 16, 32, [(16, 24)], classes=5), cityscapes=Size(2, 128, 512, [(64, 128)], 3, classes=19)), _ifvd
    ),
    'cirkd': Method(
        {
            'voc': Size(2, 128, 512, [(64, 64)], repeats=2, keys=4096),
            'small': Size(2, 16, 32, [(16, 24)], repeats=3, keys=300),
        },
        _cirkd,
    ),
    'mgd': Method(_named(Size(2, 16, 16, _TINY_FPN), retinanet=Size(1, 256, 256, _FPN, repeats=2)), _mgd),
    'pkd': Method(
        _named(Size(2, 16, 16, _TINY_FPN), retinanet=Size(2, 256, 256, _FPN[:4])),
        _plain('channels', losses.standardized_mse, reference.pkd),
    ),
    'fgd': Method(
        _named(Size(2, 16, 16, _TINY_FPN, boxes=3), retinanet=Size(2, 256, 256, _FPN, repeats=3, boxes=7)), _fgd
    ),
    'ld': Method(_named(Size(2, 17, 17, [], boxes=200), gfl=Size(2, 17, 17, [], repeats=9, boxes=2000)), _ld),
    'fitnet': Method(
        _named(Size(2, 16, 32, [(16, 24)]), cityscapes=Size(1, 512, 2048, [(64, 128)], repeats=3)), _fitnet
    ),
}
