"""Twelve steps of training: curve and weights of students taught by the modules that the authors released."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmdistill_dense.distillers import PCD, AfDCD, MasKD
from mmdistill_dense.distillers.base import Distiller
from tests.golden.arrays import Arrays, tensor

FEAT = 'backbone'


def afdcd(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """A student of two convolutions, its head, and the projector whose gradients are clipped."""
    student, teacher = (_convolutions(arrays, side, stride=1) for side in ('student', 'teacher'))
    head = nn.Conv2d(len(arrays['student.2.bias']), 5, 1)
    random = str(arrays['mask']) == 'random'
    distiller = AfDCD(
        FEAT,
        projector=str(arrays['projector']),
        pool_size=int(arrays['pool_size']),
        mask=None if random else dict(type='centre'),
        fd_weight=float(arrays['fd_weight']),
        fd_reduction='sum',
        ctr_weight=float(arrays['ctr_weight']),
        clip_max_norm=float(arrays['clip_max_norm']),
    )
    _set_up(distiller, arrays, {'student': student, 'teacher': teacher}, arrays['x'])
    parts = {'student': student, 'teacher': teacher, 'head': head, 'projector': distiller.parts[0]}
    x, y = _inputs(arrays, parts, dtype)

    def loss(step: int) -> Tensor:
        if random:
            distiller.keep = lambda shape, level: torch.from_numpy(arrays['draw'][step]) <= 0.25
        features = student(x[step])
        terms = distiller({FEAT: [features]}, {FEAT: [teacher(x[step])]}, None)
        return cross_entropy(head(features), y[step]) + terms['loss_fd'] + terms['loss_ctr']

    return _trained(arrays, loss, {name: parts[name] for name in ('student', 'head')}, parts, distiller)


def maskd(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Both maps of a student of two levels, with masks of the teacher alone or later of both."""
    student, teacher = (_Levels(arrays, side) for side in ('student', 'teacher'))
    head = nn.Conv2d(len(arrays['student.b.bias']), 5, 1)
    since = int(arrays['student_mask_from'])
    distiller = MasKD(
        FEAT,
        num_tokens=int(arrays['num_tokens']),
        student_mask_from=None if since < 0 else since,
        loss_weight=float(arrays['loss_weight']),
    )
    _set_up(distiller, arrays, {'student': student, 'teacher': teacher}, arrays['x'])
    parts = {'student': student, 'teacher': teacher, 'head': head, 'aligns': distiller.aligns}
    x, y = _inputs(arrays, parts, dtype)
    distiller.to(dtype)
    distiller.load_tokens(_state(arrays, 'tokens'))

    def loss(step: int) -> Tensor:
        distiller.state.iteration = step
        maps = student(x[step])
        terms = distiller.step({FEAT: maps}, {FEAT: teacher(x[step])}, None)
        return cross_entropy(head(maps[-1]), y[step]) + terms['loss_maskd']

    return _trained(arrays, loss, {name: parts[name] for name in ('student', 'head')}, parts, distiller)


def pcd(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """A backbone in training mode, pre-trained on two views."""
    layers: list[nn.Module] = []
    for place, channels in ((0, 3), (3, len(arrays['backbone.1.weight']))):
        out = len(arrays[f'backbone.{place}.weight'])
        layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    teacher = nn.ModuleDict({'n': _convolutions(arrays, 'teacher.n', stride=2)})
    head = dict(type='mlp2', hidden=int(arrays['hidden']), bias=False)
    size = int(arrays['queue_size'])
    options = dict(temperature=float(arrays['temperature']), queue_size=size, queue_init='random', num_pixels=None)
    distiller = PCD(FEAT, head=head, **options)
    _set_up(distiller, arrays, {'student': backbone, 'teacher': teacher['n']}, arrays['x1'])
    parts = {'backbone': backbone, 'teacher': teacher}
    parts |= {name: distiller.get_submodule(name) for name in ('projector', 'predictor')}
    views = [_inputs(arrays, parts, dtype, name)[0] for name in ('x1', 'x2')]
    queue = distiller.queue.to(dtype)
    queue.rows.copy_(torch.from_numpy(arrays['queue']))
    queue.filled.fill_(size)
    queue.ptr.zero_()
    distiller.train()

    def loss(step: int) -> Tensor:
        students, teachers = ([network(view[step]) for view in views] for network in (backbone, teacher['n']))
        return distiller({FEAT: students}, {FEAT: teachers}, None)['loss_pcd']

    learned = {name: parts[name] for name in ('backbone', 'projector', 'predictor')}
    return {**_trained(arrays, loss, learned, learned, distiller), 'queue_after': queue.rows}


class _Levels(nn.Module):
    """Two convolutions of stride 2 with ReLU; returns both maps."""

    def __init__(self, arrays: Arrays, side: str) -> None:
        super().__init__()
        shapes = [arrays[f'{side}.{name}.weight'].shape for name in 'ab']
        self.a, self.b = (nn.Conv2d(shape[1], shape[0], 3, 2, 1) for shape in shapes)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.a(x).relu()
        return [first, self.b(first).relu()]


def _convolutions(arrays: Arrays, side: str, stride: int) -> nn.Sequential:
    shapes = [arrays[f'{side}.{place}.weight'].shape for place in (0, 2)]
    first, second = (nn.Conv2d(shape[1], shape[0], 3, stride, 1) for shape in shapes)
    return nn.Sequential(first, nn.ReLU(), second)


def _set_up(distiller: Distiller, arrays: Arrays, sides: Mapping[str, nn.Module], x: np.ndarray) -> None:
    """Let a distiller see the shapes of both networks' maps, of one picture."""
    shapes = {}
    for side, network in sides.items():
        with torch.no_grad():
            maps = network(torch.zeros(x[0, :1].shape))
        shapes[side] = {FEAT: [one.shape for one in (maps if isinstance(maps, list) else [maps])]}
    distiller.setup(shapes['student'], shapes['teacher'])


def _state(arrays: Arrays, name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f'{name}.'): torch.from_numpy(value)
            for key, value in arrays.items() if key.startswith(f'{name}.')}  # fmt: skip


def _inputs(
    arrays: Arrays, parts: Mapping[str, nn.Module], dtype: torch.dtype, name: str = 'x'
) -> tuple[Tensor, Tensor | None]:
    """Load what each module begins with, freeze the teacher; return the pictures and, if stored, the labels."""
    for key, module in parts.items():
        module.to(dtype).load_state_dict(_state(arrays, key))
    parts['teacher'].eval().requires_grad_(False)
    return tensor(arrays[name], dtype), torch.from_numpy(arrays['y']) if 'y' in arrays else None


def _trained(
    arrays: Arrays,
    loss: Callable[[int], Tensor],
    told: Mapping[str, nn.Module],
    parts: Mapping[str, nn.Module],
    distiller: Distiller,
) -> dict[str, Tensor]:
    """Train all but the teacher; return the curve, and what ``told`` has become."""
    learned = [p for name, part in parts.items() if name != 'teacher' for p in part.parameters()]
    options = {name: float(arrays[name]) for name in ('lr', 'momentum', 'weight_decay')}
    optimizer = torch.optim.SGD(learned, **options)
    curve = []
    for step in range(len(arrays['curve'])):
        value = loss(step)
        curve.append(value.detach())
        optimizer.zero_grad()
        value.backward()
        if distiller.clip_max_norm:
            distiller.clip_gradients()
        optimizer.step()
    after = {f'{name}_after.{key}': value for name, part in told.items() for key, value in part.state_dict().items()}
    return {'curve': torch.stack(curve), **after}
