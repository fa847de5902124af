"""Sizes, times and memory against counts made another way."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope
from torch import nn

from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.apps.inspect.step_cost import Timing
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.weights.strict_load import sha256
from tests import toys

ROOT = Path(__file__).resolve().parents[2]
SGD = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9}}


def _config(scope: str = 'mmseg', **options: Any) -> Config:
    loaders = {'train_dataloader': {'batch_size': 2}, 'test_dataloader': {'dataset': {'type': 'None'}}}
    return Config({'model': toys.model_config(**options), 'default_scope': scope, 'optim_wrapper': SGD, **loaders})


def _bytes(network: nn.Module) -> int:
    return sum(4 * p.numel() for p in network.parameters()) + sum(b.numel() * b.itemsize for b in network.buffers())


def _macs_of_convolutions(network: nn.Module, size: tuple[int, int], **kwargs: Any) -> int:
    counted = []

    def count(conv: nn.Conv2d, _: Any, out: torch.Tensor) -> None:
        counted.append(out.numel() * conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1])

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, *size), **kwargs)
    return sum(counted)


def test_size_of_student_and_teacher_is_that_of_their_convolutions() -> None:
    config, size = _config(), (48, 64)
    cost = step_cost.student_cost(config, size)
    networks = {
        'student': toys.build_plain(toys.seg_net()),
        'teacher': TeacherOption.parse(toys.seg_net(width=16, allow_random=True)).build(),
    }
    for name, network in networks.items():
        macs = _macs_of_convolutions(network, size)
        assert cost[name]['parameters'] == sum(p.numel() for p in network.parameters())
        assert macs <= cost[name]['gflops'] * 1e9 < 1.1 * macs  # norms and resizing are little beside them
    assert (cost['test_size'], cost['test_size_from']) == ([48, 64], 'given')


def test_the_teacher_of_an_address_is_fetched_and_a_missing_file_is_random(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, address = server
    monkeypatch.setenv('MMDISTILL_CACHE', str(tmp_path / 'cache'))
    teacher = toys.seg_net(width=16)
    torch.save(toys.build_plain(teacher).state_dict(), folder / 't.pth')
    given = f'{address}/t.pth#sha256={sha256(folder / "t.pth")}'
    for checkpoint, loaded in ((given, 't.pth'), (f'{tmp_path}/none.pth', 'random')):
        config = _config(teacher={**teacher, 'checkpoint': checkpoint}, distillers={'kd': {'type': 'LogitKD'}})
        assert step_cost.prepare_steps(config).teacher_weights == loaded


@pytest.mark.parametrize('kind', ['retinanet', 'faster_rcnn'])
def test_a_detector_has_a_size_too(kind: str) -> None:
    options = {'student': toys.det_net(kind), 'teacher': toys.det_net(kind, 16, allow_random=True)}
    cost = step_cost.student_cost(_config('mmdet', distillers={}, **options), (64, 96))
    assert 0 < cost['student']['gflops'] < cost['teacher']['gflops']


@pytest.mark.soak
def test_a_detector_that_asks_for_the_size_of_the_pictures_has_a_size() -> None:
    """DETR and its kind; an AssertionError would also end the costs of the other rows of a suite."""
    few = {'num_layers': 1}
    student = {'cfg': 'mmdet::detr/detr_r18_8xb2-500e_coco.py', 'encoder': few, 'decoder': few}
    cost = step_cost.student_cost(_config('mmdet', student=student, teacher={}, distillers={}), (64, 96))
    assert cost['student']['gflops'] > 0


def test_several_teachers_add_up_and_none_has_no_size() -> None:
    one = toys.seg_net(width=16, allow_random=True)
    alone, both, none = (
        step_cost.student_cost(_config(distillers={}, teacher=teacher), (32, 32))
        for teacher in (one, {'a': one, 'b': one}, {})
    )
    assert both['teacher'] == {key: 2 * value for key, value in alone['teacher'].items()}
    assert none['teacher'] is None and none['student'] == alone['student']


def test_the_test_size_is_that_of_the_first_picture() -> None:
    config = Config.fromfile(ROOT / 'configs/_base_/recipes/toy_seg.py')
    init_default_scope('mmseg')
    assert step_cost.test_size(None, config) == ((96, 128), 'the first test picture')


def test_without_the_test_set_a_pipeline_or_the_crop_tells_the_size() -> None:
    config = Config.fromfile(ROOT / 'configs/_base_/datasets/coco_detection.py')
    with mock.patch.object(DATASETS, 'build', side_effect=FileNotFoundError):
        assert step_cost.test_size(nn.Module(), config) == ((800, 1333), 'the test pipeline')
        found = step_cost.test_size(toys.build_plain(toys.seg_net()), _config())
    assert found == ((toys.SIDE, toys.SIDE), 'the size in training, as the test set is not there')


def test_the_ratio_is_of_the_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = {'control': Timing(2.0, 1.0, 9.0), 'distilled': Timing(5.0, 4.0, 6.0)}
    seen = {}

    def times(works: dict, repeats: int, device: str) -> dict:
        seen.update(repeats=repeats, device=device)
        for work in works.values():
            work()
        return timings

    monkeypatch.setattr(step_cost, 'interleaved_times', times)
    cost = step_cost.step_cost(_config(), 'cpu', batch=3, repeats=7)
    assert seen == {'repeats': 7, 'device': 'cpu'}
    assert (cost['ratio'], cost['batch'], cost['train_size']) == (2.5, 3, [toys.SIDE] * 2)
    assert cost['seconds']['control'] == {'median': 2.0, 'low': 1.0, 'high': 9.0}
    assert (cost['teacher_weights'], cost['adapter_parameters']) == ('random', 0)


def test_memory_counts_teacher_adapters_and_their_momentum() -> None:
    """Nothing else stands between two steps."""
    whole = toys.seg_net(width=16, allow_random=True, accelerate=False)
    config = _config(teacher=whole, distillers={'mimic': {'type': 'MaskedMimic'}})
    cost = step_cost.step_cost(config, 'cpu', repeats=1)
    teacher = TeacherOption.parse(whole).build()
    adapters = cost['adapter_parameters']
    (channels,) = {conv.out_channels for conv in teacher.backbone.layer4.modules() if isinstance(conv, nn.Conv2d)}
    assert adapters == channels * (channels // 2 + 1) + channels * (channels + 1)  # align, and its own convolution
    memory = cost['memory']
    assert memory['held'] == _bytes(teacher) + 2 * 4 * adapters
    assert memory['extra'] == memory['held'] + memory['distilled_step'] - memory['control_step']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneAndRest:
    """Builds two optimizers."""

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: Any = None) -> None:
        pass

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        named = list(model.named_parameters())
        parts = {key: [one for name, one in named if name.startswith('backbone') is key] for key in (True, False)}
        made = {str(key): OptimWrapper(torch.optim.SGD(part, lr=0.1, momentum=0.9)) for key, part in parts.items()}
        return OptimWrapperDict(**made)


def test_a_step_of_several_optimizers_is_measured() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head, self.distillers = nn.Linear(2, 2), nn.Linear(2, 2), nn.ModuleDict()

        def train_step(self, data: Any, wrappers: OptimWrapperDict) -> None:
            self.head(self.backbone(data)).sum().backward()
            for one in wrappers.values():
                one.step()

    network = Several()
    before = [one.clone() for one in network.parameters()]
    step = step_cost.make_step(network, Config({'optim_wrapper': {'constructor': 'BackboneAndRest'}}), torch.ones(1, 2))
    step()
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))
    assert step_cost._held(step) == 2 * _bytes(network)  # the weights and their momentum
