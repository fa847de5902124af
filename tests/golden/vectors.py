"""The kinds of methods that compare one vector a picture: PCD on vectors, SEED, SimReg."""

from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers import PCD, QueueKL, SimReg
from mmdistill_dense.distillers.pcd import parts
from tests.golden.arrays import Arrays, leaf, tensor
from tests.golden.pcd import queue_of


def vector(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the whole distiller; the mask stands for what the samples of padded pictures say."""
    views = range(1, int(arrays['views']) + 1)
    students = [leaf(arrays[f's{view}'], dtype) for view in views]
    teachers = [tensor(arrays[f't{view}'], dtype) for view in views]
    kind, queue = str(arrays['head']), arrays['queue']
    hidden = len(arrays['w0']) if kind == 'mlp' else None
    head = {'none': None, 'linear': dict(type='linear'), 'mlp': dict(type='mlp', hidden=hidden, bias='hidden')}[kind]
    options: dict[str, Any] = dict(temperature=float(arrays['temperature']), queue_size=len(queue), monitor_interval=0)
    made = PCD('tap', head=head, vectors=True, **options)
    made.setup({'tap': [students[0].shape]}, {'tap': [teachers[0].shape]})
    made.queue = queue_of(queue, np.array(0), arrays['n_valid'], dtype)
    made.to(dtype)
    parameters = dict(made.named_parameters())
    layers = {'linear': {'w0': 'weight', 'b0': 'bias'}, 'mlp': dict(
        w0='0.weight', b0='0.bias', bn_w='1.weight', bn_b='1.bias', w1='3.weight')}.get(kind, {})  # fmt: skip
    names = {stored: parameters[f'projector.{name}'] for stored, name in layers.items()}
    for stored, parameter in names.items():
        parameter.data.copy_(tensor(arrays[stored], dtype).view_as(parameter))
    valid = torch.from_numpy(arrays['valid']) if 'valid' in arrays else None
    rows: list[Tensor] = []

    def contrast(*args: Any) -> tuple[Tensor, Tensor]:
        found = losses.pixel_info_nce(*args)
        rows.append(found[1])
        return found

    with (
        mock.patch.object(parts, 'inside_on_device', lambda *_: valid),
        mock.patch.object(parts, 'pixel_info_nce', contrast),
    ):
        loss = made({'tap': students}, {'tap': teachers}, None)['loss_pcd']
    loss.backward()
    keys = made.queue.rows[: len(teachers[0])]
    found = {'loss': loss, 'row_loss': rows[0], 'keys': keys}
    found |= {f'grad_s{view}': student.grad for view, student in zip(views, students, strict=True)}
    return found | {f'grad_{name}': one.grad.flatten(1) if one.ndim > 1 else one.grad for name, one in names.items()}


def seed(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Run the whole distiller; the divergence of single rows is that of its loss function."""
    student, teacher, queue = leaf(arrays['student'], dtype), tensor(arrays['teacher'], dtype), arrays['queue']
    cold, warm = (float(arrays[f'{side}_temperature']) for side in ('teacher', 'student'))
    options = dict(temperature=cold, student_temperature=warm, queue_size=len(queue), monitor_interval=0)
    made = QueueKL('tap', own_key=True, head=None, **options)
    made.setup({'tap': [student[:1].shape]}, {'tap': [teacher[:1].shape]})
    made.parts[0] = queue_of(queue, np.array(0), arrays['n_valid'], dtype)
    keys = made.parts[0].negatives()[None].clone()
    loss = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_queue']
    loss.backward()
    s, t = (losses.normalize_pixels(x.detach()[:, :, None, None])[0] for x in (student, teacher))
    rows = [
        losses.similarity_divergence(
            s[n : n + 1] * made.sharper, keys, t[n : n + 1], keys, temperature=cold, own_key=True
        )
        for n in range(len(s))
    ]
    return {'loss': loss, 'row_divergence': torch.stack(rows), 'grad_student': student.grad}


def simreg(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    student, teacher = leaf(arrays['student'], dtype), tensor(arrays['teacher'], dtype)
    made = SimReg('tap', head=None)
    made.setup({'tap': [student[:1].shape]}, {'tap': [teacher[:1].shape]})
    loss = made({'tap': [student]}, {'tap': [teacher]}, None)['loss_simreg']
    loss.backward()
    return {'loss': loss, 'grad_student': student.grad}


def kind_of(_: Any, arrays: Arrays) -> str:
    """SEED of a student that is hardly another than the teacher has a tolerance of its own."""
    kind = str(arrays['kind'])
    return 'near' if kind == 'seed' and arrays['loss'] < 1e-5 else kind
