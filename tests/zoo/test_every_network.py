"""Every architecture of the mmseg and mmdet zoos is built as its own teacher's student, or refused with a reason."""

import pytest

from tests.zoo.every_network import distinct, walk


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
