"""Text of strangers in written configs comes back as it was, and is never source: every writer, every template form."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from mmdistill_dense.apps.export.without_package import header_lines
from mmdistill_dense.apps.project import config_files
from mmdistill_dense.apps.project.config_files import seg_file
from mmdistill_dense.apps.project.label_images import SegData
from mmdistill_dense.apps.project.new import write
from mmdistill_dense.apps.project.splits import Split
from mmdistill_dense.apps.project.training_plan import Loading, Training
from mmdistill_dense.apps.recipes.compose import reference
from mmdistill_dense.apps.report.runs import TrainedRun
from mmdistill_dense.apps.suite.plan import Run, write_config
from mmdistill_dense.utils.files import list_text
from mmdistill_dense.utils.literals import Template, assignments, check_place

PIECES = (
    '{{', '}}', '{', '}', '$A:', '{{$A:', '{{ $A : x }}', '{{fileDirname}}', '{{ fileBasenameNoExtension }}',
    '{{ _base_.model.student }}', "{{'$HOME:1'}}", "'", '"', "'''", '"""', '\\', '\\x', '\\N', '\n', '\r', '\u2028',
    '_base_.a', '#', '\udc80', '%s', ' ', '((', '))', ',', 'é', 'e\u0301', 'ﬁ', '{\\x7b',
    '''{{$A:X|\\\',"((",1/0)),#}}''',
)  # fmt: skip
ANY = st.text(st.characters(exclude_categories=['Cs']), max_size=3)  # text() takes seconds for the same characters
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), ANY), max_size=5).map(''.join)
PLAIN = st.one_of(TEXTS, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))
KEYS = TEXTS.filter(lambda text: text not in ('_delete_', '_scope_'))
VALUES = st.recursive(
    PLAIN,
    lambda one: st.lists(one, max_size=3) | st.tuples(one, one) | st.dictionaries(KEYS, one, max_size=3),
    max_leaves=8,
)
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def back(text: str) -> dict[str, Any]:
    return Config.fromstring(text, '.py').to_dict()


@few
@given(VALUES)
def test_any_value_comes_back(value: Any) -> None:
    assert back(assignments({'x': value, 'more': {'x': [value] * 20}})) == {'x': value, 'more': {'x': [value] * 20}}


def test_names_of_the_file_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / 'a.py'
    file.write_text(assignments({'x': Template('{{ fileDirname }}/b'), 'kind': Path, 'far': float('inf')}))
    config = Config.fromfile(file)
    assert (config.x, config.far, config.kind) == (f'{tmp_path}/b', float('inf'), f'{Path.__module__}.Path')
    with pytest.raises(ValueError, match="'a; 1/0'"):
        assignments({'a; 1/0': 1})
    with pytest.raises(ValueError, match='--out: .* in it, which no config can hold'):
        check_place('--out', "it's.py")
    # each training copies the config, where a name with two braces would be replaced
    with pytest.raises(ValueError, match='classes.*two braces'):
        write({'data.py': assignments({'classes': ['{{$A:x}}']})}, tmp_path / 'new')
    assert not (tmp_path / 'new').exists()


@few
@given(TEXTS, TEXTS, TEXTS, st.lists(TEXTS, min_size=2, max_size=3, unique=True))
def test_the_files_of_new(root: str, name: str, file: str, classes: list[str]) -> None:
    splits = {'train': Split(name, file, 2, (name,)), 'val': Split(name, file, 1)}
    data = SegData(Path('/', root), splits, (name, 'b'), file, tuple(classes), (), (32, 48))
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    schedule = Training(wrapper, [], 2, file, 'AdamW')
    texts = {
        'data.py': seg_file(data, Loading((32, 48), (32, 48), (32, 32), True, True, 2, 0, '')),
        'pair.py': config_files.pair_file({'cfg': file}, {'cfg': name, 'checkpoint': root}, 'toy'),
        'control.py': config_files.training_file('', schedule, 2, 'seg'),
        'teacher.py': config_files.teacher_file(schedule, 2, 'seg'),
        'kd.py': config_files.method_file('kd', {'kd': {'type': 'KD'}}, {'data_root': root}),
    }
    with tempfile.TemporaryDirectory() as folder:
        for key, text in texts.items():
            Path(folder, key).write_text(text, encoding='utf-8')
        kd, teacher = (Config.fromfile(Path(folder, key)).to_dict() for key in ('kd.py', 'teacher.py'))
    train, val = (kd[f'{split}_dataloader']['dataset'] for split in ('train', 'val'))
    assert train['data_root'] == val['data_root'] == str(data.root)
    assert train['metainfo']['classes'] == tuple(classes)
    assert (train['img_suffix'], train['seg_map_suffix']) == ((name, 'b'), file)
    assert train['data_prefix'] == {'img_path': name, 'seg_map_path': file}
    assert train['ann_file'] == f'{folder}/train.txt'
    assert (kd['model']['student']['cfg'], kd['model']['unlabelled']) == (file, {'data_root': root})
    assert kd['model']['teacher'] == {'cfg': name, 'checkpoint': root}
    assert teacher['model']['student']['cfg'] == name
    assert teacher['work_dir'] == os.path.join(folder, 'work', 'teacher')


@few
@example('~nobody', 'a')  # no user of this system
@given(TEXTS, TEXTS)
def test_other_writers(name: str, checkpoint: str) -> None:
    """The config of a run of a suite, a base below a folder of any name, the head of an exported config, and the copy
    that mmengine wrote of a run's config, which is read as plain values."""
    values = {'work_dir': name, 'model': {'student': {'cfg': name, 'data_root': [checkpoint]}}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = Run('kd', 0, root)
        write_config(run, Config(values), 'abc')
        assert Config.fromfile(run.file).to_dict() == values
        base = root / f'a{name}'.replace('/', '').replace('\0', '').replace('::', '') / 'base.py'
        copy = root / '20260101_000000/vis_data/config.py'
        for file in (base, copy):
            file.parent.mkdir(parents=True)
        base.write_text('x = 1\n')
        (root / 'mine.py').write_text(f'_base_ = [{reference(base, root)}]\n', encoding='utf-8')
        assert Config.fromfile(root / 'mine.py').to_dict() == {'x': 1}
        Config({'classes': [name, checkpoint]}).dump(copy)
        assert TrainedRun(root, 'a').config.to_dict() == {'classes': [name, checkpoint]}
    head = header_lines(Path(f'{name}.pth'), {'test_evaluator': [name]}, [], Config(), checkpoint)
    assert back(f'{head}x = 1\n') == {'x': 1}
    assert all(line.startswith('# ') for line in head.splitlines())


def test_a_name_that_no_list_can_hold_is_refused() -> None:
    assert list_text(['a b', 'ü'], '--data') == 'a b\nü\n'
    for name in ('a\nb', 'a\u2028b', ' a', 'a ', 'a\udc80'):
        with pytest.raises(ValueError, match='--data: the file name .* rename the file'):
            list_text(['a', name], '--data')
