"""``new`` refuses networks that need larger pictures, with a size that works, and tells the real size of a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.project.sides import Side, read_side
from mmdistill_dense.apps.project.zoo_schedule import Loading, check_large_enough, decide_loading
from mmdistill_dense.config.resolve import load_model
from mmdistill_dense.networks.building import build_network
from tests.project.folders_of_data import seg_folder
from tests.project.test_new import DDRNET, FASTSCNN, RETINANET

LRASPP = 'mmseg::mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
LONG = pytest.mark.soak  # cases of a kind that another one shows


pytestmark = pytest.mark.usefixtures('folder')


def proposed(side: Side, usual: tuple[int, int], size: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    """The size that the error names, and the error."""

    def load(given: tuple[int, int] | None) -> Loading:
        return decide_loading(side, usual, 10, 2, given)

    with pytest.raises(ValueError, match='cannot run on pictures of') as told:
        check_large_enough(side, usual, load(size), load)
    found = re.search(r'--size (\d+) (\d+)', str(told.value))
    assert found is not None
    height, width = (int(one) for one in found.groups())
    check_large_enough(side, usual, load((height, width)), load)
    return (height, width), str(told.value)


@pytest.mark.parametrize('size', [pytest.param(None, marks=LONG), pytest.param((128, 128), marks=LONG), (400, 400)])
def test_a_student_that_needs_larger_crops_or_tests_is_told_a_size_that_works(size: tuple[int, int] | None) -> None:
    """At 400x400 the crop is large enough, but a picture of 360x480 is tested at 300x400."""
    side, usual = read_side(LRASPP, '--student'), (360, 480)
    found, told = proposed(side, usual, size)
    assert 'Output size is too small' in told and (size != (400, 400) or 'pictures of 300x400' in told)
    network = build_network(load_model({'cfg': LRASPP, 'pretrained': False}, 'student'), pretrained=False).eval()
    tested = decide_loading(side, usual, 10, 2, found).tested
    with torch.no_grad():
        network(torch.zeros(1, 3, *tested), mode='tensor')
        with pytest.raises(RuntimeError, match='too small'):
            network(torch.zeros(1, 3, tested[0] - 32, tested[1] - 32), mode='tensor')


@LONG
def test_a_detector_whose_queries_are_places_of_the_picture() -> None:
    layers = {'encoder': {'num_layers': 1}, 'decoder': {'num_layers': 1}, 'num_queries': 200}
    side = read_side(DINO, '--teacher')
    side.changes = {**layers, 'backbone': {'init_cfg': None}}
    found, told = proposed(side, (48, 64), None)
    assert told.startswith('--teacher') and 'selected index k out of range' in told and 64 < found[0] < found[1] < 256


@pytest.mark.parametrize(('name', 'usual'), [(FASTSCNN, (48, 64)), (DDRNET, (50, 70)), (RETINANET, (48, 64))])
def test_networks_of_any_size_pass(name: str, usual: tuple[int, int]) -> None:
    side = read_side(name, '--student')
    side.changes = {'data_preprocessor': {'test_cfg': {'size_divisor': 8}}} if name == DDRNET else {}
    loading = decide_loading(side, usual, 10, 2, (64, 64))
    check_large_enough(side, usual, loading, lambda size: loading)


def test_new_refuses_before_it_writes(capsys: pytest.CaptureFixture) -> None:
    seg_folder(Path('mine'))
    assert (
        main(['new', '--data', 'mine', '--teacher', FASTSCNN, '--student', LRASPP, '--iters', '2', '--out', 'new']) == 2
    )
    assert re.search(r'--student .*lraspp.* --size \d+ \d+ is the smallest', capsys.readouterr().err)
    assert not Path('new').exists()


@pytest.mark.parametrize(
    ('name', 'usual', 'size', 'tested', 'told'),
    [
        (RTMDET, (1080, 1920), None, (360, 640), 'pictures of 360x640, in place of 1080x1920'),
        (RETINANET, (48, 64), None, (48, 64), 'pictures of 48x64, as they are'),
        (FASTSCNN, (360, 480), (128, 128), (96, 128), 'crops of 128x128, tested at 96x128'),
        (FASTSCNN, (360, 480), None, (360, 480), 'tested at their own size, 360x480'),
    ],
)
def test_the_size_of_a_test_is_the_real_one(
    name: str, usual: tuple[int, int], size: tuple[int, int] | None, tested: tuple[int, int], told: str
) -> None:
    loading = decide_loading(read_side(name, '--student'), usual, 10, 2, size)
    assert loading.tested == tested and told in loading.note
