"""One config of each method, of all kinds of networks, at full width on small generated pictures, without weights."""

from pathlib import Path

import pytest

from mmdistill_dense.check import Options, check_config
from tests.every_config import name_of
from tests.zoo.networks import active, config
from tests.zoo.test_steps import chosen, family

SIDE = 128
# What needs more positions: 900 queries, and 4x4 patches of a map at stride 32, pooled by 2 (detection) or 4.
LARGE = {'queries': 256, 'afdcd mmdet': 256, 'afdcd transformer': 512}


@pytest.mark.soak
@pytest.mark.parametrize('path', chosen(), ids=name_of)
def test_a_config_can_be_checked(path: Path) -> None:
    cfg = config(path).copy()
    queries = family(path) == 'queries'
    words = {'queries'} if queries else {f'{path.parent.name} {word}' for word in (cfg.default_scope, family(path))}
    side = max([SIDE, *(LARGE[word] for word in words & LARGE.keys())])
    report = check_config(cfg, Options(weights=False, batch=2, size=(side, side), cost=side == SIDE))
    assert not report.stopped, [finding for finding in report.findings if finding.level == 'error']
    names = active(cfg.model) if 'distillers' in cfg.model else set()
    assert {row.distiller for row in report.subject.taps} <= names
    assert names == {term.name.split('.')[1] for term in report.subject.terms if term.name != 'task'}
