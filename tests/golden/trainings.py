"""The kinds that train for some steps: students taught by the modules that the authors released, a whole teacher."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmdistill_dense.distillers import PCD, AfDCD, MasKD
from mmdistill_dense.engine import LARS
from mmdistill_dense.pretrain import SpatialAdaptor
from mmdistill_dense.pretrain.ssl_teacher import indexed
from mmdistill_dense.registry import MODELS
from mmdistill_dense.weights.ssl_layouts import LAYOUTS
from tests.golden.reading import File, Results, load, losses_of, set_up

Modules = dict[str, nn.Module]


def afdcd(file: File) -> Results:
    """A student of two convolutions, its head, and the projector whose gradients are clipped."""
    student, teacher = (_convolutions(file, side, stride=1) for side in ('student', 'teacher'))
    head = nn.Conv2d(len(file['student.2.bias']), 5, 1)
    random = str(file['mask']) == 'random'
    distiller = AfDCD(
        'tap',
        projector=str(file['projector']),
        pool_size=int(file['pool_size']),
        mask=None if random else dict(type='centre'),
        fd_reduction='sum',
        **file.numbers('fd_weight ctr_weight clip_max_norm'),
    )
    distiller = _seen(distiller, file, student, teacher)
    parts = {'student': student, 'teacher': teacher, 'head': head, 'projector': distiller.parts[0]}
    x, y = _loaded(file, parts), torch.from_numpy(file['y'])

    def loss(step: int) -> Tensor:
        if random:
            distiller.keep = lambda shape, level: torch.from_numpy(file['draw'][step]) <= 0.25
        features = student(x[step])
        terms = losses_of(distiller, [features], [teacher(x[step])])
        return cross_entropy(head(features), y[step]) + terms['loss_fd'] + terms['loss_ctr']

    return _trained(file, loss, parts, ('student', 'head'), distiller)


def maskd(file: File) -> Results:
    """Both maps of a student of two levels, with masks of the teacher alone or later of both."""
    student, teacher = (_Levels(file, side) for side in ('student', 'teacher'))
    head = nn.Conv2d(len(file['student.b.bias']), 5, 1)
    since = int(file['student_mask_from'])
    options = dict(num_tokens=int(file['num_tokens']), **file.numbers('loss_weight'))
    distiller = _seen(MasKD('tap', student_mask_from=None if since < 0 else since, **options), file, student, teacher)
    parts = {'student': student, 'teacher': teacher, 'head': head, 'aligns': distiller.aligns}
    x, y = _loaded(file, parts), torch.from_numpy(file['y'])
    distiller.load_tokens(file.below('tokens.').state())

    def loss(step: int) -> Tensor:
        distiller.state.iteration = step
        maps = student(x[step])
        terms = distiller.step({'tap': maps}, {'tap': teacher(x[step])}, None)
        return cross_entropy(head(maps[-1]), y[step]) + terms['loss_maskd']

    return _trained(file, loss, parts, ('student', 'head'), distiller)


def pcd(file: File) -> Results:
    """A backbone in training mode, pre-trained on two views."""
    layers: list[nn.Module] = []
    for index, channels in ((0, 3), (3, len(file['backbone.1.weight']))):
        out = len(file[f'backbone.{index}.weight'])
        layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    backbone, teacher = nn.Sequential(*layers), nn.ModuleDict({'n': _convolutions(file, 'teacher.n', stride=2)})
    head, size = dict(type='mlp2', hidden=int(file['hidden']), bias=False), int(file['queue_size'])
    options: dict[str, Any] = dict(queue_size=size, queue_init='random', num_pixels=None)
    distiller = PCD('tap', head=head, **options, **file.numbers('temperature'))
    distiller = _seen(distiller, file, backbone, teacher['n'], 'x1')
    parts: Modules = {'backbone': backbone, 'teacher': teacher}
    parts |= {name: distiller.get_submodule(name) for name in ('projector', 'predictor')}
    views = [_loaded(file, parts, name) for name in ('x1', 'x2')]
    queue = distiller.queue
    queue.rows.copy_(torch.from_numpy(file['queue']))
    queue.filled.fill_(size)
    queue.ptr.zero_()
    distiller.train()

    def loss(step: int) -> Tensor:
        students, teachers = ([network(view[step]) for view in views] for network in (backbone, teacher['n']))
        return losses_of(distiller, students, teachers)['loss_pcd']

    text = 'backbone', 'projector', 'predictor'
    return {**_trained(file, loss, parts, text, distiller), 'queue_after': queue.rows}


class _Levels(nn.Module):
    """Two convolutions of stride 2 with ReLU; returns both maps."""

    def __init__(self, file: File, side: str) -> None:
        super().__init__()
        shapes = [file[f'{side}.{name}.weight'].shape for name in 'ab']
        self.a, self.b = (nn.Conv2d(shape[1], shape[0], 3, 2, 1) for shape in shapes)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.a(x).relu()
        return [first, self.b(first).relu()]


def _convolutions(file: File, side: str, stride: int) -> nn.Sequential:
    shapes = [file[f'{side}.{number}.weight'].shape for number in (0, 2)]
    first, second = (nn.Conv2d(shape[1], shape[0], 3, stride, 1) for shape in shapes)
    return nn.Sequential(first, nn.ReLU(), second)


def _seen(distiller: Any, file: File, student: nn.Module, teacher: nn.Module, name: str = 'x') -> Any:
    """The distiller, set up for both networks' maps of one picture."""
    sides = []
    for network in (student, teacher):
        maps = network(torch.zeros(file[name][0, :1].shape))
        sides.append([level.to(file.dtype) for level in (maps if isinstance(maps, list) else [maps])])
    return set_up(distiller, *sides)


def _loaded(file: File, parts: Modules, name: str = 'x') -> Tensor:
    """Load what each module begins with, freeze the teacher; return the pictures."""
    for key, module in parts.items():
        module.to(file.dtype).load_state_dict(file.below(f'{key}.').state())
    parts['teacher'].eval().requires_grad_(False)
    return file.tensor(name)


def _trained(
    file: File, loss: Callable[[int], Tensor], parts: Modules, text: tuple[str, ...], distiller: Any
) -> Results:
    """Train all but the teacher; return the curve, and what ``text`` has become."""
    learned = [p for name, part in parts.items() if name != 'teacher' for p in part.parameters()]
    optimizer = torch.optim.SGD(learned, **file.numbers('lr momentum weight_decay'))
    curve = []
    for step in range(len(file['curve'])):
        value = loss(step)
        curve.append(value.detach())
        optimizer.zero_grad()
        value.backward()
        if distiller.clip_max_norm:
            distiller.clip_gradients()
        optimizer.step()
    after = {f'{name}_after.{key}': value for name in text for key, value in parts[name].state_dict().items()}
    return {'curve': torch.stack(curve), **after}


# PCD with a whole teacher: adapted heads, and training steps from end to end


@MODELS.register_module()
class GoldenStudentBackbone(nn.Sequential):
    """The student's backbone of the file ``end_to_end``; its widths come from the file."""

    def __init__(self, hidden: int, channels: int) -> None:
        first, second = (nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in ((3, hidden), (hidden, channels)))
        super().__init__(first, nn.BatchNorm2d(hidden), nn.ReLU(), second)


@MODELS.register_module()
class GoldenTeacherBackbone(nn.Sequential):
    def __init__(self, channels: int) -> None:
        conv = nn.Conv2d(3, channels, 4, 4, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU()))


def spatial_adaptor(file: File) -> Results:
    """Each head from its entries under public names, through the table of layouts."""
    results = {}
    x = file.tensor('x')
    for case in dict.fromkeys(name.split('/')[0] for name in file if '/' in name):
        layout = LAYOUTS[{'mocov3_r50': 'mocov3'}.get(case, case)]
        entries = indexed(file.below(f'{case}/state/module.{layout.head}').state())
        for suffix in ('', '_keep_last_bn'):
            head = SpatialAdaptor.from_entries(entries, layout.activation, keep_last_bn=bool(suffix)).to(file.dtype)
            results[f'{case}/map{suffix}'] = head(x)
            results[f'{case}/head_of_pooled{suffix}'] = head.vector(x.mean((2, 3)))
    return {name: value for name, value in results.items() if name in file}


def end_to_end(file: File) -> Results:
    """The file's steps by a distilled model with its own teacher file, queue and optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        model = _model(file, Path(folder))
    distiller = model.distillers['pcd']
    wrapper = OptimWrapper(LARS(model.parameters(), **file.numbers('lr momentum weight_decay eta')))
    parameters = {name: p for name, p in model.named_parameters() if not name.startswith('distillers.')}
    parameters |= dict(distiller.named_parameters())  # by the names of the file
    losses, results = [], Results()
    for views in file.tensor('views'):
        loss, _ = model.parse_losses(model(list(views), None, mode='loss'))
        if not losses:
            grads = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
            results = {f'grad1/{name}': grad for name, grad in zip(parameters, grads, strict=True)}
        wrapper.update_params(loss)
        losses.append(loss.detach())
    state = {**model.state_dict(), **distiller.state_dict()}
    results |= {'losses': torch.stack(losses), 'queue_end': distiller.queue.rows, 'ptr_end': distiller.queue.ptr[0]}
    results |= {f'student_end/{name}': value.detach() for name, value in state.items()}
    return {name: value for name, value in results.items() if name in file}


def _model(file: File, folder: Path) -> Any:
    teacher, student = file.below('teacher/').state(), file.below('student/').state()
    state = {f'projector.{n[5:]}' if n.startswith('head.') else f'backbone.{n}': v for n, v in teacher.items()}
    torch.save({'state_dict': state}, folder / 'teacher.pth')
    out, hidden = teacher['head.3.weight'].shape
    channels = len(teacher['bn.weight'])
    widths = dict(hidden=len(student['backbone.1.weight']), channels=len(student['backbone.3.weight']))
    head = dict(type='mlp2', hidden=len(student['projector.1.weight']), bias=False)
    pcd = dict(type='PCD', student_tap='backbone', teacher_tap='head', head=head, num_pixels=None)
    pcd |= dict(queue_size=len(file['queue_0']), queue_init='random', temperature=float(file['tau']))
    config = dict(
        type='mmdistill_dense.DistillModel',
        student=dict(
            type='mmdistill_dense.BackboneStudent',
            backbone=dict(type='mmdistill_dense.GoldenStudentBackbone', **widths),
        ),
        teacher=dict(
            type='mmdistill_dense.SSLTeacher',
            backbone=dict(type='mmdistill_dense.GoldenTeacherBackbone', channels=channels),
            layout='solo_single',
            head=dict(widths=[channels, hidden, out]),
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
            checkpoint=str(folder / 'teacher.pth'),
        ),
        distillers=dict(pcd=dict(pcd, view_pairing=str(file['pairing']))),
    )
    model: Any = MODELS.build(ConfigDict(config)).to(file.dtype)
    model.init_weights()
    model.distillation.started = True
    backbone = {name: value for name, value in student.items() if name.startswith('backbone.')}
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert not unexpected and not [name for name in missing if 'running' not in name and 'tracked' not in name]
    heads = {name: value for name, value in student.items() if name not in backbone}
    load(model.distillers['pcd'], {**heads, 'queue.rows': torch.from_numpy(file['queue_0'])})
    return model.train()
