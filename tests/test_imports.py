"""What a command and a training load: no more than they need."""

import json
import subprocess
import sys

import mmengine
import pytest

import mmdistill_dense.distillers
from mmdistill_dense.registry import DISTILLERS

WORDS = """
import json, sys
{}
names = [name for name in sys.modules if name.startswith('mmdistill_dense')]
slow = ('torch', 'mmengine', 'mmengine.runner', 'mmcv', 'mmseg', 'mmdet')
print(json.dumps([names, [name for name in slow if name in sys.modules]]))
"""


def loaded(code: str) -> tuple[list[str], list[str]]:
    """Return the modules of the package, and the slow libraries, that a fresh process has loaded after some code."""
    done = subprocess.run([sys.executable, '-c', WORDS.format(code)], capture_output=True, text=True, check=True)
    names, slow = json.loads(done.stdout.splitlines()[-1])
    return names, slow


@pytest.mark.parametrize('command', ['new', 'run', 'check', 'list-taps', 'suite', 'train', 'test'])
def test_help_waits_for_no_library(command: str) -> None:
    code = f"""
from contextlib import suppress
from mmdistill_dense.__main__ import main
with suppress(SystemExit):
    main([{command!r}, '--help'])"""
    names, slow = loaded(code)
    assert not slow and len(names) < 20


def test_new_loads_no_training() -> None:
    names, slow = loaded('import mmdistill_dense.apps.project.new')
    assert len(names) <= 120 and 'mmdet' not in slow  # it takes a second, which segmentation need not wait
    others = ('model.distill_model', 'engine', 'losses.detection', 'distillers.maskd.token_distiller')
    assert not {f'mmdistill_dense.{one}' for one in others} & {*names}


@pytest.mark.soak
def test_a_model_loads_the_files_of_its_methods_alone() -> None:
    code = "from mmdistill_dense.registry import DISTILLERS, MODELS; MODELS.get('DistillModel'); DISTILLERS.get('CWD')"
    names, _ = loaded(code)
    rooms = {name.split('.')[1] for name in names if '.' in name}
    assert 'mmdistill_dense.distillers.cwd' in names and 'mmdistill_dense.distillers.pcd' not in names
    assert not rooms & {'apps', 'pretrain', 'foundation', 'unlabelled'}


@pytest.mark.parametrize(('registry', 'old', 'new'), [
    ('MODELS', 'model.distill_model.DistillModel', 'model.build'),
    ('MODELS', 'pretrain.preprocessor.MultiViewPreprocessor', 'pretrain.backbone_student'),
    ('MODELS', 'foundation.vision_transformer.VisionTransformer', 'foundation.foundation_teacher'),
    ('DATASETS', 'datasets.unlabeled.UnlabeledImages', 'unlabelled.pictures'),
    ('DATASETS', 'datasets.camvid.CamVidDataset', 'datasets.folders'),
])  # fmt: skip
def test_dumped_configs_of_before_find_their_classes(registry: str, old: str, new: str) -> None:
    found = getattr(mmengine.registry, registry).get(f'mmdistill_dense.{old}')
    assert found.__module__ == f'mmdistill_dense.{new}' and found.__name__ == old.rpartition('.')[2]


def test_faces_list_their_names_before_they_import_them() -> None:
    """Or a shell and a notebook would complete none of them."""
    faces = ('', '.datasets', '.losses', '.distillers', '.distillers.maskd', '.distillers.pcd', '.apps.check')
    told = 'import mmdistill_dense{} as face\nassert {{*face.__all__}} <= {{*dir(face)}}\n'
    names, _ = loaded(''.join(map(told.format, faces)))
    assert 'mmdistill_dense.losses.detection' not in names


def test_methods_are_found_by_name_by_scope_and_by_their_old_place() -> None:
    for name in ('CIRKD', 'mmdistill_dense.CIRKD', 'mmdistill_dense.distillers.cirkd.cirkd.CIRKD'):
        assert DISTILLERS.get(name).__name__ == 'CIRKD'
    assert {*DISTILLERS.module_dict} >= {*mmdistill_dense.distillers.__all__} - {'Distiller', 'FeatureDistiller'}
