"""Finds configs, our config fragments and published weights by name, without ``mmengine.hub``.

``mmengine.hub`` and ``_base_ = 'mmseg::…'`` look packages up by distribution name and fail (or install another package)
where the maintained forks are used; here a name is resolved through the imported package's own folder.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

DISTILL_KEYS = (
    'type',
    'student',
    'teacher',
    'distillers',
    'inherit',
)  # of a DistillModel config; others: the student's

_HASHED_NAME = re.compile(r'-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$')


@dataclass
class ModelConfig:
    """A resolved network: its model dict, the scope it is built in and where it came from."""

    model: ConfigDict
    scope: str | None
    source: str | None


def package_root(package: str) -> Path:
    """Return the folder that holds a package's ``configs``: ``<package>/.mim`` of an installation, or its checkout.

    Raises:
        ModuleNotFoundError: When the package is not installed.
        FileNotFoundError: When it carries no configs.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f'{package!r} (the part before "::") is not an installed package.')
    folder = Path(next(iter(spec.submodule_search_locations)))
    for root in (folder / '.mim', folder.parent):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(
        f'The installed {package} carries no configs ({folder / ".mim"} is missing); install it with mim.'
    )


def find_config(name: str, key: str = 'cfg') -> Path:
    """Return the path of a config given as ``'package::folder/file.py'`` (``.py`` may be left out) or as a file.

    Args:
        name: The name or path; a relative path means the working folder.
        key: The config key to name in an error.

    Raises:
        FileNotFoundError: With close names of the same package.
    """
    if '::' not in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"{key}={name!r}: no such file (looked in {Path.cwd()}); a zoo config is named 'mmseg::…'."
            )
        return path
    package, _, rest = name.partition('::')
    configs = package_root(package) / 'configs'
    path = configs / (rest if rest.endswith('.py') else f'{rest}.py')
    if not path.is_file():
        known = [str(file.relative_to(configs)) for file in configs.rglob('*.py')]
        close = difflib.get_close_matches(str(path.relative_to(configs)), known, n=3)
        hint = f' Close: {", ".join(f"{package}::{c}" for c in close)}.' if close else ''
        raise FileNotFoundError(f'{key}={name!r}: {package} has no such config.{hint}')
    return path


def base(name: str) -> str:
    """Return the path of a config or fragment for a ``_base_`` list in any folder.

    Use it as
    ``_base_ = __import__('mmdistill_dense.zoo', fromlist=['x']).base('mmdistill_dense::_base_/distillers/….py')``.
    """
    return str(find_config(name, '_base_'))


def load_model(option: Mapping[str, Any], key: str) -> ModelConfig:
    """Resolve a network option: ``cfg`` names a config, every other key is merged over its model.

    Args:
        option: ``dict(cfg=…, **overrides)`` or a full model dict with ``type``.
        key: ``'student'`` or ``'teacher'``, for errors.

    Raises:
        KeyError: When the option holds neither ``cfg`` nor ``type``, or the named config has no ``model``.
        FileNotFoundError: When the named config does not exist.
    """
    overrides = ConfigDict({name: value for name, value in option.items() if name != 'cfg'})
    if option.get('cfg') is None:
        if 'type' not in overrides:
            raise KeyError(
                f"{key}: give cfg='mmseg::…' (or a file), or a whole model dict with its type; got {sorted(option)}."
            )
        scope = overrides.pop('_scope_', None) or _default_scope()
        return ModelConfig(overrides, scope, None)
    path = find_config(option['cfg'], f'{key}.cfg')
    config = Config.fromfile(path)
    if 'model' not in config:
        raise KeyError(f'{key}.cfg={option["cfg"]!r} has no key model.')
    model = config.model
    if is_distill_model(model):
        # A pair or a leaf stands for its student, so that a distilled student can teach the next one.
        model = load_model(student_option(model), 'model.student').model
    if 'data_preprocessor' in config:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    model = merge(model, overrides)
    scope = model.pop('_scope_', None) or config.get('default_scope') or _default_scope()
    return ModelConfig(model, scope, option['cfg'])


def is_distill_model(model: Any) -> bool:
    """Tell whether a model config is a ``DistillModel``."""
    kind = model.get('type') if isinstance(model, Mapping) else None
    return getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1] == 'DistillModel'


def is_single_teacher(option: Mapping[str, Any]) -> bool:
    """Tell whether ``model.teacher`` is one teacher, and no dict of several by name."""
    return 'cfg' in option or 'type' in option or not all(isinstance(one, Mapping) for one in option.values())


def student_option(model: Mapping[str, Any]) -> Any:
    """Return the student of a ``DistillModel`` config, every other key of the model merged over it."""
    keys = {name: value for name, value in model.items() if name not in DISTILL_KEYS}
    return merge(model['student'], keys)


def merge(model: Any, overrides: Mapping[str, Any]) -> Any:
    """Return ``model`` with ``overrides`` merged in, as mmengine's ``_base_`` does, with three rules of ours.

    A dict whose ``type`` differs replaces the old one whole; members of a list are changed by ``{'0': dict(…)}``; a
    dict with ``_delete_=True`` replaces. Neither argument is changed.

    Raises:
        KeyError: For a list member that does not exist.
    """
    if not isinstance(overrides, Mapping):
        return overrides
    overrides = dict(overrides)
    replaces = overrides.pop('_delete_', False)
    if isinstance(model, (list, tuple)) and overrides and all(str(name).isdigit() for name in overrides):
        members = list(model)
        for name, value in overrides.items():
            if int(name) >= len(members):
                raise KeyError(f'override of member {name} of a list of {len(members)}')
            members[int(name)] = merge(members[int(name)], value)
        return members
    same_type = isinstance(model, Mapping) and overrides.get('type', model.get('type')) == model.get('type')
    if replaces or not same_type:
        return ConfigDict({name: merge(None, value) for name, value in overrides.items()})
    merged = ConfigDict(model)
    for name, value in overrides.items():
        merged[name] = merge(merged.get(name), value)
    return merged


def _default_scope() -> str | None:
    scope = DefaultScope.get_current_instance()
    return scope.scope_name if scope is not None else None


def published_weights(name: str) -> str:
    """Return the address of the weights that a package's own metafiles publish for a config.

    Args:
        name: ``'package::folder/file.py'``.

    Raises:
        ValueError: When ``name`` is no zoo name, or the package publishes no (single) file for it.
    """
    if '::' not in name:
        raise ValueError(
            f"checkpoint='auto' needs a zoo config such as 'mmseg::…', got cfg={name!r}; give the file instead."
        )
    package, _, rest = name.partition('::')
    config = 'configs/' + (rest if rest.endswith('.py') else f'{rest}.py')
    urls = _published(package).get(config, [])
    if len(urls) != 1:
        found = 'publishes no weights' if not urls else f'publishes {len(urls)} files ({", ".join(urls)})'
        raise ValueError(
            f"checkpoint='auto': {package} {found} for {config}; give the file or its address as checkpoint."
        )
    return urls[0]


@cache
def _published(package: str) -> dict[str, list[str]]:
    root = package_root(package)
    table: dict[str, list[str]] = {}
    for metafile in _read_yaml(root / 'model-index.yml')['Import']:
        if not (root / metafile).is_file():
            continue
        content = _read_yaml(root / metafile)
        for model in content.get('Models', content) if isinstance(content, dict) else content:
            weights = model.get('Weights') or []
            urls = table.setdefault(model.get('Config', ''), [])
            urls.extend(url for url in ([weights] if isinstance(weights, str) else weights) if url not in urls)
    return table


def _read_yaml(path: Path) -> Any:
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    return yaml.load(path.read_text(encoding='utf-8'), Loader=loader)


def local_file(checkpoint: str, config: str | None, key: str) -> Path:
    """Return the local file of a checkpoint option, downloading it when it is an address, its hash verified.

    Args:
        checkpoint: A file, an ``http(s)`` address whose content is promised (:func:`promised_hash`), or ``'auto'``.
        config: The config's zoo name, which ``'auto'`` needs.
        key: The config key to name in an error, e.g. ``'teacher.checkpoint'``.

    Raises:
        FileNotFoundError: For a missing file.
        ValueError: For an address that promises no hash, when the content does not have the promised one, or ``'auto'``
            finds nothing.
        OSError: When a download fails.
    """
    if checkpoint == 'auto':
        checkpoint = published_weights(config or '')
    if re.match(r'https?://', checkpoint):
        promised = promised_hash(checkpoint)
        if promised is None:
            raise ValueError(
                f'{key}={checkpoint!r}: nothing says what this address must hold. Add the SHA-256 of the file to it '
                '(…#sha256=<hexadecimal digits>), or download the file, check it and give its path.'
            )
        folder = Path(os.getenv('MMDISTILL_CACHE', Path.home() / '.cache' / 'mmdistill_dense')) / 'checkpoints'
        path = download(checkpoint, folder, key)
    else:
        path = Path(checkpoint).expanduser()
        promised = promised_hash(path.name)
        if not path.is_file():
            raise FileNotFoundError(f'{key}={checkpoint!r}: no such file (working folder {Path.cwd()}).')
    check_promise(path, promised, key)
    return path


def promised_hash(address: str) -> str | None:
    """Return the beginning of the SHA-256 that a name (``…-1a2b3c4d.pth``) or an address (``…#sha256=…``) promises.

    Raises:
        ValueError: When what follows ``#sha256=`` is no hash.
    """
    path, fragment, given = address.partition('#sha256=')
    if fragment and not re.fullmatch(r'[0-9a-fA-F]{8,64}', given):
        raise ValueError(f'{address!r}: #sha256= is followed by 8 to 64 hexadecimal digits, not by {given!r}.')
    named = _HASHED_NAME.search(urlsplit(path).path)
    return given.lower() or (named[1] if named else None)


def check_promise(path: Path, promised: str | None, key: str) -> None:
    """Check that a file has the SHA-256 that was promised, where one was.

    Raises:
        ValueError: When it has another.
    """
    if promised and not sha256(path).startswith(promised):
        raise ValueError(
            f'{key}={str(path)!r}: the content has SHA-256 {sha256(path)[:8]}…, its name promises {promised}: '
            'the file is damaged or not what it says. Delete it and fetch it again, or rename it if you made it.'
        )


def download(url: str, folder: Path, key: str) -> Path:
    """Fetch an address into a folder, unless a file of its name is there; the content is checked as it arrives.

    Raises:
        OSError: When that fails, or the content has not the promised SHA-256.
    """
    from torch import hub

    address = url.partition('#')[0]
    path = folder / Path(urlsplit(address).path).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            hub.download_url_to_file(address, str(path), hash_prefix=promised_hash(url))
        except (OSError, RuntimeError) as error:
            raise OSError(
                f'{key}: could not fetch {address} ({error}). Download it elsewhere and give the file.'
            ) from error
    return path


@cache
def _sha256(path: str, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    stat = path.stat()
    return _sha256(str(path.absolute()), stat.st_size, stat.st_mtime_ns)
