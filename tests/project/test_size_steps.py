"""Networks that need larger pictures are refused, with a size that works; ``new`` tells the real size of a test."""

import re
from pathlib import Path

import pytest

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.check import Options, check_config
from mmdistill_dense.apps.project.picture_folders import usual_size
from mmdistill_dense.apps.project.sides import read_side
from mmdistill_dense.apps.project.zoo_schedule import decide_loading
from tests.project.folders_of_data import seg_folder
from tests.project.test_new import FASTSCNN, RETINANET

LRASPP = 'mmseg::mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
LONG = pytest.mark.soak  # cases of a kind that another one shows


pytestmark = pytest.mark.usefixtures('folder')


def test_a_student_that_needs_larger_pictures_is_refused_before_it_trains() -> None:
    seg_folder(Path('mine'))
    given = f'--data mine --teacher {FASTSCNN} --student {LRASPP} --iters 2 --random-weights --size 192 256'.split()
    assert main(['new', *given, '--out', 'new']) == 0
    report = check_config('new/control.py', Options(weights=False, cost=False))
    assert report.verdict == 'error' and 'Output size is too small' in report.findings[-1].message
    assert re.search(r'It can predict one of \d+x\d+: set .* \(new: --size\)', report.findings[-1].message)


@pytest.mark.parametrize(('name', 'usual', 'size', 'tested', 'told'), [
    (RTMDET, (1080, 1920), None, (360, 640), 'pictures of 360x640, in place of 1080x1920'),
    (RETINANET, (48, 64), None, (48, 64), 'pictures of 48x64, as they are'),
    (FASTSCNN, (360, 480), (128, 128), (96, 128), 'crops of 128x128, tested at 96x128'),
    (FASTSCNN, (360, 480), None, (360, 480), 'tested at their own size, 360x480'),
])  # fmt: skip
def test_the_size_of_a_test_is_the_real_one(
    name: str, usual: tuple[int, int], size: tuple[int, int] | None, tested: tuple[int, int], told: str
) -> None:
    loading = decide_loading(read_side(name, '--student'), usual, 10, 2, size)
    assert loading.tested == tested and told in loading.note


def test_the_usual_size_is_that_of_a_picture() -> None:
    assert usual_size([(360, 480), (300, 400), (480, 360)]) in [(360, 480), (480, 360)]
