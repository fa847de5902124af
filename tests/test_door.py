"""The program ``mmdistill``: its commands, how it tells mistakes, and what it loads."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import mmengine
import pytest
from mmengine.config import Config

import mmdistill_dense.distillers
import mmdistill_dense.ops_check as ops_check
from mmdistill_dense.__main__ import COMMANDS, OLD_NAMES, main
from mmdistill_dense.registry import DISTILLERS
from mmdistill_dense.utils.version import for_mim, versions
from tests.isolation import ROOT


def test_every_command_shows_its_options(capsys) -> None:
    for name in (*COMMANDS, *OLD_NAMES):
        with pytest.raises(SystemExit, match='0'):
            main([name, '--help'])
        assert capsys.readouterr().out.startswith(f'usage: mmdistill {OLD_NAMES.get(name, name)} ')
    assert main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith('  ')] == [*COMMANDS]
    assert main([]) == 2


def test_the_version_names_what_a_report_of_a_fault_needs(capsys, monkeypatch):
    """Detection has another name for mim with the forks."""
    assert main(['--version']) == 0
    out = capsys.readouterr().out
    for name in ('mmdistill_dense ', 'Python ', 'torch ', 'CUDA ', 'mmengine: ', 'mmcv: ', 'mmseg: ', 'mmdet: '):
        assert re.search(rf'^.*{name}\S', out, re.MULTILINE), name
    assert 'not installed' not in out
    for actual, word in ((metadata.PackageNotFoundError, 'mmdetection'), (None, 'mmdet')):
        monkeypatch.setattr(metadata, 'version', mock.Mock(side_effect=actual, return_value='3.3.0'))
        assert (for_mim('mmseg'), for_mim('mmdet')) == ('mmseg', word)
    assert sum(line.endswith('uninstall all, and install one anew)') for line in versions()) == 4


@pytest.mark.parametrize(('words', 'message'), [
    (['trian'], 'trian: no such command. Close: train'),
    (['train', 'nowhere.py'], 'nowhere.py: no such file (working folder'),
    (['train', 'control:toy_se'], "recipe 'toy_se': unknown. Close: toy_seg"),
    (['train', 'control:toy_seg', '--work-dirs', 'x'], '--work-dirs: no such option. Close: --work-dir'),
    (['test', 'control:toy_seg', 'missing.pth'], 'missing.pth: no such checkpoint'),
    (['check', 'no:such'], "no:such: method 'no': unknown"),
    (['suite', 'lst'], "invalid choice: 'lst'"),
    (['suite', 'run', 'x.yaml'], 'x.yaml'),
    (['new', '--data', 'a', '--student', 'b', '--teacher', 'c', '--epochs', '3'], '--epochs: it is --iters here'),
    (['new', '--data', 'a', '--student', 'b', '--teacher', 'c', '--batchs', '3'], '--batchs: no such option. Close'),
    (['run', 'a', '--student', 'b'], '--student: `new` takes this option, `run` does not'),
    (['run', 'two', 'words'], 'words: belongs to no option'),
    (['train', 'control:toy_seg', '--processes', '0'], '--processes: must be 1 or more'),
    (['train', 'nowhere.py', '--processes', '2'], 'nowhere.py: no such file'),
    (['train', 'control:toy_seg', '--processes', '2', '--launcher', 'slurm'], 'not allowed with'),
])  # fmt: skip
def test_a_mistake_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    lines = [line for line in capsys.readouterr().err.splitlines() if not re.match(r'\w+ … \d+ s', line)]
    assert code == 2 and len(lines) == 1 and lines[0].startswith('ERROR    ') and message in lines[0], lines


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr('mmdistill_dense.__main__._main', mock.Mock(side_effect=KeyboardInterrupt))
    assert main(['predict']) == 130 and capsys.readouterr().err == 'stopped\n'


def test_only_a_reader_of_the_output_may_close_a_pipe(monkeypatch) -> None:
    """One that has read enough is no error; a pipe that breaks in the work, as that of a loader's worker, is told."""
    shell = f'{sys.executable} -m mmdistill_dense {{}} | head -1'
    for words in ('--help', 'new --help'):
        done = subprocess.run(['bash', '-c', shell.format(words)], capture_output=True, text=True)
        assert done.stdout.startswith('usage: ') and not done.stderr
    breaks = mock.Mock(side_effect=BrokenPipeError('a worker'))
    monkeypatch.setattr('mmdistill_dense.apps.options.fill_report', lambda parser: parser.set_defaults(run=breaks))
    with pytest.raises(BrokenPipeError, match='a worker'):
        main(['report'])


# What a command and a training load: no more than they need


WORDS = """
import json, sys
from contextlib import suppress
{}
names = [name for name in sys.modules if name.startswith('mmdistill_dense')]
slow = ('torch', 'numpy', 'mmengine', 'mmengine.runner', 'mmcv', 'mmseg', 'mmdet')
print(json.dumps([names, [name for name in slow if name in sys.modules]]))
"""
HELP = """
from mmdistill_dense.__main__ import COMMANDS, main
for name in (*COMMANDS, 'list-taps'):
    with suppress(SystemExit):
        main([name, '--help'])
"""


def loaded(code: str) -> tuple[list[str], list[str]]:
    """Return the modules of the package, and the slow libraries, that a fresh process has loaded after some code."""
    done = subprocess.run([sys.executable, '-c', WORDS.format(code)], capture_output=True, text=True, check=True)
    names, slow = json.loads(done.stdout.splitlines()[-1])
    return names, slow


def test_help_waits_for_no_library() -> None:
    """Those of the stack would print notes, too."""
    names, slow = loaded(HELP)
    assert not slow and len(names) < 20


@pytest.mark.parametrize(('registry', 'old', 'new'), [
    ('MODELS', 'model.distill_model.DistillModel', 'model.build'),
    ('MODELS', 'pretrain.preprocessor.MultiViewPreprocessor', 'pretrain.backbone_student'),
    ('MODELS', 'foundation.vision_transformer.VisionTransformer', 'foundation.foundation_teacher'),
    ('DATASETS', 'datasets.unlabeled.UnlabeledImages', 'unlabelled.pictures'),
    ('DATASETS', 'datasets.camvid.CamVidDataset', 'datasets.folders'),
])  # fmt: skip
def test_dumped_configs_of_before_find_their_classes(registry: str, old: str, new: str) -> None:
    """And methods by name, by scope and by their old place."""
    actual = getattr(mmengine.registry, registry).get(f'mmdistill_dense.{old}')
    assert actual.__module__ == f'mmdistill_dense.{new}' and actual.__name__ == old.rpartition('.')[2]
    for name in ('CIRKD', 'mmdistill_dense.CIRKD', 'mmdistill_dense.distillers.cirkd.cirkd.CIRKD'):
        assert DISTILLERS.get(name).__name__ == 'CIRKD'
    assert {*DISTILLERS.module_dict} >= {*mmdistill_dense.distillers.__all__} - {'Distiller', 'FeatureDistiller'}


# The check for compiled operations: silent with them, one line with the remedy without


def test_without_compiled_operations_the_remedy_is_told(monkeypatch, capsys) -> None:
    """That of the installed package: the fork would be installed over the upstream one, beside its mmseg and mmdet."""
    ops_check.require_ops()
    lacking = ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext')
    with monkeypatch.context() as patch:
        patch.setattr('mmdistill_dense.apps.recipes.named.find_named', mock.Mock(side_effect=lacking))
        Path('a.pth').touch()
        assert main(['export', 'kd:toy_seg', 'a.pth', 'b.onnx']) == 2
        assert 'mmcv is installed without its compiled operations' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    for package, message in (
        ('onedl-mmcv', 'make setup'),
        ('mmcv', "--no-build-isolation.* 'mmcv>=2.1,<2.2'"),
        ('mmcv-lite', 'uninstall it'),
    ):
        monkeypatch.setattr(ops_check, 'distributions', lambda name=package: [SimpleNamespace(metadata={'Name': name})])
        with pytest.raises(RuntimeError, match=message) as caught:
            ops_check.require_ops()
        assert ('onedl' in str(caught.value)) == (package == 'onedl-mmcv')
    monkeypatch.delitem(sys.modules, 'mmdistill_dense.ops_check')
    with pytest.raises(RuntimeError, match=r'^[^\n]*make setup[^\n]*$'):
        Config.fromfile(ROOT / 'configs' / '_base_' / 'runtime_det.py')
