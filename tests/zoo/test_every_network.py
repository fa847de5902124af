"""Every architecture of the mmseg and mmdet zoos is built as its own teacher's student, or refused with a reason; and
``new`` adapts every network to other classes, or says why it does not."""

from pathlib import Path

import pytest

from mmdistill_dense.apps.project import network_options as fetched_weights
from mmdistill_dense.apps.project.network_options import (
    UserNetwork,
    adapt,
    check_detector,
    det_size,
    read_network,
    seg_size,
)
from mmdistill_dense.apps.project.training_plan import decide_loading, plan_training
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.config.values import num_classes
from mmdistill_dense.utils.literals import literal
from tests.zoo.every_network import distinct, names, walk

CLASSES, PICTURE, PICTURES = 3, (360, 480), 100
BROKEN = ('sort/', 'strongsort/', 'glip/odinw')  # they inherit files that do not exist, or are no configs
NAMES = [name for name in names() if '_tta' not in name and not name.partition('::')[2].startswith(BROKEN)]


@pytest.mark.soak
@pytest.mark.parametrize(('name', 'outcome'), [
    ('mmseg::san/san-vit-b16_coco-stuff164k-640x640.py', 'ok'),
    ('mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py', 'refused'),
    ('mmdet::clrnet/clrnet.py', 'ok'),
])  # fmt: skip
def test_networks_of_special_kinds(name: str, outcome: str) -> None:
    actual = walk(name)
    assert actual['outcome'] == outcome, actual


@pytest.mark.zoo
def test_no_architecture_fails() -> None:
    actual = [walk(name) for name in distinct(architectures=True)]
    assert len(actual) > 250
    assert not [row for row in actual if row['outcome'] == 'failed']
    built = [row for row in actual if row['outcome'] != 'no network']
    assert sum(row['outcome'] == 'ok' for row in built) > 0.95 * len(built)


def planned(name: str) -> UserNetwork:
    side = read_network(name, '--student')
    loading = decide_loading(side, PICTURE, PICTURES, None, None)
    check_detector(side, True)
    sizes = seg_size(side.model, loading.crop, PICTURE) if side.task == 'seg' else det_size(side.model)
    adapt(side, CLASSES, sizes, True, False)
    assert plan_training(side, PICTURES, loading.batch, 20).param_scheduler[-1]['end'] == 20
    return side


@pytest.mark.zoo
@pytest.mark.parametrize('family', sorted({str(Path(name).parent) for name in NAMES}))
def test_every_network_is_adapted_or_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched_weights, 'reachable', lambda host: False)
    for name in (name for name in NAMES if str(Path(name).parent) == family):
        try:
            side = planned(name)
        except ValueError as error:
            assert str(error).startswith('--student'), name
            continue
        option: dict = {}
        exec(f'option = {literal(side.option)}', option)
        model = load_model(option['option'], 'student').model
        assert num_classes(model) in (CLASSES, None), name
        assert not fetched_weights.unavailable_sources(model), name
