"""Every architecture of the mmseg and mmdet zoos is built as its own teacher's student, or refused with a reason."""

import pytest

from tests.zoo.every_network import distinct, walk

SEVERAL = (
    'mmseg::san/san-vit-b16_coco-stuff164k-640x640.py',
    'mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py',
    'mmdet::clrnet/clrnet.py',
)


@pytest.mark.soak
@pytest.mark.parametrize(('name', 'outcome'), zip(SEVERAL, ('ok', 'refused', 'ok'), strict=True))
def test_networks_of_special_kinds(name: str, outcome: str) -> None:
    found = walk(name)
    assert found['outcome'] == outcome, found


@pytest.mark.zoo
def test_no_architecture_fails() -> None:
    found = [walk(name) for name in distinct(architectures=True)]
    assert len(found) > 250
    assert not [one for one in found if one['outcome'] == 'failed']
    built = [one for one in found if one['outcome'] != 'no network']
    assert sum(one['outcome'] == 'ok' for one in built) > 0.95 * len(built)
