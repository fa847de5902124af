"""The structure of the package, read from its imports: layers, what losses may import, names and lengths of modules.

Nothing of the package is imported here. The layers stand in ``LAYERS``, and ``docs/architecture.md`` shows them.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmdistill_dense'
PAGE = ROOT / 'docs/architecture.md'
# From the ground up. A room may import rooms below it, and those that stand before it in its own row.
LAYERS = (
    ('utils', 'losses', 'registry', 'ops_check'),
    ('config', 'datasets'),
    ('weights',),
    ('guards', 'networks'),
    ('distillers',),
    ('model', 'engine', 'testing'),
    ('unlabelled', 'foundation', 'pretrain'),
    ('apps.options', 'apps.recipes', 'apps.inspect', 'apps.export', 'apps.training'),
    ('apps.check', 'apps.suite'),
    ('apps.report', 'apps.project', '__main__'),
)
PLACES = {room: number for number, room in enumerate(room for row in LAYERS for room in row)}
MAX_LINES = 500
# Lines of Python in each folder. These numbers may only shrink: who must raise one says why in the commit.
MOST_LINES = {
    'mmdistill_dense/losses': 2_060,
    'mmdistill_dense/distillers': 5_125,
    'mmdistill_dense/networks': 2_485,
    'mmdistill_dense/model': 655,
    'mmdistill_dense/engine': 1_770,
    'mmdistill_dense/weights': 910,
    'mmdistill_dense/datasets': 880,
    'mmdistill_dense/guards': 1_070,
    'mmdistill_dense/config': 870,
    'mmdistill_dense/utils': 1_555,
    'mmdistill_dense/unlabelled': 730,
    'mmdistill_dense/pretrain': 870,
    'mmdistill_dense/foundation': 955,
    'mmdistill_dense/apps/project': 4_630,
    'mmdistill_dense/apps/suite': 2_245,
    'mmdistill_dense/apps/check': 835,
    'mmdistill_dense/apps/report': 1_200,
    'mmdistill_dense/apps/inspect': 610,
    'mmdistill_dense/apps/export': 1_490,
    'mmdistill_dense/apps/recipes': 415,
    'mmdistill_dense/apps': 11_800,
    'mmdistill_dense': 32_270,
    'tools': 3_071,
    'tests': 34_935,
}
MOST_CONFIGS = 600
parsed = cache(lambda path: ast.parse(path.read_text(encoding='utf-8')))


@cache
def modules() -> dict[str, Path]:
    """The modules of the package by their dotted name."""
    actual = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        actual['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return actual


def imported(path: Path, top: bool = False) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it; of a name out of a package, the module that it may be."""
    for node in parsed(path).body if top else ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: imports are absolute here'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            yield from (name if name in modules() else str(node.module) for name in names)


@cache
def arrows() -> dict[str, set[str]]:
    """What each module imports of the package, seen as modules."""
    return {
        name: {name for name in imported(path) if name.split('.')[0] == 'mmdistill_dense' and name != 'mmdistill_dense'}
        for name, path in modules().items()
    }


def room(module: str) -> str:
    """The folder of a module; the programs have one each."""
    parts = module.split('.')
    return '.'.join(parts[1:3]) if parts[1] == 'apps' else parts[1]


def inner() -> dict[str, set[str]]:
    """The arrows without those of the package's face, which hands names of all rooms on."""
    faces = 'mmdistill_dense', 'mmdistill_dense.apps'
    return {name: targets for name, targets in arrows().items() if name not in faces}


def test_every_room_has_a_layer() -> None:
    assert {room(name) for name in inner()} == set(PLACES)


def test_no_arrow_runs_up_or_to_the_right() -> None:
    """So the core knows nothing of what a training may use, and this nothing of the programs around it."""
    up = [
        f'{name} imports {target}'
        for name, targets in inner().items()
        for target in targets
        if PLACES[room(target)] > PLACES[room(name)]
    ]
    assert not up


def test_the_house_has_few_floors() -> None:
    """A folder stands one floor above the highest that it imports; a name moved to the wrong one adds a floor."""
    below: dict[str, set[str]] = {}
    for name, targets in inner().items():
        here = name.split('.')[1]
        below.setdefault(here, set()).update({target.split('.')[1] for target in targets} - {here})

    @cache
    def floor(folder: str) -> int:
        return 1 + max(map(floor, below[folder]), default=0)

    assert max(map(floor, below)) <= 9, sorted((floor(folder), folder) for folder in below)


def test_no_module_is_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, ' -> '.join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(arrows().get(name, ())):
                if not name.startswith(f'{target}.'):  # a module and the face of its own package
                    visit(target, (*trail, name))
            done.add(name)

    for name in inner():
        visit(name, ())


def test_the_package_knows_nothing_outside_of_it() -> None:
    actual = {name: {name.split('.')[0] for name in imported(path)} for name, path in modules().items()}
    assert not {name for name, heads in actual.items() if heads & {'tools', 'tests', 'docs'}}


def test_losses_import_torch_alone() -> None:
    """Their face needs what imports lazily, which itself imports the standard library alone."""
    own_modules = ('mmdistill_dense.losses', 'mmdistill_dense.utils.lazy')
    for name, path in modules().items():
        if name.startswith(own_modules):
            other_names = {name for name in imported(path) if not name.startswith(own_modules)}
            assert {name.split('.')[0] for name in other_names} - sys.stdlib_module_names <= {'torch'}, name


def test_optional_libraries_are_imported_where_they_are_used() -> None:
    """At the top of a module they would be loaded, and could fail, for everyone who has them."""
    optional = {'timm', 'transformers', 'torchvision', 'safetensors', 'onnx', 'onnxruntime'}
    for name, path in modules().items():
        assert not {part for name in imported(path, top=True) for part in name.split('.')} & optional, name


def test_no_name_means_two_things() -> None:
    """Two modules, but the packages' faces, command lines and a method's main module; two classes or public functions;
    two constants of a module: where files are joined, the second value would silently take the place of the first."""
    stems = Counter(path.stem for path in modules().values() if path.stem not in ('__init__', 'cli', path.parent.name))
    definitions: Counter[str] = Counter()
    constants: Counter[tuple[str, str]] = Counter()
    for name, path in modules().items():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.name[0] != '_'):
                definitions[node.name] += 1
            elif isinstance(node, ast.Assign):
                constants.update((name, target.id) for target in node.targets if isinstance(target, ast.Name))
    assert not [name for actual in (stems, definitions, constants) for name, count in actual.items() if count > 1]


def test_a_name_says_what_it_holds() -> None:
    """Not that it is some one: of assigned names and arguments, at most 1 % are pronouns or participles alone."""
    words = re.compile(
        'one|found|told|own|given|place|known|held|said|there|kept|way|some|others|left|each|every|places|named|listed|'
        'rest|both|first|here|then|now|what|why|seen|wanted|theirs|ours|mine|another|further|alone'
    )
    nodes = [node for path in modules().values() for node in ast.walk(parsed(path))]
    names = [node.arg for node in nodes if isinstance(node, ast.arg) and node.arg not in ('self', 'cls')]
    names += [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    pronouns = Counter(filter(words.fullmatch, names))
    assert sum(pronouns.values()) <= 0.01 * len(names), pronouns


def test_files_are_written_whole() -> None:
    """What is read again later is written by ``utils.files``: a kill or a full disk leaves no half of it."""
    writing = re.compile(
        r"(?m)^(?!\s*[\"'#]).*(?:\.write_(?:text|bytes)\(|open\([^)]*['\"][wx]b?['\"]|imwrite\(|json\.dump\(|\btorch\.save\()"
    )
    actual = {name: writing.findall(path.read_text(encoding='utf-8')) for name, path in modules().items()}
    assert [name for name, lines in actual.items() if lines] == ['mmdistill_dense.utils.files']


def test_no_test_file_imports_another() -> None:
    """What two of them share stands in a helper beside the nearer one."""
    pattern = re.compile(r'(?m)^\s*(?:from|import) tests[.\w]*(?:\.test_| import .*\btest_)')
    texts = {
        path.name: path.read_text(encoding='utf-8')
        for path in (ROOT / 'tests').rglob('*.py')
        if 'data' not in path.parts
    }
    assert not [name for name, text in texts.items() if pattern.search(text)]


def test_no_module_is_long() -> None:
    lengths = {name: len(path.read_text(encoding='utf-8').splitlines()) for name, path in modules().items()}
    assert not {name: count for name, count in lengths.items() if count > MAX_LINES}


@pytest.mark.parametrize('folder', MOST_LINES)
def test_no_folder_grows(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob('*.py'))
    actual = [path for path in paths if not {'__pycache__', 'data'} & {*path.relative_to(ROOT).parts}]
    assert sum(len(path.read_text(encoding='utf-8').splitlines()) for path in actual) <= MOST_LINES[folder]


def test_no_room_is_without_a_number() -> None:
    rooms = [f'mmdistill_dense/{name.replace(".", "/")}' for name in PLACES]
    assert {name for name in rooms if (ROOT / name).is_dir()} <= MOST_LINES.keys()
    assert len(list((ROOT / 'configs').rglob('*.py'))) <= MOST_CONFIGS


def test_the_page_shows_the_layers() -> None:
    text = PAGE.read_text(encoding='utf-8')
    shown = [f'| {len(LAYERS) - number} | {", ".join(f"`{name}`" for name in row)} |'
             for number, row in enumerate(reversed(LAYERS))]  # fmt: skip
    assert all(line in text for line in shown), 'write into docs/architecture.md:\n' + '\n'.join(shown)
