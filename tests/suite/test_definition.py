"""What a definition may hold, and what its mistakes are answered with."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmdistill_dense.apps.suite import definition
from tests.engine.processes import ROOT
from tests.suite import tiny


def load(folder: Path, **changes: Any) -> definition.Definition:
    return definition.load_suite(tiny.write(folder, **changes))


def test_values_have_defaults_of_the_task(tmp_path: Path) -> None:
    (tmp_path / 'least.yaml').write_text('control: toy_seg\nmethods: {kd: }\n')
    suite = definition.load_suite(tmp_path / 'least.yaml')
    assert (suite.title, suite.out, suite.task) == ('least', Path('work_dirs/suites/least'), 'seg')
    assert (suite.metric, suite.percent, suite.seeds, suite.jobs) == ('mIoU', False, (0, 1, 2), 1)
    assert suite.methods['kd'].options_file.name == 'kd_seg.py'
    (tmp_path / 'det.yaml').write_text('control: toy_det\nmethods: {maskd: {}}\n')
    suite = definition.load_suite(tmp_path / 'det.yaml')
    assert (suite.task, suite.metric, suite.percent) == ('det', 'coco/bbox_mAP', True)
    for metric, percent in (('pascal_voc/mAP', True), ('coco_panoptic/PQ', False)):
        (tmp_path / 'det.yaml').write_text(f'control: toy_det\nmethods: {{maskd: {{}}}}\nmetric: {metric}\n')
        assert definition.load_suite(tmp_path / 'det.yaml').percent is percent, metric
    suite = load(tmp_path, methods='all')
    assert list(suite.methods) == definition.compose.fitting_methods(suite.control)
    assert {'kd', 'afdcd', 'maskd', 'pcd'} <= suite.methods.keys()


def test_the_definition_of_the_documentation_loads(tmp_path: Path) -> None:
    block = re.search(r'```yaml\n(title.*?)```', (ROOT / 'docs/suite.md').read_text(), re.DOTALL)
    (tmp_path / 'own.yaml').write_text(block.group(1))
    (tmp_path / 'my_config.py').touch()
    assert definition.load_suite(tmp_path / 'own.yaml').methods['cwd_both'].variant == 'both'
    path = tiny.write(tmp_path)
    numbers = ''.join(f'  {line}\n' for line in ('a: 1e-3', 'b: 2.5E+1', 'time: 24:00:00', 'begin: 12:30', 'mem: 30'))
    path.write_text(path.read_text().replace('\noptions:\n', f'\noptions:\n{numbers}'))
    options = definition.load_suite(path).options
    assert [options[key] for key in ('a', 'b', 'time', 'begin', 'mem')] == [0.001, 25.0, '24:00:00', '12:30', 30]


@pytest.mark.parametrize('name', ['on', 'No', '007', '012', '1e3', '2024-01-01', '0x1f', '1_000', '7', '0'])
def test_names_in_yaml_are_the_texts_of_the_file(name: str, tmp_path: Path) -> None:
    rows = f'methods: {{{name}: {{method: kd}}}}\ntest_sets: {{{name}: {{}}}}'
    (tmp_path / 'own.yaml').write_text(f'control: toy_seg\n{rows}\noptions: {{labels: {{1: a, on: b}}}}\n')
    suite = definition.load_suite(tmp_path / 'own.yaml')
    assert [*suite.methods] == [*suite.test_sets] == [name]
    assert suite.options['labels'] == {1: 'a', 'on': 'b'}, 'a whole number as a key stays one'


@pytest.mark.parametrize(('line', 'value'), [
    ('metainfo.classes: [car, {}]', 'on'), ('metainfo: {{classes: [{}]}}', '007'), ('classes: [{}]', '~'),
    ('train_dataloader.dataset.data_root: {}', '2024-01-01'), ('data_prefix.img_path: {}', '2024'),
    ('data_prefix: {{img: {}}}', '1e3'), ('ann_file: {}', '1_000'),
])  # fmt: skip
def test_a_text_that_yaml_reads_otherwise_is_refused(line: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / 'own.yaml'
    path.write_text(f'control: toy_seg\nmethods: {{kd: {{}}}}\noptions:\n  {line.format(value)}\n')
    with pytest.raises(
        ValueError, match=r'own.yaml: line 4: .*: YAML reads .*, and this is a text. Write it in quotes'
    ):
        definition.load_suite(path)
    path.write_text(path.read_text().replace(line.format(value), line.format(f"'{value}'")))
    assert value in str(definition.load_suite(path).options)


@pytest.mark.parametrize(('changes', 'output'), [
    (dict(metod={}), "tiny.yaml: no option 'metod'; .* Did you mean 'methods'"),
    (dict(control=None), 'tiny.yaml: needs control'),
    (dict(control=3), 'control must be a text, got 3'),
    (dict(control='r18w16_from_mobilenetv2_small'), 'control: .* is of the task pretrain, which has no score'),
    (dict(methods=None), 'tiny.yaml: needs methods'),
    (dict(methods=['kd']), r"methods must be a dict or 'all', got \['kd'\]"),
    (dict(methods={}), "methods must be 'all', or options by name"),
    (dict(methods={'kdd': {}}), r"methods.kdd: method 'kdd': unknown. Close: .*kd.* These fit toy_seg: .*kd"),
    (dict(methods={'control': {}}), 'methods.control: a name consists of letters'),
    (dict(methods={'a b': {}}), 'methods.a b: a name consists of letters'),
    (dict(methods={'kd': {'option': 1}}), "methods.kd has no option 'option'; .* Did you mean 'options'"),
    (dict(methods={'kd': 3}), 'methods.kd must be a dict of method, variant, .*, got 3'),
    (dict(methods={'kd': {'variant': 'mimic'}}), "methods.kd: variant 'mimic' of kd does not fit toy_seg"),
    (dict(methods={'kd': {'config': 'x.py', 'method': 'kd'}}), 'methods.kd: config cannot be combined with `method`'),
    (dict(methods={'kd': {'data': [{}]}}), 'methods.kd.data: suite data has left: set train_dataloader.dataset in the'),
    (dict(methods={'long': {'length': 2}}), 'methods.long.length: suite length has left: set train_cfg and'),
    (dict(methods={'long': {'options': {'train_cfg.max_iters': 9, 'loss_weight': 2}}}),
     'methods.long: options: a row without `method`'),
    (dict(methods={'long': {'options': {'train_dataloader': {'dataset': {'num_images': 2}, 'batch_size': 2}}}}),
     "methods.long: method 'long': unknown"),
    (dict(methods={'kd': {'rate': 'control'}}), 'methods.kd.rate: suite rate: control has left: leave it out, and'),
    (dict(methods={'kd': {'rate': 'x'}}), "methods.kd.rate must be .* above 0 and below 1000 or None, got 'x'"),
    (dict(methods={'kd': {'start': 'x'}}), 'methods.kd.start: suite start has left: '),
    (dict(grid={'kd': {'loss_weight': [1, 2]}}), 'tiny.yaml: grid: suite grid has left: '),
    (dict(methods={'control_kd': {'method': 'kd'}}), 'methods.control_kd: a row named control_… is the student'),
    (dict(methods={'kd': {'options': {'kd': {'settings': 'auto'}}}}),
     'methods.kd: options.kd.settings: the constants of the method would stay. Write it as `settings` of the row'),
    (dict(metric='crowd_human/mMR'), "metric: 'crowd_human/mMR' falls as a network gets better, so a gain would be a"),
    (dict(seeds=[0, 0]), r'seeds must be distinct, as in \[0, 1, 2\]; got \[0, 0\]'),
    (dict(seeds=[]), 'seeds must be distinct'),
    (dict(seeds=[-1]), 'seeds must be a list, each member a whole number >= 0'),
    (dict(teacher={'config': 'teachers/toy_seg', 'seed': -1}), 'teacher.seed must be a whole number >= 0'),
    (dict(jobs=0), 'jobs must be a whole number >= 1, got 0'),
    (dict(percent='yes'), "percent must be True or False or None, got 'yes'"),
    (dict(teacher={'file': 'x'}), "teacher has no option 'file'"),
    (dict(slurm={'processes': 4}), 'tiny.yaml: slurm: suite slurm has left: sh examples/slurm_array.sh'),
    (dict(keep='some'), "keep must be one of 'all', 'weights', got 'some'"),
    (dict(test_sets={'val': {}}), 'test_sets.val: a name consists of .* train, val, test are taken'),
    (dict(methods={'fgd': {}}), r'methods\.fgd: fgd does not fit toy_seg\. These fit toy_seg: .*kd'),
    (dict(methods={'x': {'config': 'cwd:toy_sec'}}), r"methods.x: config: cwd:toy_sec: pair 'toy_sec': unknown"),
    (dict(methods={'x': {'config': 'cwd:toy_seg_and_psp'}}), r'methods.x: config: .*does not fit toy_seg_and_psp'),
    (dict(methods={'x': {'config': 'cwd:deeplabv3_r101_to_r18_voc'}}), r'of deeplabv3_r101_to_r18_voc, the control'),
    (dict(control='cwd:toy_seg'), r'control: cwd:toy_seg is not a file; write one of'),
    (dict(control='toy_segg'), r'tiny.yaml: control: .*Close: .*_base_/recipes/toy_seg.py'),
    (dict(control='mine.py'), "control: no file '.*mine.py' .looked for beside|control: no file"),
    (dict(teacher='teachers/toy_sag'), r'teacher.config: .*Close: .*teachers/toy_seg.py'),
    (dict(methods={'mine': {'config': 'leaf.py'}}), r'methods.mine: config: no file .*leaf.py'),
])  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, changes: dict, output: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=output):
        load(tmp_path, **changes)


def test_a_config_by_name_is_its_options_on_the_own_control(tmp_path: Path) -> None:
    rows = {'one': {'config': 'cwd:toy_seg:feature'}, 'two': {'config': 'kd:toy_seg'}}
    content = load(tmp_path, control='control:toy_seg', teacher='teachers:toy_seg', methods=rows)
    assert content.teacher is not None
    assert (content.control.stem, Path(content.teacher.config).parent.name) == ('toy_seg', 'teachers')
    row = content.methods['one']
    stem = row.options_file and row.options_file.stem
    assert (row.method, row.variant, stem) == ('cwd', 'feature', 'cwd_seg_feature')
    assert content.methods['two'].config, 'it is a file'


BASE = """
control: toy_seg
seeds: [1, 2]
methods:
  kd: {options: {loss_weight: 5}}
  cwd: {}
options: {train_cfg.max_iters: 9}
"""
OWN = """
_base_: [shared/base.yaml, threads.yml]
methods: {kd: {options: {temperature: 2}}, cwd: {_delete_: true}, maskd: {}}
options: {train_cfg.val_interval: 3}
"""


def test_a_definition_inherits_others(tmp_path: Path) -> None:
    (tmp_path / 'shared').mkdir()
    (tmp_path / 'shared/base.yaml').write_text(BASE)
    (tmp_path / 'threads.yml').write_text('threads: 1\n')
    (tmp_path / 'own.yaml').write_text(OWN)
    suite = definition.load_suite(tmp_path / 'own.yaml')
    assert (suite.title, suite.seeds, suite.threads, list(suite.methods)) == ('own', (1, 2), 1, ['kd', 'cwd', 'maskd'])
    assert suite.methods['kd'].options == {'loss_weight': 5, 'temperature': 2}
    assert suite.options == {'train_cfg.max_iters': 9, 'train_cfg.val_interval': 3}
    assert type(suite.options) is dict and type(suite.methods['kd'].options) is dict
    (tmp_path / 'bad.yaml').write_text(f'control: !!python/object/apply:os.mkdir ["{tmp_path}/made"]\n')
    (tmp_path / 'own.json').write_text('{"_base_": "bad.yaml"}')
    for name in ('bad.yaml', 'own.json'):
        with pytest.raises(ValueError, match='bad.yaml: could not determine a constructor'):
            definition.load_suite(tmp_path / name)
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('suffix', ['py', 'json', 'yml'])
def test_the_same_definition_in_other_languages(tmp_path: Path, suffix: str) -> None:
    value_text, key = '{{$MMDISTILL_WEIGHTS:weights}}/x.pth', 'train_dataloader.dataset.ann_file'
    content = tiny.content(methods={'kd': {}, 'other': {'options': {key: value_text}}})
    text = ''.join(f'{key} = {value!r}\n' for key, value in content.items())
    text = text if suffix == 'py' else json.dumps(content, indent='\t' if suffix == 'json' else 2)
    (tmp_path / f'tiny.{suffix}').write_text(text)
    suite = definition.load_suite(tmp_path / f'tiny.{suffix}')
    assert replace(suite, path=None) == replace(definition.load_suite(tiny.write(tmp_path, **content)), path=None)
    assert suite.methods['other'].run_options == {key: value_text}


@pytest.mark.parametrize(('name', 'text', 'output'), [
    ('own.yaml', '_base_: none.yaml', "none.yaml': no such definition"),
    ('own.yaml', '_base_: 3', 'own.yaml: '),
    ('own.yaml', '_base_: base.yaml\nmethods: {kd: {option: 1}}', "own.yaml: methods.kd has no option 'option'"),
    ('own.yaml', '_base_: base.yaml\nseeds: {a: 1}', 'own.yaml: '),
    ('own.json', '{"control": "toy_seg",}', 'own.json: '),
    ('own.py', 'control = ', 'own.py: '),
    ('bad.yaml', 'a: [', 'bad.yaml: '),
    ('list.yaml', '- a', 'list.yaml: The file must be a dict of control, '),
    ('twice.yaml', 'control: toy_seg\nmethods:\n  kd: {}\n  kd: {jobs: 5}\n', r'twice\.yaml: line 3: kd occurs twice'),
    ('base.yaml/none.yaml', '', 'no such definition of a suite'),
    ('own.py', "control = 'toy_seg'\nmetods = {}", "own.py: no option 'metods'; "),
])  # fmt: skip
def test_mistakes_of_a_base_are_named(tmp_path: Path, name: str, text: str, output: str) -> None:
    (tmp_path / 'base.yaml').write_text(BASE)
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=output):
        definition.load_suite(tmp_path / name)
