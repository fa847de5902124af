"""Read definitions in Python, YAML or JSON. Errors name the file, the key and what would work."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmdistill_dense.apps.recipes.named import Named, find, is_name
from mmdistill_dense.config.resolve import find_config
from mmdistill_dense.utils.removed import removed
from mmdistill_dense.utils.validate import close_or_all, text_of

NAME = re.compile(r'[A-Za-z0-9][\w+.-]*')  # of rows and folders
_SIXTIES = re.compile(r'[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$')
_FLOAT = re.compile(r'[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$')
_NEEDED: Any = object()


class _Loader(yaml.SafeLoader):
    """YAML loader in which 1e-3 is a number and 24:00:00 is text, and that refuses a key that occurs twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != '<<']
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ValueError(f'line {node.start_mark.line + 1}: {", ".join(sorted(twice))} occurs twice')
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {first: list(found) for first, found in _Loader.yaml_implicit_resolvers.items()}
for _first in '-+0123456789':  # before the resolver of base 60
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, ('tag:yaml.org,2002:str', _SIXTIES))
_Loader.add_implicit_resolver('tag:yaml.org,2002:float', _FLOAT, list('-+.0123456789'))


def read_file(path: Path) -> Any:
    """Return the content of a file, merged over the files of its ``_base_`` as mmengine merges configs."""
    # mmengine's YAML loader can run code; with environment variables, the hash of a run would depend on the machine
    if not path.is_file():
        raise FileNotFoundError(f'{str(path)!r}: no such definition of a suite (working folder {Path.cwd()})')
    try:
        if path.suffix == '.py':
            return Config.fromfile(path, use_environment_variables=False).to_dict()
        text = path.read_text(encoding='utf-8')
        own = json.loads(text) if path.suffix == '.json' else yaml.load(text, Loader=_Loader)
        if not isinstance(own, Mapping) or '_base_' not in own:
            return own
        bases, merged = own['_base_'], Config()
        for base in [bases] if isinstance(bases, str) else bases:
            merged.merge_from_dict(read_file(path.parent / base))
        merged.merge_from_dict({str(key): value for key, value in own.items() if key != '_base_'})
        return merged.to_dict()
    except (yaml.YAMLError, KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from error


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put a place before the errors that are raised inside."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{place}: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{place}: {text_of(error)}') from error


class Reader:
    """Checked access to the values of a mapping, which is in ``file`` below the dotted key ``place``."""

    def __init__(self, raw: Any, file: Path, place: str = '') -> None:
        self.file, self.place = file, place
        if not isinstance(raw, Mapping):
            raise self.error('', f'must be a mapping of keys to values, got {raw!r}')
        self.raw = dict(raw)

    def at(self, key: str) -> str:
        """Return file and whole key."""
        return ': '.join(filter(None, [str(self.file), '.'.join(filter(None, [self.place, key]))]))

    def error(self, key: str, text: str) -> ValueError:
        return ValueError(f'{self.at(key)}: {text}')

    def inner(self, key: str, value: Any = None) -> Reader:
        """Return a reader of a nested mapping. By default it is the value of the key, or empty."""
        given = self.raw.get(key) or {} if value is None else value
        return Reader(given, self.file, '.'.join(filter(None, [self.place, key])))

    def only(self, known: Collection[str]) -> None:
        """Refuse unknown keys, and name similar ones."""
        for key in map(str, self.raw):
            if key not in known:
                told = removed(f'suite {".".join(filter(None, [self.place, key]))}', f'suite {key}')
                raise self.error(key, told or f'unknown key. {close_or_all(key, known)}')

    def get(self, key: str, kind: type, default: Any = _NEEDED) -> Any:
        """Return a value of a type. A key without a default is required."""
        value = self.raw.get(key)
        if value is None:
            if default is _NEEDED:
                raise self.error(key, 'missing')
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f'must be of type {kind.__name__}, got {value!r}')
        return value

    def count(self, key: str, default: int | None, least: int = 1) -> Any:
        value = self.get(key, int, default)
        if value is not None and value < least:
            raise self.error(key, f'must be at least {least}, got {value}')
        return value

    def factor(self, key: str) -> float:
        """Return a number above 0 and below 1000, by default 1."""
        value = self.raw.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1000:
            raise self.error(key, f'must be a factor above 0, got {value!r}')
        return value

    def choice(self, key: str, known: Sequence[str]) -> str:
        """Return one of several texts, by default the first."""
        value = self.get(key, str, known[0])
        if value not in known:
            raise self.error(key, f'must be {" or ".join(known)}, got {value!r}')
        return str(value)

    def options(self, key: str) -> dict[str, Any]:
        """Return settings by dotted key, as for ``--cfg-options``."""
        return {str(name): item for name, item in self.get(key, dict, {}).items()}


def config_file(place: Reader, key: str, name: str, folder: str) -> Path:
    """Return a config by its name in ``configs/<folder>``, by ``METHOD:PAIR``, or a file beside the definition."""
    inside = name if '/' in name else f'{folder}/{name}'
    with naming(place.at(key)):
        if is_name(name):
            found = find(name)
            if isinstance(found, Named):
                raise ValueError(f'{name} is not a file; write one of these lines:\n{found.text()}')
            return found
        if not name.endswith('.py'):
            return find_config(name if '::' in name else f'mmdistill_dense::{inside}', key)
        file = place.file.parent / name
        if not file.is_file():
            raise FileNotFoundError(f'no file {str(file)!r}; paths are relative to the definition')
    return file
