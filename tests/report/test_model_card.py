"""The model card that ``export --push`` writes and sends, with the hub's functions replaced."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.report.runs import TrainedRun
from mmdistill_dense.weights.strict_load import read_checkpoint
from tests.report.conftest import SEED


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the hub was asked for."""
    asked: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> None:
            asked.append((name, options))

        def upload_folder(self, **options: Any) -> str:
            asked.append(options)
            return 'https://hub/commit'

    monkeypatch.setattr(huggingface_hub, 'HfApi', Hub)
    return asked


def export(run: TrainedRun, checkpoint: Path, out: Path, *words: str) -> int:
    (config,) = {path.read_text(): path for path in run.folder.glob('*/vis_data/config.py')}.values()
    return main(['export', str(config), str(checkpoint), str(out), '--push', 'user/leaves', *words])


def test_a_student_is_pushed_with_its_scores_teacher_and_use(
    suite: Path, pushed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = TrainedRun(suite / 'runs/kd' / f'seed{SEED}', 'kd', suite)
    assert run.checkpoint is not None
    assert export(run, run.checkpoint, tmp_path / 'student.pth', '--licence', 'apache-2.0') == 0
    assert capsys.readouterr().out.endswith('pushed  https://hub/commit\n')
    names = ['student.pth', 'student.py', 'README.md']
    assert pushed == [
        ('user/leaves', {'private': True, 'exist_ok': True}),
        {'repo_id': 'user/leaves', 'folder_path': tmp_path, 'allow_patterns': names},
    ]
    _, head, text = (tmp_path / 'README.md').read_text().split('---\n', 2)
    assert yaml.safe_load(head) == {
        'license': 'apache-2.0',
        'pipeline_tag': 'image-segmentation',
        'tags': ['mmseg', 'knowledge-distillation'],
    }
    teacher = read_checkpoint(run.checkpoint)['meta']['distill']['teachers']
    told = next(iter(teacher.values()))
    assert 'EncoderDecoder with ResNetV1c, trained with LogitKD' in text and str(told['config']) in text
    assert (told['file'] or 'random weights') in text and (told['sha256'] or '') in text
    assert 'Scores on the test split, last checkpoint. Gain: over' in text and 'This is kd, seed 5.\n' in text
    assert '| kd | 5 | 42.00 | +2.00 |' in text and '| control | 5 | 40.00 |' in text
    # the code of the card, with the folder in the place of what would be fetched
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name: str(tmp_path))
    monkeypatch.setattr('mmseg.apis.inference_model', lambda model, file: file)
    values: dict[str, Any] = {}
    exec(re.search(r'```python\n(.*?)```', text, re.DOTALL)[1], values)  # type: ignore[index]
    assert values['model'].dataset_meta['classes'][1] == 'striped_disc'


def test_scores_are_unknown_outside_of_a_run_and_a_file_of_yours_stays(
    suite: Path, pushed: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = TrainedRun(suite / 'runs/kd' / f'seed{SEED}', 'kd', suite)
    assert run.checkpoint is not None
    moved = Path(shutil.copy(run.checkpoint, tmp_path / 'moved.pth'))
    for _ in range(2):  # a card of ours is replaced
        assert export(run, moved, tmp_path / 'out/student.safetensors') == 0
    card = (tmp_path / 'out/README.md').read_text()
    assert 'license: unknown' in card and 'Not known: the checkpoint was not in the folder of its training.' in card
    (tmp_path / 'README.md').write_text('mine')
    capsys.readouterr()
    assert export(run, moved, tmp_path / 'student.pth') == 2
    assert 'a file of yours' in capsys.readouterr().err and not (tmp_path / 'student.pth').exists()
    assert export(run, moved, tmp_path / 'out/student.onnx') == 2
    assert 'only for a whole student as weights' in capsys.readouterr().err
