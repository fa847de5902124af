"""One config of each kind of networks, each of another method, at full width on small pictures, without weights."""

import pytest

from mmdistill_dense.apps.check import Options, check_config
from tests.every_config import family, place
from tests.zoo.networks import active, config
from tests.zoo.test_steps import CHOSEN

SIDE, LARGE = 64, 224  # 900 queries need more positions


@pytest.mark.soak
@pytest.mark.parametrize('name', [name for kind, name in CHOSEN.items() if kind != 'foundation'])
def test_a_config_can_be_checked(name: str) -> None:
    path = place(name)
    cfg = config(path).copy()
    side = LARGE if family(path) == 'queries' else SIDE
    # The cost is measured in many steps; one small config is enough for that.
    report = check_config(cfg, Options(weights=False, batch=2, size=(side, side), cost=family(path) == 'backbone'))
    assert not report.stopped, [finding for finding in report.findings if finding.level == 'error']
    names = active(cfg.model) if 'distillers' in cfg.model else set()
    assert {row.distiller for row in report.subject.taps} <= names
    assert names == {term.name.split('.')[1] for term in report.subject.terms if term.name != 'task'}
