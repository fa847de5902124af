"""All names that users write, one a line: imports, registered classes, options, command lines, configs, suites.

``python tests/public_names.py > names.txt`` lists those of the package that is on the path.
"""

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import mmdistill_dense
from mmdistill_dense import registry
from mmdistill_dense.__main__ import COMMANDS, fill
from mmdistill_dense.apps.suite.definition import Definition, Method
from mmdistill_dense.config.resolve import TEACHER_OPTIONS, package_root
from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.distillers.maskd.learning import LearnOptions
from mmdistill_dense.distillers.pcd.modules import HEAD
from mmdistill_dense.distillers.schedule import Balance, Schedule
from mmdistill_dense.networks.acceleration import Acceleration
from mmdistill_dense.unlabelled.step import UnlabelledOption

ROOT = Path(mmdistill_dense.__file__).parents[1]
_NAME = r'mmdistill_dense(?:\.\w+)+'
_IMPORT = re.compile(r'from (mmdistill_dense[\w.]*) import \(?([\w, ]+)')


def resolve(name: str) -> Any:
    """Import what a dotted name names; a ``LookupError`` where it is not there."""
    parts = name.split('.')
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module('.'.join(parts[:count]))
            for part in parts[count:]:
                found = getattr(found, part)
            return found
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                raise
        except AttributeError as error:
            raise LookupError(name) from error
    raise LookupError(name)


def exists(name: str) -> bool:
    try:
        return resolve(name) is not None
    except LookupError:
        return False


def imports() -> Iterator[str]:
    """What the documents name, with all that a module of ``docs/api`` lists or defines."""
    text = '\n'.join(path.read_text(encoding='utf-8') for path in [*ROOT.glob('docs/**/*.md'), ROOT / 'README.md'])
    named = {*re.findall(_NAME, text)}
    for module, names in _IMPORT.findall(text):
        named |= {f'{module}.{name.split(" as ")[0].strip()}' for name in names.split(',') if name.strip()}
    for name in filter(exists, sorted(named | {mmdistill_dense.__name__})):
        yield name
        found = resolve(name)
        if isinstance(found, ModuleType):
            listed = getattr(found, '__all__', None) or [
                one for one, value in vars(found).items() if getattr(value, '__module__', '') == name and one[0] != '_'
            ]
            yield from (f'{name}.{one}' for one in listed)


def classes() -> Iterator[tuple[str, str, Any]]:
    """The registry's name, the class's, and the class."""
    for module in pkgutil.walk_packages(mmdistill_dense.__path__, 'mmdistill_dense.'):
        if '__main__' not in module.name:
            importlib.import_module(module.name)
    for name, found in vars(registry).items():
        if name.isupper() and hasattr(found, 'module_dict'):
            yield from ((name, key, kind) for key, kind in found.module_dict.items()
                        if kind.__module__.startswith('mmdistill_dense'))  # fmt: skip


def options() -> Iterator[str]:
    for _, name, kind in classes():
        known = options_of(kind) if inspect.isclass(kind) else list(inspect.signature(kind).parameters)
        yield from (f'{name}.{one}' for one in known or () if one != 'self')
    nested = {'schedule': Schedule, 'balance': Balance, 'learn': LearnOptions, 'accelerate': Acceleration,
              'unlabelled': UnlabelledOption}  # fmt: skip
    yield from (f'{key}.{one.name}' for key, kind in nested.items() for one in fields(kind))
    yield from (f'teacher.{name}' for name in TEACHER_OPTIONS)
    yield from (f'head.{name}' for name in HEAD)


def words(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    """The options of a command and their choices, places by their number, and those of its commands."""
    yield name
    places = 0
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for key, inner in action.choices.items():
                yield from words(inner, f'{name} {key}')
            continue
        places += not action.option_strings
        for option in action.option_strings or [f'place {places}']:
            yield from (f'{name} {option} {choice}'.rstrip() for choice in ['', *(action.choices or ())])


def names() -> set[str]:
    found = {f'import {name}' for name in imports()}
    found |= {f'class {place} {name}' for place, name, _ in classes()}
    found |= {f'option {name}' for name in options()}
    for command in COMMANDS:
        found |= {f'command {one}' for one in words(fill(argparse.ArgumentParser(), command), command)}
    folder = package_root('mmdistill_dense') / 'configs'
    found |= {f'config {path.relative_to(folder)}' for path in folder.rglob('*.py')}
    found |= {f'suite {one.name}' for one in fields(Definition)} - {'suite path', 'suite task'}
    return found | {f'row {one.name}' for one in fields(Method)} - {'row name', 'row options_file'}


if __name__ == '__main__':
    sys.stdout.write(''.join(f'{name}\n' for name in sorted(names())))
