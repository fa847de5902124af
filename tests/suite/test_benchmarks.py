"""The definitions that are shipped: each can be started by whoever has its data."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdistill_dense.registry import DATASETS
from mmdistill_dense.suite import configs, cost
from mmdistill_dense.suite.definition import Definition, fitting, load
from mmdistill_dense.suite.rows import changes_of_the_recipe
from mmdistill_dense.suite.targets import targets_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'benchmarks').glob('*.yaml'))
CAMVID = ROOT.parent / 'shared' / 'data' / 'camvid'


@pytest.fixture(scope='module', params=FILES, ids=lambda path: path.stem)
def suite(request: pytest.FixtureRequest) -> Definition:
    return load(request.param)


def test_the_usual_data_sets_are_there() -> None:
    names = {path.stem for path in FILES}
    assert names >= {'ade20k', 'bccd', 'camvid', 'cityscapes', 'coco', 'cocostuff', 'toy', 'voc'}


def test_no_two_suites_share_a_folder() -> None:
    assert len({load(path).out for path in FILES}) == len(FILES)


def test_every_method_becomes_a_config_that_differs_in_its_distillers(suite: Definition) -> None:
    control = configs.control_config(suite).to_dict()
    for method in suite.methods.values():
        config = configs.method_config(suite, method).to_dict()
        assert config['model'].pop('distillers')
        config.pop('distillers', None)
        assert not list(configs.differences(config, {**control, 'model': config['model']}))


def test_no_method_that_fits_is_left_out_of_a_comparison(suite: Definition) -> None:
    if suite.path.stem != 'toy':  # shows how a definition is written
        assert {method.method for method in suite.methods.values()} == set(fitting(suite.control))


def test_the_processes_have_the_batch_of_the_recipe(suite: Definition) -> None:
    config = Config.fromfile(suite.control)
    processes = suite.slurm.get('processes', 1)
    if processes > 1:
        assert config.train_dataloader.batch_size * processes == config.auto_scale_lr.base_batch_size
        assert str(suite.slurm['gres']) == f'gpu:{processes}' and isinstance(suite.slurm['time'], str)


def test_costs_can_be_measured_on_any_machine(suite: Definition) -> None:
    assert 'device' not in suite.cost and cost.settings(suite).repeats


@pytest.mark.parametrize(
    ('name', 'methods'),
    [
        ('cityscapes', ['skd', 'ifvd', 'cwd_both', 'cirkd', 'afdcd']),
        ('coco', ['pkd', 'dist', 'cwd']),
        ('coco_gfl', ['ld', 'cwd']),
    ],
)
def test_published_results_are_found_for_the_papers_pairs(name: str, methods: list[str]) -> None:
    suite = load(ROOT / 'benchmarks' / f'{name}.yaml')
    assert not changes_of_the_recipe(suite)
    for row in methods:
        method = suite.methods[row]
        assert targets_of(method.method, suite.control.stem, suite.metric, method.variant), row


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f'no {CAMVID}')
def test_few_labels_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMDISTILL_DATA', str(CAMVID.parent))
    suite = load(ROOT / 'benchmarks' / 'camvid_1of8.yaml')
    config = configs.control_config(suite)
    init_default_scope('mmseg')
    assert [len(DATASETS.build(config[f'{split}_dataloader'].dataset)) for split in ('train', 'test')] == [46, 233]
    assert changes_of_the_recipe(suite) == ('train_dataloader.dataset.ann_file',)
