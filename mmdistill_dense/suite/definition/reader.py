"""Reads YAML with errors that name the file, the key and what would work."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.recipes.named import Named, find, is_name
from mmdistill_dense.utils.messages import close_or_all

NAME = re.compile(r'[A-Za-z0-9][\w+.-]*')  # of rows and folders
_SIXTIES = re.compile(r'[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$')
_FLOAT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$')
_NEEDED: Any = object()


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text, 24:00:00 as a number, and lets the last of two equal keys win; a person does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != '<<']
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f'line {node.start_mark.line + 1}: {", ".join(sorted(twice))} stands there twice')
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {first: list(found) for first, found in _Loader.yaml_implicit_resolvers.items()}
for _first in '-+0123456789':  # before what knows base 60
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, ('tag:yaml.org,2002:str', _SIXTIES))
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, list('-+.0123456789'))


def read_yaml(path: Path) -> Any:
    """Read a file.

    Raises:
        FileNotFoundError: When it is not there.
        ValueError: When it is no YAML, or names a key twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{str(path)!r}: no such definition of a suite (working folder {Path.cwd()})')
    try:
        return yaml.load(path.read_text(encoding='utf-8'), Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from error


class Reader:
    """A mapping of a file whose values are asked for by key and kind.

    Args:
        raw: The mapping.
        file: Where it stands.
        place: Its key in the file, with dots; empty for the whole file.
    """

    def __init__(self, raw: Any, file: Path, place: str = '') -> None:
        self.file = file
        self.place = place
        if not isinstance(raw, Mapping):
            raise self.error('', f'must hold keys with values, got {raw!r}')
        self.raw = dict(raw)

    def error(self, key: str, text: str) -> ValueError:
        """Return an error that names the place."""
        place = '.'.join(filter(None, [self.place, key]))
        return ValueError(f'{self.file}: {place}: {text}' if place else f'{self.file}: {text}')

    def missing(self, key: str, text: str) -> FileNotFoundError:
        """Return an error that names the place, for a file that is not there."""
        return FileNotFoundError(str(self.error(key, text)))

    def inner(self, key: str, value: Any) -> Reader:
        """Return the reader of a value that is a mapping itself."""
        return Reader(value, self.file, '.'.join(filter(None, [self.place, key])))

    def only(self, known: Collection[str]) -> None:
        """Refuse unknown keys, with close ones."""
        for key in self.raw:
            if key not in known:
                raise self.error(str(key), f'unknown. {close_or_all(str(key), known)}')

    def get(self, key: str, kind: type, default: Any = _NEEDED) -> Any:
        """Return a value of a kind; without a default it must be there."""
        value = self.raw.get(key)
        if value is None:
            if default is _NEEDED:
                raise self.error(key, 'missing')
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f'must be of type {kind.__name__}, got {value!r}')
        return value

    def count(self, key: str, default: int | None, least: int = 1) -> int | None:
        """Return an integer that is not too small."""
        value = self.get(key, int, default)
        if value is not None and value < least:
            raise self.error(key, f'must be at least {least}, got {value}')
        return value

    def integers(self, key: str, default: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return different integers of at least 0."""
        values = self.get(key, list, _NEEDED if default is None else list(default))
        whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
        if not values or not whole or len(set(values)) != len(values):
            raise self.error(key, f'must be different integers from 0 on, as in [0, 1, 2]; got {values!r}')
        return tuple(values)

    def options(self, key: str) -> dict[str, Any]:
        """Return settings by dotted key, as ``--cfg-options`` takes them."""
        value = self.get(key, dict, {})
        return {str(name): item for name, item in value.items()}


def named(place: Reader, key: str, name: str) -> Path | Named:
    """Return what ``METHOD:PAIR[:VARIANT]`` stands for.

    Raises:
        ValueError: For a name of which a part is unknown, or whose parts do not fit together.
    """
    try:
        return find(name)
    except KeyError as error:
        raise place.error(key, error.args[0]) from error


def config_file(place: Reader, key: str, name: str, folder: str) -> Path:
    """Return a config by its name in ``configs/<folder>``, by ``METHOD:PAIR``, or a file beside the definition.

    Raises:
        FileNotFoundError: With close names.
        ValueError: For ``METHOD:PAIR`` without a file.
    """
    if is_name(name):
        found = named(place, key, name)
        if isinstance(found, Named):
            raise place.error(
                key, f'{name} is no file; write it: python tools/new_config.py --all --method {found.method}'
            )
        return found
    if name.endswith('.py'):
        file = place.file.parent / name
        if not file.is_file():
            raise place.missing(key, f'no file {str(file)!r} (it is looked for beside the definition)')
        return file
    inside = name if '/' in name else f'{folder}/{name}'
    try:
        return find_config(name if '::' in name else f'mmdistill_dense::{inside}', key)
    except FileNotFoundError as error:
        raise place.missing(key, str(error)) from error
