"""Compose configs from recipes and method options.

A *recipe* (``configs/_base_/recipes/*.py``) is the student alone: pair, data set, schedule and runtime. *Method
options* (``configs/_base_/distillers/<method>[_…].py``) are one method with its constants. Their line ``# fits: …``
names the pairs they fit, see :mod:`~mmdistill_dense.apps.recipes.named`. The config of a method is a recipe plus
options, so a method differs from its control in nothing but its distillers.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mmdistill_dense.config.resolve import TASKS, all_bases_of, bases_of, keys_of, package_root, read_file, teachers_of
from mmdistill_dense.utils.literals import Source, Template, assignments, literal
from mmdistill_dense.utils.validate import close_or_all
from mmdistill_dense.utils.version import removed

KINDS = ('seg', 'det', 'pretrain')
_SIDES = ('pair', 'teacher', 'student', 'data')


class Fit(NamedTuple):
    tasks: tuple[str, ...]
    words: list[tuple[str, str]]  # each with its side
    variant: str | None
    maps: bool = False


def header_remark(file: Path, word: str) -> str | None:
    """Return what the line ``# word: …`` of a file says, None without one."""
    line = re.search(rf'^# {word}: (.+)$', file.read_text(encoding='utf-8'), re.MULTILINE)
    return line[1] if line else None


def fit_of(path: Path) -> Fit:
    line = header_remark(path, 'fits')
    if line is None:
        raise ValueError(f"{path}: no line says what these options fit; add one such as '# fits: seg, teacher r101'.")
    tasks, words, variant, maps = list[str](), list[tuple[str, str]](), None, False
    for item in line.split(','):
        key, *arguments = item.split()
        if key in KINDS and not arguments:
            tasks.append(key)
        elif key == 'variant' and len(arguments) == 1:
            variant = arguments[0]
        elif item.strip() == 'maps':
            maps = True
        elif key in _SIDES and arguments:
            words += [(key, word) for word in arguments]
        else:
            choices = ', '.join([*KINDS, *(f"'{side} …'" for side in _SIDES), "'variant …'", 'maps'])
            raise ValueError(f"{path}: unknown item {item.strip()!r} in '# fits: {line}'; known: {choices}.")
    return Fit(tuple(tasks), words, variant, maps)


def best(
    files: list[Path], pair: str, task: str, variant: str | None = None, maps: bool = False, several: bool | None = None
) -> Path | None:
    """Return the file of this variant that fits a pair best.

    ``maps`` tells whether its teacher gives maps alone, ``several`` whether it has several teachers (None: if the word
    ``and`` is in its name).
    """
    words = pair.split('_')
    several = 'and' in words if several is None else several
    teacher = student = words
    if 'to' in words:
        teacher, student = words[: words.index('to')], words[words.index('to') + 1 :]
    elif 'from' in words:
        student, teacher = words[: words.index('from')], words[words.index('from') + 1 :]
    sides = {'pair': words, 'teacher': teacher, 'student': student, 'data': student}
    ranked: dict[tuple[int, int], list[Path]] = {}
    for path in files:
        fit = fit_of(path)
        asked = [word for _, word in fit.words]
        alike = (fit.variant, fit.maps, 'and' in asked) == (variant, maps, several) and set(fit.tasks) <= {task}
        rests = {side: iter(words) for side, words in sides.items()}  # a search consumes what it passes
        if alike and all(any(choice in word.split('|') for choice in rests[side]) for side, word in fit.words):
            ranked.setdefault((len(asked), len(fit.tasks)), []).append(path)
    matches = ranked[max(ranked)] if ranked else []
    if len(matches) > 1:
        names = ' and '.join(path.name for path in matches)
        raise ValueError(f"{names} fit {pair} equally well; one of them needs one more word in its line '# fits: …'.")
    return matches[0] if matches else None


# Each part of a recipe is recognised by this key, which the part or a file it inherits sets.
_KEYS = {'pair': 'model', 'dataset': 'train_dataloader', 'schedule': 'optim_wrapper', 'runtime': 'default_scope'}


class Parts(NamedTuple):
    """Names of the files of a recipe, without ``.py``; what its teachers are, as for :func:`best`.

    A file with the line ``# pair: …`` holds a pair, and methods are chosen by the words of that line.
    """

    pair: str
    dataset: str
    schedule: str
    runtime: str
    task: str
    maps: bool
    several: bool


def configs() -> Path:
    """Return this package's folder of configs, in the checkout or in the installed wheel."""
    return package_root('mmdistill_dense') / 'configs'


def methods() -> list[str]:
    """Return the names of all methods: the first words in the names of the option files."""
    return sorted({path.stem.split('_')[0] for path in option_files()})


def option_files(method: str | None = None) -> list[Path]:
    """Return the files of method options, of one method or of all, except parts of others, which begin with ``_``."""
    files = sorted((configs() / '_base_' / 'distillers').glob(f'{method}[_.]*py' if method else '[!_]*.py'))
    if method and not files:
        raise KeyError(unknown('method', method, methods()))
    return files


def recipes(pretraining: bool = False) -> list[Path]:
    """Return the recipes with labels, or those for pre-training; not files with one base, which only change another."""
    files = [path for path in sorted((configs() / '_base_' / 'recipes').glob('*.py')) if len(bases_of(path)) > 1]
    return [path for path in files if (parts_of(path).task == 'pretrain') == pretraining]


def recipe_file(recipe: Path | str) -> Path:
    """Return the file of a recipe, given as a file or by its name in ``configs/_base_/recipes``."""
    path = Path(recipe)
    if path.suffix == '.py' and path.is_file():
        return path.resolve()
    folder = configs() / '_base_' / 'recipes'
    file = folder / f'{path.stem if path.suffix == ".py" else path.name}.py'
    if not file.is_file():
        raise KeyError(unknown('recipe', str(recipe), {path.stem for path in folder.glob('*.py')}))
    return file


def owners(recipe: Path) -> tuple[str, ...]:
    """Return the methods in a recipe's line ``# method: …``, whose published schedule it holds; none for the usual."""
    line = header_remark(recipe, 'methods?')
    return tuple(line.split(', ')) if line else ()


def parts_of(recipe: Path | str) -> Parts:
    """Return the names of a recipe's parts, each known by the keys that it or a base of it sets, and its task."""
    path = recipe_file(recipe)
    recipes = [path]
    while len(bases := [*filter(Path.is_file, bases_of(recipes[-1]))]) == 1 and bases_of(bases[0]):
        recipes.append(bases[0])  # the one recipe that it inherits, and so on
    candidates = [path, *reversed(bases)]  # the first base that sets a key stands last, and so counts
    sources = {kind: file for file in candidates for kind, key in _KEYS.items() if key in keys_of(file)}
    holders = [file for file in recipes if header_remark(file, 'pair')]  # others may inherit the pair that they change
    sources |= {'pair': holders[0]} if holders else {}
    parts = {kind: file.stem for kind, file in sources.items()}
    missing = [kind for kind in _KEYS if kind not in parts]
    scope = str(keys_of(path).get('default_scope'))
    if missing or scope not in TASKS:
        lack = ', '.join(missing) or "default_scope='mmseg' or 'mmdet'"
        needs = 'a pair (model), a data set (train_dataloader), a schedule (optim_wrapper), a runtime (default_scope)'
        raise ValueError(f'{path} is not a recipe: it has no {lack}. A recipe needs {needs}.')
    task = 'pretrain' if parts['runtime'] == 'runtime_pretrain' else TASKS[scope]
    pair = sources['pair']
    parts['pair'] = header_remark(pair, 'pair') or pair.stem
    # what resolved configs would tell is told by texts and names of our own: to resolve all pairs takes seconds
    maps, several, files = False, 'and' in pair.stem.split('_'), chain([pair], all_bases_of(pair))
    with suppress(SyntaxError):  # told where the config is read
        maps = any('mmdistill_dense.FoundationTeacher' in file.read_text(encoding='utf-8') for file in files)
    if not pair.resolve().is_relative_to(configs().resolve()):
        with suppress(Exception):  # told where the config is read
            several = len(teachers_of(read_file(pair).get('model') or {})) > 1
    return Parts(**parts, task=task, maps=maps, several=several)


def options_for(method: str, recipe: Path | str | Parts, variant: str | None = None) -> Path | None:
    """Return the file of a method's options that fits a recipe best, or None. Variants are used only by name."""
    parts = recipe if isinstance(recipe, Parts) else parts_of(recipe)
    return best(option_files(method), parts.pair, parts.task, variant, parts.maps, parts.several)


def fitting_methods(recipe: Path) -> list[str]:
    parts = parts_of(recipe)
    return [method for method in methods() if options_for(method, parts)]


def config_text(method: str, recipe: Path | str, options: Path | str, folder: Path) -> str:
    """Return the text of a method's config: the recipe with the distillers of the options."""
    bases = [reference(recipe_file(recipe), folder), reference(Path(options), folder)]
    work_dir = Template(f'work_dirs/{method}/{{{{ fileBasenameNoExtension }}}}')
    return assignments({'_base_': bases, 'model': {'distillers': Source('_base_.distillers')}, 'work_dir': work_dir})


def reference(path: Path, folder: Path) -> Source:
    path, folder, root = path.resolve(), folder.resolve(), configs().resolve()
    if path.is_relative_to(root) and not folder.is_relative_to(root):
        name = f'mmdistill_dense::{path.relative_to(root).as_posix()}'
        return Source(f"__import__('mmdistill_dense').base({literal(name)})")
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return Source(literal(relative if relative.startswith('.') else f'./{relative}'))


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    return (kind == 'method' and removed(name)) or f'{kind} {name!r}: unknown. {close_or_all(name, choices)}'
