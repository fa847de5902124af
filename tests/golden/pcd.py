"""The kinds of PCD's loss, queue and student: prefixes of the arrays are the cases inside a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdistill_dense import losses
from mmdistill_dense.distillers import PCD
from mmdistill_dense.distillers.pcd.parts import Compared, NegativeQueue, PixelAttention
from tests.golden.arrays import Arrays, leaf, tensor


def infonce(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    results = {}
    for case in _cases(arrays, '_n_valid'):
        student, teacher = leaf(arrays[f'{case}_s'], dtype), tensor(arrays[f'{case}_t'], dtype)
        valid = torch.from_numpy(arrays[f'{case}_valid'])
        tau = float(arrays[f'{case}_tau'])
        negatives = tensor(arrays[f'{case}_queue'], dtype)[: int(arrays[f'{case}_n_valid'])]
        s, t, weight = losses.pixel_pairs(student, teacher, valid)
        loss, per_pixel = losses.pixel_info_nce(s, t, negatives, tau, weight / weight.sum())
        loss.backward()
        positive = (s * t).sum(1)
        maps = {'loss_map': per_pixel, 'pos': positive, 'lse': per_pixel + positive / tau}
        results |= {f'{case}_{name}': (value * weight).view(valid.shape) for name, value in maps.items()}
        results |= {f'{case}_loss': loss, f'{case}_grad_s': student.grad}
    return results


def two_view(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    for pairing in ('cross', 'same'):
        students = [leaf(arrays[f's{view}'], dtype) for view in (1, 2)]
        teachers = [tensor(arrays[f't{view}'], dtype) for view in (1, 2)]
        distiller = bare(students[0], teachers[0], arrays['queue_before'], arrays['ptr_before'], view_pairing=pairing)
        distiller.temperature = float(arrays['tau'])
        keys = distiller._keys(Compared([], [], teachers[0], None, None, []), 0)
        ranks = losses.key_ranks(students[0].detach().mean((2, 3)), keys, distiller.queue.negatives())
        terms = distiller({'tap': students}, {'tap': teachers}, None)
        terms['loss_pcd'].backward()
        results |= {f'grad_s{view}_{pairing}': student.grad for view, student in zip((1, 2), students, strict=True)}
        results[f'loss_{pairing}'] = terms['loss_pcd']
    results |= {f'monitor_top{n}': terms[f'acc_top{n}'] for n in (1, 5)}
    return {
        **results,
        'keys': keys,
        'monitor_rank': ranks,
        'queue_after': distiller.queue.rows,
        'ptr_after': distiller.queue.ptr[0],
    }


def queue(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """The keys of all ranks as one process would give them; two processes are in the tests of the distiller."""
    results = {}
    for case in _cases(arrays, '_steps'):
        store = queue_of(arrays[f'{case}_queue0'], arrays[f'{case}_ptr0'], arrays[f'{case}_filled0'], dtype)
        for step in range(1, int(arrays[f'{case}_steps']) + 1):
            store.enqueue(tensor(arrays[f'{case}_keys{step}'], dtype).flatten(0, 1))
            found = {'queue': store.rows, 'ptr': store.ptr[0], 'filled': store.filled[0]}
            results |= {f'{case}_{name}{step}': value.clone() for name, value in found.items()}
    return results


def mhsa(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    x = tensor(arrays['x'], dtype)
    attention = PixelAttention(x.shape[1], int(arrays['num_heads'])).to(dtype)
    names = {name: name.replace('.', '_') for name in attention.state_dict()}
    attention.load_state_dict({name: torch.from_numpy(arrays[stored]) for name, stored in names.items()})
    return {'y': attention(x)}


def student_head(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    x = leaf(arrays['x'], dtype)
    stored = {name.removeprefix('state/'): value for name, value in arrays.items() if name.startswith('state/')}
    hidden = len(stored['projector.1.weight'])
    distiller = PCD('tap', head=dict(type='mlp2', hidden=hidden, bias=False), queue_size=1)
    distiller.setup({'tap': [x.shape]}, {'tap': [torch.Size(arrays['y_train'].shape)]})
    distiller.to(dtype)
    load(distiller, stored)
    distiller.eval()
    results = {'y_eval': distiller._embed(0, x.detach(), None)}
    distiller.train()
    results['y_train'] = distiller._embed(0, x, None)
    results['y_train'].backward(tensor(arrays['grad_y'], dtype))
    results['grad_x'] = x.grad
    results |= {f'grad/{name}': p.grad for name, p in distiller.named_parameters()}
    return results | {f'after/{name}': value for name, value in distiller.named_buffers()}


def plugin(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    results = {}
    for case in _cases(arrays, '_resized'):
        teacher = tensor(arrays[f'{case}_teacher'], dtype)
        results[f'{case}_resized'] = losses.to_grid(teacher, arrays[f'{case}_size'].tolist())
    shapes = (arrays[f'mask_{name}'].tolist() for name in ('img_shapes', 'batch_shape', 'feat'))
    results['mask'] = losses.centres_inside(*shapes)
    student, teacher = leaf(arrays['sub_s'], dtype), tensor(arrays['sub_t'], dtype)
    distiller = bare(student, teacher, arrays['sub_queue'], np.array(0))
    distiller.positions = lambda pixels, level: torch.from_numpy(arrays['sub_idx'])
    loss = distiller({'tap': [student]}, {'tap': [teacher]}, None)['loss_pcd']
    loss.backward()
    return {**results, 'sub_loss': loss, 'sub_grad_s': student.grad}


def bare(student: Tensor, teacher: Tensor, queue: np.ndarray, ptr: np.ndarray, **options: Any) -> PCD:
    """A distiller without a head, its queue full."""
    distiller = PCD('tap', head=None, queue_size=len(queue), queue_init='random', **options)
    distiller.setup({'tap': [student.shape]}, {'tap': [teacher.shape]})
    distiller.queue = queue_of(queue, ptr, np.array(len(queue)), student.dtype)
    return distiller


def queue_of(rows: np.ndarray, ptr: np.ndarray, filled: np.ndarray, dtype: torch.dtype) -> NegativeQueue:
    store = NegativeQueue(*rows.shape).to(dtype)
    load(store, {'rows': rows, 'ptr': ptr.reshape(1), 'filled': filled.reshape(1)})
    return store


def load(module: nn.Module, stored: Mapping[str, np.ndarray]) -> None:
    """Load what the file stores of a module; its other state stays."""
    missing, unexpected = module.load_state_dict({k: torch.from_numpy(v) for k, v in stored.items()}, strict=False)
    assert not unexpected and not [name for name in missing if 'weight' in name], (missing, unexpected)


def _cases(arrays: Arrays, suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in arrays if name.endswith(suffix)]
