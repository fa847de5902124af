"""The kinds of PCD that need a whole teacher: adapted heads, and training steps from end to end."""

import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmdistill_dense.engine import LARS
from mmdistill_dense.pretrain import SpatialAdaptor
from mmdistill_dense.pretrain.ssl_teacher import indexed
from mmdistill_dense.registry import MODELS
from mmdistill_dense.weights.ssl_layouts import LAYOUTS
from tests.golden.arrays import Arrays, below, tensor


@MODELS.register_module()
class GoldenStudentBackbone(nn.Sequential):
    """The student's backbone of the file ``end_to_end``; its widths come from the file."""

    def __init__(self, hidden: int, channels: int) -> None:
        first, second = (nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in ((3, hidden), (hidden, channels)))
        super().__init__(first, nn.BatchNorm2d(hidden), nn.ReLU(), second)


@MODELS.register_module()
class GoldenTeacherBackbone(nn.Sequential):
    """The teacher's."""

    def __init__(self, channels: int) -> None:
        conv = nn.Conv2d(3, channels, 4, 4, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels), relu=nn.ReLU()))


def spatial_adaptor(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """Each head from its entries under public names, through the table of layouts."""
    results = {}
    x = tensor(arrays['x'], dtype)
    for case in dict.fromkeys(name.split('/')[0] for name in arrays if '/' in name):
        layout = LAYOUTS[{'mocov3_r50': 'mocov3'}.get(case, case)]
        state = below(arrays, f'{case}/state/module.{layout.head}')
        entries = {name: torch.from_numpy(value) for name, value in indexed(state).items()}
        for suffix in ('', '_keep_last_bn'):
            head = SpatialAdaptor.from_entries(entries, layout.activation, keep_last_bn=bool(suffix)).to(dtype)
            results[f'{case}/map{suffix}'] = head(x)
            results[f'{case}/head_of_pooled{suffix}'] = head.vector(x.mean((2, 3)))
    return {name: value for name, value in results.items() if name in arrays}


def end_to_end(arrays: Arrays, dtype: torch.dtype) -> dict[str, Tensor]:
    """The file's steps by a distilled model with its own teacher file, queue and optimizer."""
    with tempfile.TemporaryDirectory() as folder:
        model = _model(arrays, Path(folder), dtype)
    distiller = model.distillers['pcd']
    options = {name: float(arrays[name]) for name in ('lr', 'momentum', 'weight_decay', 'eta')}
    wrapper = OptimWrapper(LARS(model.parameters(), **options))
    losses, first = [], {}
    for views in tensor(arrays['views'], dtype):
        loss, _ = model.parse_losses(model(list(views), None, mode='loss'))
        if not losses:
            names = [name for name, _ in _named(model)]
            gradients = torch.autograd.grad(loss, [p for _, p in _named(model)], retain_graph=True)
            first = dict(zip(names, gradients, strict=True))
        wrapper.update_params(loss)
        losses.append(loss.detach())
    state = {**model.state_dict(), **distiller.state_dict()}
    results = {'losses': torch.stack(losses), 'queue_end': distiller.queue.rows, 'ptr_end': distiller.queue.ptr[0]}
    results |= {f'grad1/{name}': gradient for name, gradient in first.items()}
    results |= {f'student_end/{name}': value.detach() for name, value in state.items()}
    return {name: value for name, value in results.items() if name in arrays}


def _model(arrays: Arrays, folder: Path, dtype: torch.dtype) -> Any:
    teacher, student = below(arrays, 'teacher/'), below(arrays, 'student/')
    state = {f'projector.{n[5:]}' if n.startswith('head.') else f'backbone.{n}': v for n, v in teacher.items()}
    torch.save({'state_dict': {n: torch.from_numpy(v) for n, v in state.items()}}, folder / 'teacher.pth')
    out, hidden = teacher['head.3.weight'].shape
    channels = len(teacher['bn.weight'])
    pcd = dict(
        type='PCD',
        student_tap='backbone',
        teacher_tap='head',
        temperature=float(arrays['tau']),
        view_pairing=str(arrays['pairing']),
        queue_size=len(arrays['queue_0']),
        queue_init='random',
        head=dict(type='mlp2', hidden=len(student['projector.1.weight']), bias=False),
        num_pixels=None,
    )
    config = dict(
        type='mmdistill_dense.DistillModel',
        student=dict(
            type='mmdistill_dense.BackboneStudent',
            backbone=dict(
                type='mmdistill_dense.GoldenStudentBackbone',
                hidden=len(student['backbone.1.weight']),
                channels=len(student['backbone.3.weight']),
            ),
        ),
        teacher=dict(
            type='mmdistill_dense.SSLTeacher',
            backbone=dict(type='mmdistill_dense.GoldenTeacherBackbone', channels=channels),
            layout='solo_single',
            head=dict(widths=[channels, hidden, out]),
            data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
            checkpoint=str(folder / 'teacher.pth'),
        ),
        distillers=dict(pcd=pcd),
    )
    model: Any = MODELS.build(ConfigDict(config)).to(dtype)
    model.init_weights()
    model.distillation.started = True
    stored = {n: torch.from_numpy(v) for n, v in student.items()}
    missing, unexpected = model.load_state_dict(_of(stored, 'backbone.'), strict=False)
    assert not unexpected and not [name for name in missing if 'running' not in name and 'tracked' not in name]
    distiller = model.distillers['pcd']
    heads = {
        **_of(stored, 'projector.'),
        **_of(stored, 'predictor.'),
        'queue.rows': torch.from_numpy(arrays['queue_0']),
    }
    missing, unexpected = distiller.load_state_dict(heads, strict=False)
    assert not unexpected and not [name for name in missing if 'weight' in name]
    return model.train()


def _named(model: Any) -> list[tuple[str, nn.Parameter]]:
    """The student's and the distiller's parameters by the names of the file."""
    named = [(name, p) for name, p in model.named_parameters() if not name.startswith('distillers.')]
    return named + list(model.distillers['pcd'].named_parameters())


def _of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(prefix)}
