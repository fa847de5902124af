"""The cases of ``tools/benchmark.py losses``: for each method its sizes, our loss and the naive one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.losses import Branch
from tools.benchmark import reference
from tools.benchmark.compare_losses import Case, Function, Method, Size


def _maps(size: Size, draw: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    """Return the student's and the teacher's maps, correlated if they have the same channels."""
    teachers = [torch.randn(size.pictures, size.teacher, *shape, generator=draw) for shape in size.maps]
    students = [torch.randn(size.pictures, size.student, *shape, generator=draw) for shape in size.maps]
    if size.student == size.teacher:
        students = [teacher + student for teacher, student in zip(teachers, students, strict=True)]
    return students, teachers


def _weights(size: Size, draw: torch.Generator, *shapes: Sequence[int], gain: float) -> list[list[Tensor]]:
    """Parameters of a block, one list per shape with a tensor per level."""
    return [[gain * torch.randn(*shape, generator=draw) for _ in size.maps] for shape in shapes]


def _plain(name: str, ours: Function, released: Function, **options: Any) -> Callable[..., list[Case]]:
    """Cases of a loss that compares two maps."""

    def make(size: Size, draw: torch.Generator) -> list[Case]:
        students, teachers = _maps(size, draw)
        return [Case(name, [students], [teachers], partial(ours, **options), partial(released, **options))]

    return make


def _afdcd(size: Size, draw: torch.Generator) -> list[Case]:
    (student,), (teacher,) = _maps(size, draw)
    feat, target, noise = student.relu(), teacher.relu(), torch.randn(teacher.shape, generator=draw)
    near, far, pooled = (F.max_pool2d(x, size.pool) for x in (target + noise, 0.05 * noise, target))
    channels, gain = size.teacher, size.student**-0.5
    weights = _weights(size, draw, (channels, size.student, 1, 1), (channels,), gain=gain)
    weights += _weights(size, draw, (channels, channels, 3, 3), (channels,), gain=gain / 3)
    keep = losses.random_keep((size.pictures, *size.maps[0]), 0.75, draw)
    ours, released = (_first_conv(f) for f in (losses.masked_align_conv, reference.afdcd_first_conv))
    return [
        _contrast('contrast core, near convergence', near, pooled, 0),
        _contrast('contrast core, at the start', far, pooled, 0),
        _contrast('contrast with pooling', target + noise, target, size.pool),
        Case('align + first conv', [[feat], *weights], [[keep], [noise]], ours, released),
    ]


def _contrast(name: str, student: Tensor, teacher: Tensor, pool: int) -> Case:
    options: dict[str, Any] = {'groups': 16, 'temperature': 0.07, 'patch_size': (4, 4), 'pool_size': pool}
    functions = partial(losses.dense_contrast, **options), partial(reference.afdcd_contrast, **options)
    return Case(name, [[student]], [[teacher]], *functions)


def _first_conv(function: Function) -> Function:
    def run(feat: Tensor, *rest: Tensor) -> Tensor:
        *weights, keep, upstream = rest
        return torch.dot(function(feat, keep.bool(), *weights).flatten(), upstream.flatten())

    return run


def _maskd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    upstreams = [torch.randn(teacher.shape, generator=draw) for teacher in teachers]
    c, t = size.teacher, size.tokens
    tokens = _weights(size, draw, (t, c), gain=0.1)
    branch = _weights(size, draw, (c, c, 3, 3), gain=(2 / (9 * c)) ** 0.5)
    branch += _weights(size, draw, (c,), (t, c, 1, 1), (t,), gain=0.1)

    def loss(function: Function) -> Function:
        return lambda s, t, tokens, *branch: function(s, t, tokens, Branch(*branch), student_mask=True)

    compared = loss(losses.masked_feature_loss), loss(reference.maskd_loss)
    return [
        Case('loss of all levels', [students], [teachers, *tokens, *branch], *compared),
        Case('branch alone, forward', [], [teachers, *branch], _mask_weights, reference.maskd_mask_weights),
        Case('gate and Dice, to the tokens', [*tokens, *branch], [teachers, upstreams], _learn, reference.maskd_learn),
    ]


def _mask_weights(x: Tensor, *branch: Tensor) -> Tensor:
    return losses.mask_weights(Branch(*branch), x)


def _learn(tokens: Tensor, *rest: Tensor) -> Tensor:
    *branch, x, upstream = rest
    masks = losses.token_masks(tokens, x)
    gated = losses.gate(x, masks, _mask_weights(x, *branch))
    return torch.dot(gated.flatten(), upstream.flatten()) + losses.mask_dice(masks)


def _rows(count: int, channels: int, draw: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, channels, generator=draw), dim=1)


def _pcd(size: Size, draw: torch.Generator) -> list[Case]:
    counts = [size.pictures * size.maps[0][0] * size.maps[0][1]] * 2 + [size.keys]
    student, teacher, negatives = (_rows(count, size.teacher, draw) for count in counts)
    ours, released = (partial(f, temperature=0.2) for f in (_pcd_loss, reference.pcd_info_nce))
    return [Case('pixels against the queue', [[student]], [[teacher], [negatives]], ours, released)]


def _pcd_loss(student: Tensor, teacher: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    return losses.pixel_info_nce(student, teacher, negatives, temperature)[0]


def _cirkd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    count = size.pictures * size.maps[0][0] * size.maps[0][1]
    student, teacher, keys = (_rows(n, size.teacher, draw) for n in (count, count, size.keys))
    pairs, queue = (partial(f, temperature=0.1) for f in (reference.cirkd_minibatch, reference.cirkd_memory))
    return [
        Case('pixels of all pictures', [students], [teachers], _cirkd_minibatch, pairs),
        Case('pixels against the queue', [[student]], [[teacher], [keys]], _cirkd_memory, queue),
    ]


def _cirkd_minibatch(student: Tensor, teacher: Tensor) -> Tensor:
    rows = [losses.normalize_pixels(x)[0] for x in (student, teacher)]
    keys = [x.view(len(student), -1, x.shape[1]) for x in rows]
    return losses.similarity_divergence(rows[0], keys[0], rows[1], keys[1], temperature=0.1)


def _cirkd_memory(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    rows = [losses.normalize_pixels(x[:, :, None, None])[0] for x in (student, teacher)]
    return losses.similarity_divergence(rows[0], keys[None], rows[1], keys[None], temperature=0.1)


def _ifvd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    coarse = (size.pictures, *(max(side // 8, 1) for side in size.maps[0]))
    blocks = torch.randint(size.classes, coarse, generator=draw)
    labels = F.interpolate(blocks[:, None].float(), size.maps[0])[:, 0]  # areas, as in a street

    ours = partial(_prototypes, classes=size.classes)
    released = partial(reference.ifvd, classes=size.classes)
    return [Case('cosines to class means', [students], [teachers, [labels]], ours, released)]


def _prototypes(student: Tensor, teacher: Tensor, labels: Tensor, classes: int) -> Tensor:
    return losses.prototype_distance(student, teacher, labels.long(), num_classes=classes)


def _mgd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    keeps = [losses.random_keep((size.pictures, *shape), 0.65, draw) for shape in size.maps]
    c = size.teacher
    block = _weights(size, draw, (c, c, 3, 3), (c,), (c, c, 3, 3), (c,), gain=(2 / (9 * c)) ** 0.5)

    return [Case('mask, block, mimic', [students, *block], [teachers, keeps], _mgd_level, reference.mgd)]


def _mgd_level(student: Tensor, *rest: Tensor) -> Tensor:
    first, first_bias, second, second_bias, teacher, keep = rest
    hidden = F.conv2d(student * keep, first, first_bias, padding=1).relu_()
    return losses.feature_mimic(F.conv2d(hidden, second, second_bias, padding=1), teacher)


def _fitnet(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    weights = _weights(size, draw, (size.teacher, size.student, 1, 1), gain=size.student**-0.5)
    return [Case('regressor and mimic', [students, *weights], [teachers], _regress, reference.fitnet)]


def _regress(student: Tensor, weight: Tensor, teacher: Tensor) -> Tensor:
    return losses.feature_mimic(F.conv2d(student, weight), teacher, reduction='mean')


def _queue_kl(size: Size, draw: torch.Generator) -> list[Case]:
    student, teacher, queue = (_rows(count, size.teacher, draw) for count in (size.pictures, size.pictures, size.keys))
    given = [[student]], [[teacher], [queue]]
    functions = (partial(f, temperature=0.07) for f in (_against_queue, reference.queue_kl))
    seed = (partial(f, temperature=0.07, own_key=True) for f in (_against_queue, reference.queue_kl))
    return [Case('vectors against the queue', *given, *functions), Case('with the own key (SEED)', *given, *seed)]


def _against_queue(
    student: Tensor, teacher: Tensor, queue: Tensor, temperature: float, own_key: bool = False
) -> Tensor:
    keys = queue[None]
    return losses.similarity_divergence(student, keys, teacher, keys, temperature=temperature, own_key=own_key)


def _cankd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    queries, keys, values = students, [F.max_pool2d(x, 2) for x in teachers], [F.avg_pool2d(x, 2) for x in teachers]
    upstreams = [torch.randn(x.shape, generator=draw) for x in queries]

    def read(function: Function) -> Function:
        return lambda query, key, value, upstream: torch.dot(function(query, key, value).flatten(), upstream.flatten())

    functions = read(losses.linear_read), read(reference.cankd_read)
    return [Case('read of the map', [queries, keys, values], [upstreams], *functions)]


def _freekd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    tokens = _weights(size, draw, (4, size.tokens, size.teacher), gain=0.1)
    return [Case('masked bands', [students], [teachers, *tokens], _bands, reference.freekd)]


def _bands(student: Tensor, teacher: Tensor, tokens: Tensor) -> Tensor:
    return losses.frequency_terms(student, teacher, tokens).sum()


def _ld(size: Size, draw: torch.Generator) -> list[Case]:
    edges = size.pictures * size.boxes * 4
    student, teacher = torch.randn(2, edges, size.student, generator=draw)
    weight = torch.rand(edges, generator=draw)
    ours, released = (partial(f, temperature=10.0) for f in (losses.weighted_divergence, reference.ld))
    return [Case('edges of the boxes', [[student]], [[teacher], [weight]], ours, released)]


def _fgd(size: Size, draw: torch.Generator) -> list[Case]:
    students, teachers = _maps(size, draw)
    corners = torch.rand(size.pictures, size.boxes, 2, 2, generator=draw).sort(2).values
    boxes = [(corners * torch.tensor([w - 1, h - 1])).flatten(2) for h, w in size.maps]
    c, hidden = size.teacher, size.teacher // 2
    shapes = [(1, c, 1, 1), (hidden, c), (hidden,), (hidden,), (hidden,), (c, hidden), (c,)]
    blocks = _weights(size, draw, *shapes, *shapes, gain=c**-0.5)  # the student's and the teacher's

    def level(function: Function) -> Function:
        return lambda s, t, boxes, *blocks: function(s, t, boxes, (blocks[:7], blocks[7:]))

    return [Case('focal and global', [students], [teachers, boxes, *blocks], level(_fgd_level), level(reference.fgd))]


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
_BIG_FPN = [(200, 336), *_FPN[:4]]  # of a Faster R-CNN's
_SMALL, _SMALL_FPN = Size(2, 16, 32, [(16, 24)]), Size(2, 16, 16, [(20, 24), (10, 12)])
_SCORES = {'cityscapes': Size(2, 19, 19, [(64, 128)], turns=15), 'small': Size(2, 19, 19, [(32, 32)])}

_TOKENS = {'vits14': Size(4, 384, 384, [(37, 37)], turns=3), 'small': Size(2, 16, 16, [(16, 20)])}


def _sizes(small: Size, **sizes: Size) -> dict[str, Size]:
    return {**sizes, 'small': small}


METHODS = {
    'kd': Method(_plain('scores', losses.softmax_divergence, reference.kd, temperature=4.0), _SCORES),
    'dist': Method(_plain('scores', losses.correlation_distance, reference.dist), _SCORES),
    'cwd': Method(_plain('channels', losses.channel_divergence, reference.cwd, temperature=4.0), _SCORES),
    'at': Method(
        _plain('attention maps', losses.attention_distance, reference.at),
        _sizes(_SMALL, cityscapes=Size(2, 512, 2048, [(64, 128)])),
    ),
    'skd': Method(
        _plain('pairs of positions', losses.pairwise_distance, reference.skd),
        _sizes(_SMALL, cityscapes=Size(2, 128, 512, [(32, 64)], turns=3)),
    ),
    'pkd': Method(
        _plain('channels', losses.standardized_mse, reference.pkd),
        _sizes(_SMALL_FPN, retinanet=Size(2, 256, 256, _FPN[:4])),
    ),
    'afdcd': Method(
        _afdcd,
        _sizes(Size(1, 64, 256, [(32, 32)], pool=4), cityscapes=Size(1, 512, 2048, [(64, 128)], turns=3, pool=4)),
    ),
    'maskd': Method(
        _maskd,
        _sizes(Size(2, 32, 32, [(32, 40), (16, 20)], tokens=4), detection=Size(2, 256, 256, _BIG_FPN, 2, tokens=6)),
    ),
    'pcd': Method(
        _pcd,
        _sizes(
            Size(16, 256, 256, [(7, 7)], keys=16384),
            imagenet=Size(64, 256, 256, [(7, 7)], turns=2, keys=65536),
            cityscapes=Size(4, 2048, 2048, [(32, 32)], turns=7, keys=1024),
        ),
    ),
    'cirkd': Method(
        _cirkd,
        _sizes(Size(2, 16, 32, [(16, 24)], keys=300), voc=Size(2, 128, 512, [(64, 64)], turns=2, keys=4096)),
    ),
    'ifvd': Method(
        _ifvd,
        _sizes(Size(2, 16, 32, [(16, 24)], classes=5), cityscapes=Size(2, 128, 512, [(64, 128)], turns=3, classes=19)),
    ),
    'mgd': Method(_mgd, _sizes(_SMALL_FPN, retinanet=Size(1, 256, 256, _FPN, turns=2))),
    'fgd': Method(
        _fgd,
        _sizes(Size(2, 16, 16, _SMALL_FPN.maps, boxes=3), retinanet=Size(2, 256, 256, _FPN, turns=3, boxes=7)),
    ),
    'cankd': Method(_cankd, _sizes(_SMALL_FPN, retinanet=Size(2, 128, 128, _FPN, turns=2))),
    'freekd': Method(
        _freekd,
        _sizes(Size(2, 16, 16, _SMALL_FPN.maps, tokens=3), retinanet=Size(2, 256, 256, _FPN, turns=2, tokens=6)),
    ),
    'ld': Method(_ld, _sizes(Size(2, 17, 17, [], boxes=200), gfl=Size(2, 17, 17, [], turns=9, boxes=2000))),
    'fitnet': Method(_fitnet, _sizes(_SMALL, cityscapes=Size(1, 512, 2048, [(64, 128)], turns=3))),
    'featurematch': Method(_plain('standardised maps', losses.feature_match, reference.feature_match), _TOKENS),
    'queuekl': Method(
        _queue_kl, _sizes(Size(4, 32, 32, [(1, 1)], keys=500), imagenet=Size(128, 384, 384, [(1, 1)], keys=8192))
    ),
}
