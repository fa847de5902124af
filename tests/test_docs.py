"""The guides: Python runs, YAML is read, commands are understood and run; figures are those of the published runs."""

import ast
import copy
import importlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import mmdet.registry
import mmengine.registry
import mmseg.registry
import pytest
import torch
import yaml
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmseg.utils import register_all_modules as register_mmseg

import mmdistill_dense.distillers
import mmdistill_dense.registry
from mmdistill_dense.apps.suite import definition
from mmdistill_dense.config.resolve import find_config, load_model
from mmdistill_dense.distillers import FeatureDistiller, MasKD
from mmdistill_dense.model.build import build_distillers
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.docs_blocks import ROOT, Block, blocks, check, commands, inline, text_of
from tests.docs_run import CLONE, NOTEBOOK, PROJECT, link_clone, read_notebook, run_notebook, runs, walk
from tests.project.folders_of_data import seg_folder
from tools.docs.targets import read_targets

OTHERS = ROOT / 'CONTRIBUTING.md'  # tests/test_contributing.py puts its blocks into a copy of the tree
PYTHON = [pytest.param(block, id=block.key) for block in blocks('python') if block.guide != OTHERS]
YAML = [pytest.param(block, id=block.key) for block in blocks('yaml')]
BASE = re.compile(r"'(\.{1,2}/[\w./-]+\.py)'")
OWN_BASES = {  # what a reader has whom the guides tell to inherit it
    './my_student.py': 'recipes/toy_seg', './my_pair_control.py': 'recipes/toy_seg',
    './my_distilled.py': 'recipes/toy_seg', './my_pair.py': 'pairs/toy_seg', './my_data.py': 'datasets/shapes_seg',
}  # fmt: skip


class _Names(dict):
    """What the reader fills in, in capital letters, and carriers that a base would give."""

    def __missing__(self, name: str) -> Any:
        if name.isupper():
            return name
        raise KeyError(name)


def evaluated(block: Block, folder: Path) -> Mapping[str, Any]:
    """The names that a block assigns: a config with its bases where it has some."""
    text = block.text.replace('dict(…)', 'dict()').replace('…', '...')
    if block.needs:  # it could not go on; what it imports must be there
        imports = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), block.key, 'exec'), {})
        return {}
    if '_base_ =' not in text:
        names = _Names()
        exec(compile(text, block.key, 'exec'), names)
        return {name: value for name, value in names.items() if name != '__builtins__'}
    beside = (ROOT / (block.file or 'configs/kd/x.py')).parent
    folders = [beside, *(ROOT / 'configs/_base_').iterdir(), ROOT / 'configs/kd']
    for name in BASE.findall(text):
        own_bases = [ROOT / f'configs/_base_/{OWN_BASES[name]}.py'] if name in OWN_BASES else []
        paths = [path for path in (*own_bases, *(folder / name for folder in folders)) if path.is_file()]
        assert paths, f'{name}: no folder has it'
        text = text.replace(f"'{name}'", repr(str(paths[0].resolve())))
    file = folder / 'block.py'
    file.write_text(text, encoding='utf-8')
    return Config.fromfile(file)


def options(value: Any) -> Iterator[Mapping[str, Any]]:
    """All dicts with a ``type``, at any depth."""
    if isinstance(value, Mapping) and isinstance(value.get('type'), str):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for inner_value in inner:
        yield from options(inner_value)


@pytest.fixture(scope='module')
def registries() -> list[Any]:
    """Every registry of the stack and ours, filled."""
    register_mmseg(init_default_scope=False)
    register_mmdet(init_default_scope=False)
    modules = (mmdistill_dense.registry, mmseg.registry, mmdet.registry, mmengine.registry)
    return [one for module in modules for one in vars(module).values() if isinstance(one, mmengine.registry.Registry)]


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reader's ``energy.py`` can be imported; its method is forgotten afterwards."""
    (block,) = (block for block in blocks('python') if block.file == 'energy.py')
    (tmp_path / 'energy.py').write_text(block.text, encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    with mock.patch.dict(DISTILLERS.module_dict):
        for name in ('Energy', 'LabelledEnergy'):
            DISTILLERS.module_dict.pop(name, None)
        yield
    sys.modules.pop('energy', None)


@pytest.mark.usefixtures('own_method')
@pytest.mark.parametrize('block', PYTHON)
def test_python_names_what_exists(block, registries, tmp_path, monkeypatch):
    link_clone(tmp_path)
    monkeypatch.chdir(tmp_path)
    config_names = {name: value for name, value in evaluated(block, tmp_path).items() if not name.startswith('_')}
    for option in options(config_names):
        name = option['type']
        assert any(registry.get(name) for registry in registries), f'{name} is not known'
        if name in DISTILLERS.module_dict and ... not in option.values():
            build_distillers({'one': copy.deepcopy(dict(option))}, 'mmseg')
    for name in re.findall(r"'((?:mmseg|mmdet|mmdistill_dense)::[^']+)'", block.text):
        find_config(name)


def whole(block: Block) -> dict[str, Any]:
    """A definition with what the block leaves out."""
    content = yaml.safe_load(block.text.replace(', …', ''))
    default = {'control': 'deeplabv3plus_mobilenetv2_to_r18w16_camvid', 'methods': {'kd': {}}}
    return {**default, **content}


@pytest.mark.parametrize('block', YAML)
def test_yaml_is_read(block: Block, tmp_path: Path) -> None:
    file = tmp_path / 'given.yaml'
    shutil.copytree(ROOT / 'benchmarks', tmp_path, dirs_exist_ok=True)  # a base
    if isinstance(yaml.safe_load(block.text.replace(', …', '')), list):
        file.write_text(block.text, encoding='utf-8')
        assert read_targets(file)
        return
    for name in ('my_pair_control.py', 'my_teacher.py'):
        shutil.copy(ROOT / 'configs/_base_/recipes/toy_seg.py', tmp_path / name)
        text = (tmp_path / name).read_text().replace("'../", f"'{ROOT}/configs/_base_/")
        (tmp_path / name).write_text(text)
    (tmp_path / 'my_config.py').write_text(f"_base_ = '{ROOT}/configs/kd/toy_seg.py'\n")
    file.write_text(yaml.safe_dump(whole(block)), encoding='utf-8')
    assert definition.load_suite(file).methods


@pytest.mark.parametrize('name', [name for name in DISTILLERS.module_dict if name in vars(mmdistill_dense.distillers)])
def test_the_cards_of_methods_name_every_option_with_its_default(name: str) -> None:
    method = DISTILLERS.get(name)
    card = text_of(f'docs/methods/{method.__module__.rpartition(".")[2]}.md')
    assert card.startswith(f'# {name}')
    table = card.partition('\n## Options\n\n')[2].partition('\n\n')[0]
    shown = {}
    for keys, values in re.findall(r'^\| `(.+?)` \| (.+?) \| [^|]+ \|$', table, re.MULTILINE):
        several = keys.split('`, `')
        shown.update(zip(several, values.split(', ') if len(several) > 1 else [values], strict=True))
    # docs/options.md has those of all, and the card of FreeKD refers to that of MasKD
    of_all = inspect.signature(MasKD if name == 'FreeKD' else FeatureDistiller).parameters
    for option in inspect.signature(method).parameters.values():
        if option.name in of_all and option.default in (of_all[option.name].default, option.empty):
            continue
        assert any(key.partition('.')[0] == option.name for key in shown), option
        if isinstance(option.default, (int, float, str)) and not option.name.endswith('_tap'):
            assert ast.literal_eval(shown[option.name].strip('`')) == option.default


@pytest.mark.parametrize(('page', 'owner', 'prefix'), [
    ('options', 'distillers.base.Distiller', ''),
    ('options', 'distillers.feature.FeatureDistiller', ''),
    ('options', 'distillers.schedule.Schedule', 'schedule.'),
    ('options', 'networks.acceleration.Acceleration', 'accelerate.'),
    ('methods/maskd', 'distillers.maskd.learning.LearnOptions', 'learn.'),
    ('datasets', 'unlabelled.pictures.UnlabeledImages', ''),
    ('datasets', 'datasets.shapes.ShapesSegDataset', ''),
    ('ssl_teachers', 'pretrain.ssl_teacher.SSLTeacher', ''),
])  # fmt: skip
def test_a_page_says_when_to_use_an_option(page: str, owner: str, prefix: str) -> None:
    module, _, name = f'mmdistill_dense.{owner}'.rpartition('.')
    text = text_of(f'docs/{page}.md')
    made = getattr(importlib.import_module(module), name)
    for option in list(inspect.signature(made).parameters):
        assert option == 'kwargs' or re.search(rf'`{re.escape(prefix + option)}\b', text), option


def test_the_chinese_readme_has_the_commands() -> None:
    fence = re.compile(r'```.*?```', re.DOTALL)
    output = []
    for text in map(text_of, ('README.md', 'README_zh-CN.md')):
        rest = fence.sub('', text)
        links, figures = (sorted(re.findall(name, rest)) for name in (r'\]\(((?!README)\S+?)\)', r'[+-]?\d+\.\d+'))
        output.append((fence.findall(text), links, figures, text.count('\n#')))
    assert output[0] == output[1]
    assert len(text_of('README.md').splitlines()) <= 150


# Commands


@pytest.mark.parametrize('block', [pytest.param(block, id=block.key) for block in blocks('bash')])
def test_a_block_is_run_or_says_what_it_needs(block: Block) -> None:
    actual = commands(block.text)
    assert actual
    for command in actual:
        check(command)
    message = f'{block.key}: a comment must say what it needs (`# needs GPUs`), or tests/docs_run.py must run its guide'
    assert runs(block) or block.needs or block.form, message


def test_commands_in_sentences_are_understood() -> None:
    """Every package of mim has a name that mim knows: it takes ``mmseg`` for one, and ``mmdet`` for none."""
    for block in inline():
        for command in commands(block.text):
            check(command)
    for line in ('mmdistill train CONFIG --work-dirs x', 'mim train mmseg CONFIG --no-such-option', 'make no-demo'):
        with pytest.raises((AssertionError, SystemExit)):
            check(*commands(line))
    pages = [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/*/README.md')]
    names = {name for page in pages for name in re.findall(r'\bmim (?:train|test|run) (\w+)', page.read_text())}
    assert 'mmseg' in names and names <= {'mmseg', 'mmdetection'}


@pytest.mark.soak
def test_own_data_own_pair_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reader has already is written first: pictures, a student that trains, a teacher's weights."""
    monkeypatch.chdir(tmp_path)
    seg_folder(Path('data/leaves'))
    classes = dict(num_classes=3)
    option = dict(cfg=toys.SEG['pspnet'], data_preprocessor=dict(size=(512, 512)))
    student = load_model(dict(option, decode_head=classes, auxiliary_head=classes), 'model').model.to_dict()
    Path('my_student.py').write_text(f"_base_ = './my_pair_control.py'\nmodel = {dict(student, _delete_=True)!r}\n")
    Path('my_teacher.pth').symlink_to('work_dirs/my_teacher/iter_40000.pth')
    assert sum(' train ' in line for line in walk(PROJECT)) >= 4
    assert Path('work_dirs/my_energy/iter_40000.pth').is_file()


@pytest.mark.soak
@pytest.mark.parametrize('guide', CLONE)
def test_commands_of_a_guide_in_a_clone(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert walk((guide,))


@pytest.mark.soak
def test_the_tutorial_from_folder_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored = [cell['outputs'] for cell in read_notebook()['cells'] if cell['cell_type'] == 'code']
    kinds = ([[one['output_type'] for one in some] for some in outputs] for outputs in (run_notebook(), stored))
    assert next(kinds) == next(kinds)
    assert Path('distil_mine/report.html').is_file() and Path('distil_mine/student.py').is_file()
    assert NOTEBOOK.stat().st_size < 300_000


# The blocks of docs/trackers.md: a distilled run writes its values to each tracker whose package is installed


TRACKERS = {
    'TensorboardVisBackend': ('tensorboard', '*/vis_data/events.*'),
    'WandbVisBackend': ('wandb', '*/vis_data/wandb/*/*.wandb'),
    'MLflowVisBackend': ('mlflow', 'mlflow.db'),
}


@pytest.mark.parametrize('kind', TRACKERS)
def test_a_run_is_tracked_or_the_missing_package_is_named(kind, tmp_path, monkeypatch):
    """Every value is written with its iteration.

    mmengine's backend for W&B drops the step, and draws a value without ``iter`` at the last one given.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    package, files = TRACKERS[kind]
    page = [evaluated(block, tmp_path) for block in blocks('python') if block.guide.name == 'trackers.md']
    listed = [names['visualizer']['vis_backends'] for names in page]
    (backends,) = [entries for entries in listed if entries[-1]['type'] == kind]
    visualizer = dict(type='SegLocalVisualizer', vis_backends=backends)  # the type is the base's
    distillers = dict(fit=dict(type='FitNet', student_tap='backbone[3]', align='conv'))
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers)
    config = toys.run_config(tmp_path, model, iters=4, visualizer=visualizer)
    if find_spec(package) is None:
        with pytest.raises(ImportError, match=f'pip install {package}'):
            toys.train(tmp_path, config)
        return
    toys.train(tmp_path, config)
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert list(tmp_path.glob(files)) and [line for line in lines if 'distill.fit.loss_fitnet' in line]
    iteration = 0
    for line in lines:
        iteration = line.get('iter', iteration)
        assert iteration == line['step']


def test_every_command_of_the_readme_is_run() -> None:
    """By .ci/run, tests/test_door.py or, what these words tell, tests/test_install_lines.py and tests/tools/docs."""
    run = re.compile(r'mmdistill --help|pip install|distil_leaves|my_distilled|first_picture')
    blocks_of = [block for block in [*blocks('bash'), *inline()] if block.guide == ROOT / 'README.md']
    left = [block.needs for block in blocks_of if not runs(block) and not run.search(block.text)]
    assert left == [['Cityscapes or COCO, GPUs']], 'their configs are trained by make test-zoo'


@pytest.mark.usefixtures('own_method')
def test_the_method_of_the_guide_runs() -> None:
    energy = importlib.import_module('energy').Energy()
    taps = {'backbone[3]': [torch.rand(2, 4, 5, 5)]}
    shapes = {tap: [torch.Size((1, *tensor.shape[1:])) for tensor in tensors] for tap, tensors in taps.items()}
    energy.setup(shapes, shapes)
    assert energy(taps, taps, None)['loss_energy'] == 0
    assert energy(taps, {'backbone[3]': [torch.rand(2, 4, 5, 5)]}, None)['loss_energy'] > 0


@pytest.mark.parametrize(
    'block', [case for case in PYTHON if 'README' in case.id and 'configs/' in case.values[0].text]
)
def test_a_shipped_config_is_shown_as_it_is(block: Block) -> None:
    assert block.file
    if (ROOT / block.file).is_file():
        shipped, shown = (ast.parse(text).body for text in (text_of(block.file), block.text))
        title = isinstance(getattr(shipped[0], 'value', None), ast.Constant)
        assert [ast.dump(node) for node in shipped[title:]] == [ast.dump(node) for node in shown]
