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
from mmdistill_dense.apps.suite.definition import Definition, RowKeys
from mmdistill_dense.config.resolve import TEACHER_OPTIONS, package_root
from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.distillers.maskd.learning import LearnOptions
from mmdistill_dense.distillers.pcd.modules import HEAD
from mmdistill_dense.distillers.schedule import Schedule
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
            actual: Any = importlib.import_module('.'.join(parts[:count]))
            for part in parts[count:]:
                actual = getattr(actual, part)
            return actual
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
    dotted_names = {*re.findall(_NAME, text)}
    for module, names in _IMPORT.findall(text):
        dotted_names |= {f'{module}.{name.split(" as ")[0].strip()}' for name in names.split(',') if name.strip()}
    for name in filter(exists, sorted(dotted_names | {mmdistill_dense.__name__})):
        yield name
        actual = resolve(name)
        if isinstance(actual, ModuleType):
            exported = getattr(actual, '__all__', None) or [
                key for key, value in vars(actual).items() if getattr(value, '__module__', '') == name and key[0] != '_'
            ]
            yield from (f'{name}.{member}' for member in exported)


def classes() -> Iterator[tuple[str, str, Any]]:
    """The registry's name, the class's, and the class."""
    for module in pkgutil.walk_packages(mmdistill_dense.__path__, 'mmdistill_dense.'):
        if '__main__' not in module.name:
            importlib.import_module(module.name)
    for name, member in vars(registry).items():
        if name.isupper() and hasattr(member, 'module_dict'):
            yield from ((name, key, kind) for key, kind in member.module_dict.items()
                        if kind.__module__.startswith('mmdistill_dense'))  # fmt: skip


def options() -> Iterator[str]:
    for _, name, kind in classes():
        options = options_of(kind) if inspect.isclass(kind) else list(inspect.signature(kind).parameters)
        yield from (f'{name}.{option}' for option in options or () if option != 'self')
    nested = {'schedule': Schedule, 'learn': LearnOptions, 'accelerate': Acceleration, 'unlabelled': UnlabelledOption}
    yield from (f'{key}.{field.name}' for key, kind in nested.items() for field in fields(kind))
    yield from (f'teacher.{name}' for name in TEACHER_OPTIONS)
    yield from (f'head.{name}' for name in HEAD)


def words(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    """The options of a command and their choices, places by their number, and those of its commands."""
    yield name
    class_count = 0
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for key, inner in action.choices.items():
                yield from words(inner, f'{name} {key}')
            continue
        class_count += not action.option_strings
        for option in action.option_strings or [f'place {class_count}']:
            yield from (f'{name} {option} {choice}'.rstrip() for choice in ['', *(action.choices or ())])


def names() -> set[str]:
    actual = {f'import {name}' for name in imports()}
    actual |= {f'class {module_name} {name}' for module_name, name, _ in classes()}
    actual |= {f'option {name}' for name in options()}
    for command in COMMANDS:
        actual |= {f'command {word}' for word in words(fill(argparse.ArgumentParser(), command), command)}
    folder = package_root('mmdistill_dense') / 'configs'
    actual |= {f'config {path.relative_to(folder)}' for path in folder.rglob('*.py')}
    actual |= {f'suite {field.name}' for field in fields(Definition)} - {'suite path', 'suite task'}
    return actual | {f'row {field.name}' for field in fields(RowKeys)}


if __name__ == '__main__':
    sys.stdout.write(''.join(f'{name}\n' for name in sorted(names())))
