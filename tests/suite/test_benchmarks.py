"""The definitions that are shipped: each can be started by whoever has its data."""

import copy
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from scipy import stats

from benchmarks import defaults
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
        optimizer['lr'] *= method.rate
        wrapper = {**control['optim_wrapper'], 'optimizer': optimizer}
        expected = Config(copy.deepcopy({**control, 'optim_wrapper': wrapper}))
        expected.merge_from_dict(copy.deepcopy(method.run_options))
        whole = configs._comparable(expected)
        assert not list(configs.differences(config, {**whole, 'model': config['model']}))


# Whether a default beats the better control: what is chosen on val, what is read on test, and chance

CONTROLS = {'control': {1: (50.0, 40.0), 2: (52.0, 41.0)}, 'control_x2': {1: (53.0, 39.0), 2: (52.0, 42.0)}}
TAUGHT = {'pcd_x2': {1: (54.0, 60.0), 2: (54.0, 60.0)}, 'pcd': {2: (56.0, 45.0), 1: (55.0, 40.0)}}


def test_the_interval_of_the_table_is_students_over_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gains, files = [2.0, 2.5, -0.5, 3.0, 0.25, 1.75], []
    for pair, gain in enumerate(gains):
        lines = ['name,seed,score,val/mIoU', 'teacher,0,70.0,71.0']
        for name, runs in (CONTROLS | TAUGHT).items():
            more = gain - 2 if name == 'pcd' else 0
            lines += [f'{name},{seed},{test + more},{val}' for seed, (val, test) in runs.items()]
        files.append(tmp_path / f'pair{pair}.csv')
        files[-1].write_text('\n'.join(lines))
    defaults.main(['table', *map(str, files)])
    low, high = stats.t.interval(0.95, 5, np.mean(gains), stats.sem(gains))
    table = capsys.readouterr().out.splitlines()
    within = stats.t.interval(0.95, 1, 2, 1)
    assert table[2] == f'| pair0 | 70.00 | control_x2 | 40.50 | pcd | +2.00 [{within[0]:+.2f}, {within[1]:+.2f}] |'
    assert table[-1] == f'| **mean of 6 pairs** | | | | | +1.50 [{low:+.2f}, {high:+.2f}] |'
    files[0].write_text(files[0].read_text().rpartition('\n')[0])
    with pytest.raises(SystemExit, match='pcd has other seeds than control'):
        defaults.main(['table', str(files[0])])
