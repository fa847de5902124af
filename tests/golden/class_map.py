"""Golden kinds of a teacher of other classes: what the distillers call."""

from pathlib import Path

import torch
from torch import Tensor

from mmdistill_dense.losses import sigmoid_divergence, softmax_divergence
from mmdistill_dense.networks.class_pairs import ClassPairs, merged
from tests.golden.arrays import Arrays

KINDS = {'student_logits': 'softmax', 'student_scores': 'sigmoid', 'labels': 'mass'}


def kind_of(path: Path, arrays: Arrays) -> str:
    return next(kind for name, kind in KINDS.items() if name in arrays)


def pairs_of(arrays: Arrays, ours: int, theirs: int) -> ClassPairs:
    """The pairs of a file, through names as a config gives them."""
    student, teacher = ([f'{side}{one}' for one in range(n)] for side, n in (('s', ours), ('t', theirs)))
    option: dict[str, list[str]] = {}
    for mine, other in arrays['pairs'].tolist():
        option.setdefault(student[mine], []).append(teacher[other])
    return ClassPairs.of(option, student, teacher)


def tensors(arrays: Arrays, what: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    student, teacher = (torch.from_numpy(arrays[f'{side}_{what}']).to(dtype) for side in ('student', 'teacher'))
    return student.requires_grad_(), teacher


def softmax(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student, teacher = tensors(arrays, 'logits', dtype)
    background = int(arrays['background'])
    pairs = pairs_of(arrays, student.shape[1] - background, teacher.shape[1] - background)
    pairs = pairs.with_background() if background else pairs
    expected = {tuple(one) for one in arrays['all_pairs'].tolist()}
    assert expected <= {(a, b) for group in pairs.groups for a in group.student for b in group.teacher}
    weight, scale = pairs.mass(teacher), float(arrays['loss_weight'])
    found: dict[str, Tensor] = {}
    for suffix, rows in (('', None), ('_weighed', weight)):
        groups = pairs.softmax(student, teacher)
        loss = scale * softmax_divergence(*groups, temperature=float(arrays['temperature']), weight=rows)
        (grad,) = torch.autograd.grad(loss, student)
        found |= {f'loss{suffix}': loss, f'grad{suffix or "_student"}': grad}
    order = _order(pairs, expected if background else None)
    for side, x in (('student', student), ('teacher', teacher)):
        groups = [getattr(group, side) for group in pairs.groups]
        found[f'{side}_groups'] = merged(x, groups, 'logsumexp')[:, order]
    shape = arrays['row_weight'].shape
    found['row_weight'] = torch.ones(shape, dtype=dtype) if weight is None else weight
    return found


def _order(pairs: ClassPairs, expected: set[tuple[int, int]] | None) -> list[int]:
    """The background, which the file puts last."""
    order = list(range(len(pairs.groups)))
    if expected is None:
        return order
    last = next(place for place, group in enumerate(pairs.groups) if len(pairs.student) - 1 in group.student)
    return [one for one in order if one != last] + [last]


def sigmoid(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student, teacher = tensors(arrays, 'scores', dtype)
    anchors, temperature = int(arrays['anchors']), float(arrays['temperature'])
    pairs = pairs_of(arrays, student.shape[1] // anchors, teacher.shape[1] // anchors)
    groups = pairs.anchors(student, teacher)
    scale, found = float(arrays['loss_weight']), dict[str, Tensor]()
    elements = tuple(x.reshape(-1, 1, *x.shape[2:]) for x in groups)
    for name, sides in (('positions', groups), ('elements', elements)):
        loss = scale * sigmoid_divergence(*sides, temperature=temperature)
        (grad,) = torch.autograd.grad(loss, student, retain_graph=True)
        found |= {f'loss_{name}': loss, f'grad_{name}': grad}
    return found


def mass(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    scores = torch.from_numpy(arrays['teacher_logits']).to(dtype).softmax(1)
    pairs = pairs_of(arrays, int(arrays['pairs'][:, 0].max()) + 2, scores.shape[1])
    return {'best_mass': pairs.summed(scores).amax(1)}
