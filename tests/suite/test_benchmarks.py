"""The definitions that are shipped: each can be started by whoever has its data."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdistill_dense.apps.suite import configs
from mmdistill_dense.apps.suite.definition import Definition, load_suite
from mmdistill_dense.model.build import build_distillers

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'benchmarks').glob('*.yaml'))


@pytest.fixture(scope='module', params=FILES, ids=lambda path: path.stem)
def suite(request: pytest.FixtureRequest) -> Definition:
    return load_suite(request.param)


@pytest.mark.sample(10)
def test_every_row_is_a_config_that_differs_in_its_distillers(suite: Definition) -> None:
    control = configs.control_config(suite).to_dict()
    configs_seen = [str(control)]
    for method in suite.methods.values():
        config = configs.method_config(suite, method).to_dict()
        configs_seen.append(f'{method.pretraining} {config}')
        assert configs_seen[-1] not in configs_seen[:-1], 'two rows are one'
        build_distillers(copy.deepcopy(config['model'].get('distillers') or {}), config['default_scope'])
        config['model'].pop('distillers', None)
        config = configs._comparable(Config(config))
        optimizer = {**control['optim_wrapper']['optimizer']}
        optimizer['lr'] *= method.rate or 1
        wrapper = {**control['optim_wrapper'], 'optimizer': optimizer}
        expected = Config(copy.deepcopy({**control, 'optim_wrapper': wrapper}))
        expected.merge_from_dict(copy.deepcopy(method.run_options))
        whole = configs._comparable(expected)
        assert not list(configs.differences(config, {**whole, 'model': config['model']}))
