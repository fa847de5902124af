"""Runs of CPU seconds in the folders of a suite, and one page about them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.report import make_report
from mmdistill_dense.apps.report.section import Section
from tests import toys
from tests.distillers.maskd.tokens import LOGITS

SEED = 5
LOGGED = dict(
    train_cfg=dict(val_interval=2), log_level='INFO', default_hooks=dict(checkpoint=dict(interval=4, max_keep_ckpts=1))
)
MASKD = dict(LOGITS, learn=dict(max_iters=2, save_interval=2, log_interval=1))


@pytest.fixture(scope='session')
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with a control and two methods, of one seed, with results that nobody measured."""
    out = tmp_path_factory.mktemp('suite')
    methods: dict[str, dict[str, Any]] = {
        'control': {},
        'kd': dict(kd=dict(type='LogitKD')),
        'all': dict(pcd=dict(type='PCD', queue_size=4), maskd=MASKD),
    }
    for number, (name, distillers) in enumerate(methods.items()):
        folder = out / 'runs' / name / f'seed{SEED}'
        model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers)
        toys.train(folder, toys.run_config(folder, model, randomness=dict(seed=SEED), **LOGGED))
        result = dict(score=40.0 + 2 * number, minutes=1.5, metrics={})
        (folder / 'result.json').write_text(json.dumps(result), encoding='utf-8')
    return out


@pytest.fixture(scope='session')
def made(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Section]]]:
    """A page about the suite with two pictures, and its sections by name."""
    path, sections = make_report([suite], tmp_path_factory.mktemp('page') / 'report.html', pictures=2)
    yield path, {section.name: section for section in sections}
