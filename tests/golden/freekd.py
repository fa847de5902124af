"""The kinds of FreeKD: the wavelet, learning the tokens on the teacher, and the student's loss."""

import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers import FreeKD
from mmdistill_dense.distillers.freekd import band_gate
from tests.golden.arrays import Arrays, tensor


def haar(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Beside the bands, ``x``: what the inverse makes of them."""
    x = tensor(arrays['x'], dtype)
    low, details = losses.haar(x, int(arrays['levels']))
    return {'ll': low, 'x': losses.inverse(low, details, x.shape[2:]), **_numbered('high', details, 1)}


def prompt(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    x, tokens, upstream = (tensor(arrays[name], dtype) for name in ('x', 'tokens', 'upstream'))
    x.requires_grad_(), tokens.requires_grad_()
    out, masks = band_gate({'0.mask_token': tokens}, 0, x)
    dice = torch.stack([losses.mask_dice(mask) for mask in masks])
    loss = torch.sum(out * upstream, dtype=torch.float64) + dice.sum()
    loss.backward()
    found = {'out': out, 'dice': dice, 'loss': loss, 'grad_x': x.grad, 'grad_tokens': tokens.grad}
    return found | _numbered('mask', masks)


def distill(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the whole distiller on all levels; beside it the pieces of each level."""
    levels = range(int(arrays['num_levels']))
    student, teacher, tokens = (
        [tensor(arrays[f'level{n}_{name}'], dtype) for n in levels] for name in ('student', 'teacher', 'tokens')
    )
    options = dict(steps=int(arrays['levels']), bands=str(arrays['bands']), mse_weight=0.0, align='none')
    distiller = FreeKD('tap', num_tokens=len(tokens[0][0]), loss_weight=float(arrays['loss_weight']), **options)
    shapes = {'tap': [one[:1].shape for one in student]}
    distiller.setup(shapes, shapes)
    distiller.to(dtype).load_tokens({f'{n}.mask_token': tokens[n] for n in levels})
    maps = [one.requires_grad_() for one in student]
    terms = distiller.step({'tap': maps}, {'tap': teacher}, None)
    terms['loss_freekd'].backward()
    found = {'loss': terms['loss_freekd']}
    for n in levels:
        pieces = {'loss': terms[f'level{n}'], 'grad_student': maps[n].grad}
        pieces['terms'] = losses.frequency_terms(student[n], teacher[n], tokens[n], distiller.bands)
        pieces |= _numbered('mask', losses.frequency_masks(tokens[n], teacher[n]))
        found |= {f'level{n}_{name}': value for name, value in pieces.items()}
    return found


def _numbered(name: str, values: list[Tensor], first: int = 0) -> dict[str, Tensor]:
    return {f'{name}{number}': value for number, value in enumerate(values, first)}
