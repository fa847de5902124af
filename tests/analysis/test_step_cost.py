"""Steps and their memory against counts made another way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmdistill_dense.apps.inspect import step_cost
from mmdistill_dense.networks.trace import TeacherOption
from mmdistill_dense.weights.strict_load import sha256
from tests import toys
from tools.benchmark.step import prepare_steps

ROOT = Path(__file__).resolve().parents[2]
SGD = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9}}


def _config(scope: str = 'mmseg', **options: Any) -> Config:
    loaders = {'train_dataloader': {'batch_size': 2}, 'test_dataloader': {'dataset': {'type': 'None'}}}
    return Config({'model': toys.model_config(**options), 'default_scope': scope, 'optim_wrapper': SGD, **loaders})


def _bytes(network: nn.Module) -> int:
    return sum(4 * p.numel() for p in network.parameters()) + sum(b.numel() * b.itemsize for b in network.buffers())


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
        assert prepare_steps(config).teacher_weights == loaded


def test_memory_counts_teacher_adapters_and_their_momentum() -> None:
    """Nothing else stands between two steps."""
    whole = toys.seg_net(width=16, allow_random=True, accelerate=False)
    config = _config(teacher=whole, distillers={'mimic': {'type': 'MaskedMimic'}})
    steps = prepare_steps(config)
    steps.control(), steps.distilled()  # the optimizers make their momentum
    teacher = TeacherOption.parse(whole).build()
    adapters = sum(p.numel() for p in steps.distilled.network.distillers.parameters())
    (channels,) = {conv.out_channels for conv in teacher.backbone.layer4.modules() if isinstance(conv, nn.Conv2d)}
    assert adapters == channels * (channels // 2 + 1) + channels * (channels + 1)  # align, and its own convolution
    memory = step_cost.extra_memory(steps.control, steps.distilled, 'cpu')
    held = _bytes(teacher) + 2 * 4 * adapters
    assert memory['extra'] == held + memory['distilled_step'] - memory['control_step']


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
