"""The kinds of MasKD: which one a file is tells its name, what it holds the arrays in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers import MasKD
from mmdistill_dense.distillers.maskd.token_files import BRANCH as PROB
from mmdistill_dense.distillers.maskd.token_files import TOKEN
from mmdistill_dense.losses import Branch
from tests.golden.arrays import Arrays, leaf, tensor

PREFIXES = ('stage1', 'stage2_det', 'stage2_seg', 'dice', 'dist')
BRANCH = ('prob_conv_weight', 'prob_conv_bias', 'prob_fc_weight', 'prob_fc_bias')


def kind_of(path: Path, arrays: Arrays) -> str:
    return next((kind for kind in PREFIXES if path.name.startswith(f'{kind}_')), path.stem)


def stage1(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Gate and Dice, differentiated to the tokens, the branch and the map."""
    names = ('x', 'mask_token', *(name for name in BRANCH if name in arrays))
    leaves = {name: leaf(arrays[name], dtype) for name in names}
    x, tokens, *branch = leaves.values()
    masks = losses.token_masks(tokens, x)
    weights = losses.mask_weights(Branch(*branch), x) if branch else None
    gated, dice = losses.gate(x, masks, weights), losses.mask_dice(masks, float(arrays['eps']))
    loss = torch.sum(gated * tensor(arrays['upstream'], dtype), dtype=torch.float64) + dice
    grads = torch.autograd.grad(loss, list(leaves.values()))
    results = {'mask': masks, 'out': gated, 'dice': dice, 'loss': loss}
    results |= {f'grad_{name}': grad for name, grad in zip(leaves, grads, strict=True)}
    return results if weights is None else {**results, 'prob': weights}


def stage2_detection(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the whole distiller on all levels; beside it the pieces of each level."""
    levels = [_without(f'level{number}_', arrays) for number in range(int(arrays['num_levels']))]
    since = int(arrays['warmup']) if arrays['custom_mask'] else None
    student_mask = since is not None and int(arrays['iter']) >= since
    options = {'weight_mask': bool(arrays['weight_mask']), 'student_mask_from': since}
    total, found = _distil(levels, arrays, dtype, loss_weight=float(arrays['loss_weight']), **options)
    results = {'loss': total}
    for number, level in enumerate(levels):
        pieces = {**found[number], **_pieces(level, dtype, student_mask, float(arrays['eps']))}
        results |= {f'level{number}_{name}': value for name, value in pieces.items()}
    return results


def stage2_segmentation(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    total, found = _distil([arrays], arrays, dtype, weight_mask=False)
    pieces = _pieces(arrays, dtype, False, float(arrays['eps']))
    return {**found[0], **pieces, 'mask': pieces['mask_teacher'], 'loss': total}


def _without(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def _distil(
    levels: Sequence[Arrays], arrays: Arrays, dtype: torch.dtype, **options: Any
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return the distiller's loss, and of each level the unweighted loss and the student's gradient."""
    constants = {'num_tokens': len(levels[0]['mask_token']), 'eps': float(arrays['eps'])}
    distiller = MasKD('tap', align='none', factor=float(arrays['factor']), **constants, **options)
    students = [leaf(level['student'], dtype) for level in levels]
    shapes = {'tap': [student.shape for student in students]}
    distiller.setup(shapes, shapes)
    stored = dict(zip(('mask_token', *BRANCH), (TOKEN, *PROB), strict=True))
    names = [(number, name) for number in range(len(levels)) for name in stored if name in levels[number]]
    values = {f'{number}.{stored[name]}': tensor(levels[number][name], dtype) for number, name in names}
    distiller.to(dtype).load_tokens(values)
    distiller.state.iteration = int(arrays.get('iter', 0))
    teachers = [tensor(level['teacher'], dtype) for level in levels]
    losses_ = distiller.step({'tap': students}, {'tap': teachers}, None)
    losses_['loss_maskd'].backward()
    found = enumerate(students)
    return losses_['loss_maskd'], [{'loss': losses_[f'level{i}'], 'grad_student': x.grad} for i, x in found]


def _pieces(level: Arrays, dtype: torch.dtype, student_mask: bool, eps: float) -> dict[str, Tensor]:
    names = ('student', 'teacher', 'mask_token', *(name for name in BRANCH if name in level))
    student, teacher, tokens, *branch = (tensor(level[name], dtype) for name in names)
    masks = losses.token_masks(tokens, teacher)
    used = masks * losses.token_masks(tokens, student) if student_mask else masks
    shares = losses.mask_weights(Branch(*branch), teacher) if branch else None
    weight_map = losses.pixel_weights(used, shares, eps)[:, 0]
    results = {'mask_teacher': masks, 'mask_used': used, 'weight_map': weight_map}
    return results if shares is None else {**results, 'prob': shares}


def dice(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    mask = leaf(arrays['mask'], dtype)
    value = losses.mask_dice(mask, float(arrays['eps']))
    value.backward()
    return {'dice': value, 'grad_mask': mask.grad}


def dist(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student, teacher = leaf(arrays['student'], dtype), tensor(arrays['teacher'], dtype)
    loss = losses.correlation_distance(student, teacher, beta=float(arrays['beta']), gamma=float(arrays['gamma']))
    loss.backward()
    return {'loss': loss, 'grad_student': student.grad}
