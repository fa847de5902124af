"""The example that writes an exported graph in 8 bits, as its user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.export import open_graph, read_description
from mmdistill_dense.apps.export.picture_graph import picture
from tests.export.networks import config_and_checkpoint, words_of

SCRIPT = Path(__file__).parents[2] / 'examples/quantize_int8.py'


@pytest.mark.soak
@pytest.mark.parametrize(('kind', 'words'), [('fcn', ['--whole']), ('fcn', []), ('retinanet', [])])
def test_a_graph_of_8_bits_answers_alike(kind: str, words: list[str], tmp_path: Path) -> None:
    config_and_checkpoint(tmp_path, kind)
    assert main(words_of(tmp_path, 's.onnx', *words, '--size', '64', '64')) == 0
    (tmp_path / 'train').mkdir()
    for seed in range(4):
        Image.fromarray(picture(50 + seed, 70, seed).numpy()).save(tmp_path / f'train/{seed}.png')
    plain, small = (tmp_path / name for name in ('s.onnx', 's.int8.onnx'))
    command = [sys.executable, SCRIPT, plain, tmp_path / 'train', small, '--count', '3']
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert process.returncode == 0 and f'{small}: ' in process.stdout, process.stderr[-2000:]
    assert small.stat().st_size < 0.6 * plain.stat().st_size and read_description(small) == read_description(plain)
    image = picture(64, 64, 9) if words else torch.rand(1, 3, 64, 64) * 4 - 2
    exact, near = (torch.cat([level.flatten() for level in open_graph(graph)(image)]) for graph in (plain, small))
    if words:
        assert (exact == near).float().mean() > 0.8
    else:  # over all levels: those of one place have a few values near 0
        assert (exact - near).norm() < 0.3 * exact.norm()


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    told = subprocess.run([sys.executable, str(SCRIPT), 's.onnx', str(tmp_path), 'o'], capture_output=True, text=True)
    assert told.returncode == 1 and f'{tmp_path}: no pictures in it' in told.stderr
