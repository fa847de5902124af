"""The guides: Python runs, YAML is read, commands are understood and run in order, in this process and shortened."""

import ast
import copy
import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import mmdet.registry
import mmengine.registry
import mmseg.registry
import pytest
import yaml
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.utils import register_all_modules as register_mmseg

import mmdistill_dense.distillers
import mmdistill_dense.registry
from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.suite import definition
from mmdistill_dense.config.resolve import TEACHER_OPTIONS, find_config, is_distill_model, load_model, student_option
from mmdistill_dense.distillers import FeatureDistiller, MasKD
from mmdistill_dense.model.build import build_distillers
from mmdistill_dense.registry import DISTILLERS
from tests import toys
from tests.docs_blocks import ROOT, Block, Command, blocks, check, commands, inline, text_of
from tests.project.folders_of_data import seg_folder
from tests.zoo.narrow import narrow
from tools.docs.targets import read_targets

PROJECT = ('datasets', 'own_pair', 'own_method')  # one after the other, in a folder of the reader's
CLONE = ('first_run', 'combining', 'checking', 'auto_taps')  # each in a clone
NOTEBOOK = ROOT / 'docs/tutorial.ipynb'
SIDE = 128
STEPS = 2


def runs(block: Block) -> bool:
    """Tell whether a test runs a block: one of these guides, or what .ci/run does."""
    steps = (ROOT / '.ci/run').read_text(encoding='utf-8')
    if all(command.words[0] == 'make' and f'make {command.words[1]}' in steps for command in commands(block.text)):
        return True
    inside = block.guide.parent == ROOT / 'docs' and block.guide.stem in (*PROJECT, *CLONE)
    return inside and not block.needs and not block.form


def link_clone(folder: Path) -> None:
    """Make a folder one from which the commands of the guides find the project's files, and no others."""
    for name in ('configs', 'tools', 'benchmarks'):
        (folder / name).symlink_to(ROOT / name)


def walk(guides: tuple[str, ...]) -> list[str]:
    """Run the blocks of some guides in the working folder, their files written before; returns the commands."""
    done = []
    with _short(narrowed=guides == PROJECT):
        link_clone(Path())
        chosen = [block for name in guides for block in blocks('bash', 'python', 'yaml') if block.guide.stem == name]
        for block in chosen:
            if block.language != 'bash' and block.file and '/' not in block.file:
                Path(block.file).write_text(block.text, encoding='utf-8')
        # the reader's own config last: its teacher is trained by the blocks behind it
        for block in sorted(chosen, key=lambda block: 'my_distilled.py' in block.text):
            if block.language == 'bash' and runs(block):
                done += [' '.join(command.words) for command in commands(block.text) if _run(command)]
    return done


def run_notebook() -> None:
    """Run the cells of the tutorial in the working folder, their trainings shortened."""
    names: dict[str, Any] = {}
    with _short(narrowed=False):
        for cell in json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']:
            source = ''.join(cell['source']) if cell['cell_type'] == 'code' else ''
            if source.startswith('%%writefile '):
                first, _, text = source.partition('\n')
                Path(first.split()[1]).write_text(f'{text}\n', encoding='utf-8')
            elif source.startswith('!'):
                for command in commands(re.sub(r'(?m)^!|{(\w+)}', lambda name: str(names.get(name[1], '')), source)):
                    assert _run(command), command
            else:
                exec(source, names)


def _run(command: Command) -> bool:
    program, *words = command.words
    if program == 'mim':
        program, words = 'mmdistill', [words[0], *words[2:]]
    if program != 'mmdistill':
        assert program in ('export', 'mkdir', 'cd', 'make', '.'), program
        return False
    if '--iters' in words:  # other processes train; PCD's balance needs a few steps
        words[words.index('--iters') + 1] = '12'
    path = [command.variables['PYTHONPATH'], *sys.path] if 'PYTHONPATH' in command.variables else sys.path
    with mock.patch.object(sys, 'argv', ['mmdistill', *words]), mock.patch.object(sys, 'path', path):
        assert not main(words), ' '.join(command.words)
    return True


@contextmanager
def _short(narrowed: bool) -> Iterator[None]:
    build, train = Runner.from_cfg, Runner.train
    ends: dict[str, str] = {}

    def from_cfg(cfg: Config) -> Runner:
        ends[str(Path(cfg.work_dir).absolute())] = _shorten(cfg, narrowed)
        return build(cfg)

    def whole(self: Runner) -> Any:
        model = train(self)
        last = Path(self.work_dir, 'last_checkpoint').read_text(encoding='utf-8').strip()
        if Path(last).name != ends[self.work_dir]:  # later commands name the file of a whole run
            shutil.copy(last, Path(self.work_dir, ends[self.work_dir]))
        return model

    with mock.patch.object(Runner, 'from_cfg', from_cfg), mock.patch.object(Runner, 'train', whole):
        yield


def _shorten(cfg: Config, narrowed: bool) -> str:
    """Shorten a run; returns the name of the last checkpoint that the whole run would have written."""
    loop, epochs = cfg.train_cfg, 'max_epochs' in cfg.train_cfg
    name = f'epoch_{loop.max_epochs}.pth' if epochs else f'iter_{loop.max_iters}.pth'
    length = 1 if epochs else STEPS
    loop.update({'max_epochs': length} if epochs else {'max_iters': length}, val_interval=length)
    cfg.default_hooks.checkpoint.update(interval=length, save_best=None)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        if 'num_images' in loader.dataset:
            loader.dataset.num_images = 2 * STEPS
        for step in loader.dataset.get('pipeline', []) if narrowed else []:
            step.update({key: (SIDE, SIDE) for key in ('scale', 'crop_size') if key in step})
    for distiller in (cfg.model.get('distillers') or {}).values():
        if 'learn' in distiller:
            distiller.learn.max_iters = STEPS
    if narrowed:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            cfg.model = _narrowed(cfg.model)
    cfg.experiment_name = cfg.visualizer.name = toys.fresh_dir().name
    return name


def _narrowed(model: Any) -> ConfigDict:
    def network(option: Any, key: str) -> dict[str, Any]:
        made = narrow(load_model(option, key))
        made['data_preprocessor']['size'] = (SIDE, SIDE)
        return made

    if not is_distill_model(model):
        return ConfigDict(network(model, 'model'))
    options = {'type': model.type, 'student': network(student_option(model), 'model.student')}
    if model.get('teacher') and model.get('distillers'):
        network_part, teacher_part = (
            {key: value for key, value in model.teacher.items() if (key in TEACHER_OPTIONS) == flag}
            for flag in (False, True)
        )
        options['teacher'] = {**network(network_part, 'model.teacher'), **teacher_part}
    return ConfigDict(options, distillers=model.get('distillers') or {})


OTHERS = ROOT / 'CONTRIBUTING.md'  # its blocks are parts of files
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
    read = definition.load_suite(file)
    assert read.methods


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
    message = f'{block.key}: a comment must say what it needs (`# needs GPUs`), or its guide must be in CLONE'
    assert runs(block) or block.needs or block.form, message


def test_commands_in_sentences_are_understood() -> None:
    """Every package of mim has a name that mim knows: it takes ``mmseg`` for one, and ``mmdet`` for none."""
    for block in inline():
        for command in commands(block.text):
            check(command)
    with pytest.raises(AssertionError, match='does not take'):
        check(*commands('mmdistill train CONFIG --work-dirs x'))
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
    run_notebook()
    assert Path('distil_mine/report.html').is_file() and Path('distil_mine/student.py').is_file()


# The blocks of docs/trackers.md: a distilled run writes its values to each tracker whose package is installed


TRACKERS = {
    'TensorboardVisBackend': ('tensorboard', '*/vis_data/events.*'),
    'WandbVisBackend': ('wandb', '*/vis_data/wandb/*/*.wandb'),
    'MLflowVisBackend': ('mlflow', 'mlflow.db'),
}


@pytest.mark.parametrize('kind', TRACKERS)
def test_a_run_is_tracked_or_the_missing_package_is_named(kind, tmp_path, monkeypatch):
    """Every value has its iteration: mmengine's backend for W&B draws one without ``iter`` at the last one given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    package, files = TRACKERS[kind]
    page = [evaluated(block, tmp_path) for block in blocks('python') if block.guide.name == 'trackers.md']
    listed = [names['visualizer']['vis_backends'] for names in page]
    (backends,) = [entries for entries in listed if entries[-1]['type'] == kind]
    visualizer = dict(type='SegLocalVisualizer', vis_backends=backends)  # the type is the base's
    distillers = dict(fit=dict(type='FitNet', student_tap='backbone[3]', align='conv', balance=1.0))
    model = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), distillers)
    hooks = dict(logger=dict(interval=100))
    config = toys.run_config(tmp_path, model, iters=4, visualizer=visualizer, default_hooks=hooks)
    if find_spec(package) is None:
        with pytest.raises(ImportError, match=f'pip install {package}'):
            toys.train(tmp_path, config)
        return
    toys.train(tmp_path, config)
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert list(tmp_path.glob(files)) and [line for line in lines if 'distill.fit.ratio' in line]
    iteration = 0
    for line in lines:
        iteration = line.get('iter', iteration)
        assert iteration == line['step']
