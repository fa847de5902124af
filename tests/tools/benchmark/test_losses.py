import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmdistill_dense.analysis.timing import Timing
from mmdistill_dense.losses import dense_contrast, feature_mimic, masked_align_conv
from tools.benchmark import afdcd_cases, loss_cases, maskd_cases, pcd_cases, reference

ROOT = Path(__file__).resolve().parents[3]


ROWS = {
    'afdcd': [
        'contrast core, near convergence',
        'contrast core, at the start',
        'contrast core, compiled',
        'contrast with pooling',
        'contrast with pooling, compiled',
        'align + first conv',
    ],
    'maskd': ['loss of all levels', 'branch alone, forward', 'gate and Dice, to the tokens'],
    'pcd': ['pixels against the queue'],
}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / 'tools/benchmark.py', 'losses', *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize('method', ROWS)
def test_losses_command(method: str, tmp_path: Path) -> None:
    done = _run('--method', method, '--size', 'small', '--json', str(tmp_path / 'out'))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'out' / f'losses_{method}.json').read_text())['figures']
    assert [row['name'] for row in rows] == ROWS[method]
    for row in rows:
        assert f'| {row["name"]} |' in done.stdout
        assert 0 < row['ours_error'] < 1e-4 and row['result_bytes'] <= row['ours_bytes'] < row['released_bytes']


def test_a_size_of_another_method_is_refused() -> None:
    done = _run('--method', 'maskd', '--size', 'cityscapes')
    assert done.returncode == 1
    assert '--size of maskd must be one of detection, retinanet' in done.stderr


@pytest.mark.parametrize('method', [afdcd_cases, maskd_cases, pcd_cases])
def test_every_size_is_described(method) -> None:
    assert method.DEFAULT_SIZE in method.SIZES
    assert all('channels of' in method.describe(size) for size in method.SIZES)


def test_segmentation_has_neither_branch_nor_masks_of_the_student() -> None:
    loss, learning = maskd_cases.cases('seg_n2')
    assert [tuple(x.shape) for x in (*loss.constants, *learning.inputs)] == [(2, 19, 64, 128), (8, 19), (8, 19)]
    assert maskd_cases.describe('seg_n2').endswith("8 tokens, the teacher's masks")


def test_the_map_of_camvid_is_cropped_for_the_naive_formula() -> None:
    *contrasts, conv = afdcd_cases.cases('camvid')
    assert [case.inputs[0].shape[2:] for case in contrasts] == [(44, 44)] * 3
    assert conv.inputs[0].shape == (1, 512, 45, 45)


def test_a_row_prints_the_ratios() -> None:
    ours, released = Timing(0.5, 0.1, 1.0), Timing(20.0, 1.0, 100.0)
    row = loss_cases.Row('loss', ours, released, 2**20, 8 * 2**20, 2**19, 1e-7, 2e-7)
    table = loss_cases.as_markdown([row])
    assert '| **40x** | 8.0 | 1.0 | **0.12** | 0.5 | 2.0e-07 | 1.0e-07 |' in table


def test_reference_agrees_with_the_losses() -> None:
    """The naive formulas are right at the released settings, or the comparison would mean nothing."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 32, 32, 16, generator=draw, dtype=torch.float64)
    ours = dense_contrast(student, teacher, groups=8, pool_size=2, patch_size=(4, 2))
    torch.testing.assert_close(ours, reference.afdcd_contrast(student, teacher, 8, 0.07, 2, (4, 2)))
    weights = [
        torch.randn(s, generator=draw, dtype=torch.float64) for s in ((48, 32, 1, 1), (48,), (48, 48, 3, 3), (48,))
    ]
    keep = torch.rand(2, 1, 32, 16, generator=draw) < 0.25
    rebuilt = masked_align_conv(student, keep, *weights)
    expected = reference.afdcd_first_conv(student, keep, *weights)
    torch.testing.assert_close(rebuilt, expected)
    assert feature_mimic(rebuilt, expected) < 1e-15
