"""DistillDDP in one gloo process: what it drops and what it leaves alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mmdistill_dense.engine import DistillDDP
from mmdistill_dense.registry import MODEL_WRAPPERS


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_is_found_by_its_config_name() -> None:
    assert MODEL_WRAPPERS.get('mmdistill_dense.DistillDDP') is DistillDDP


def test_cpu_drops_device_ids_and_sync_bn() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    wrapped = DistillDDP(network, device_ids=[0], broadcast_buffers=False)
    assert wrapped.device_ids is None
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in wrapped.modules())
    assert set(wrapped.module.state_dict()) == set(network.state_dict())
    wrapped(torch.randn(2, 3, 4, 4)).sum().backward()


def test_a_network_without_sync_bn_is_the_same_object() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert DistillDDP(network, device_ids=[0]).module is network
