"""Configs: found by name, read with what they inherit, and the networks in them resolved, without mmengine.hub."""

import ast
import copy
import difflib
import importlib.util
import os
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope

from mmdistill_dense.config.values import flat, type_name
from mmdistill_dense.utils.files import expand_user
from mmdistill_dense.utils.literals import Source


def bases_of(path: Path) -> list[Path]:
    """Return the files in a config's ``_base_``, evaluated as mmengine does."""
    return list(_bases_of(path, path.stat().st_mtime_ns))


@cache
def _bases_of(path: Path, modified: int) -> list[Path]:
    value: Any = []
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets):
            value = eval(compile(ast.Expression(node.value), str(path), 'eval'))
    names = [value] if isinstance(value, str) else value
    return [(path.parent / name.replace('{{ fileDirname }}', str(path.parent))).resolve() for name in names]


def all_bases_of(path: Path) -> Iterator[Path]:
    """Yield the files that a config inherits, near ones first; a base of another package (``mmdet::…``) is no file."""
    queue = bases_of(path)
    while queue:
        file = queue.pop(0)
        if file.is_file():
            yield file
            queue += bases_of(file)


def keys_of(path: Path) -> dict[str, Any]:
    """Return the top-level keys of a config, inherited ones too, with the values as :func:`written` reads them."""
    return _keys_of(path, path.stat().st_mtime_ns)


@cache
def _keys_of(path: Path, modified: int) -> dict[str, Any]:
    bases = bases_of(path)
    # a base such as 'mmdet::…' is no path; a config of Python style has imports in its place
    if not all(base.is_file() for base in bases) or Config._is_lazy_import(str(path)):
        return dict(Config.fromfile(str(path)))
    keys: dict[str, Any] = {}
    for base in bases:
        keys |= keys_of(base)
    return keys | written(path.read_text(encoding='utf-8'))


def distillers_in(path: Path) -> set[str]:
    """Return the names of the distillers that a file itself writes, below ``model`` or as a fragment does."""
    config: Any = written(path.read_text(encoding='utf-8'))
    model = config.get('model')
    options = config.get('distillers'), model.get('distillers') if isinstance(model, Mapping) else None
    return {name for option in options if isinstance(option, Mapping) for name in option} - {'_delete_'}


def inherited_distillers(path: Path, names: Collection[str]) -> dict[str, str]:
    """Return those of a config's distillers that it inherits beside a new one of its own, with the files they are in.

    Such a config was probably meant to swap the method; mmengine merges, so it trains those of its base too.
    """
    files = dict[str, str]()
    for file in all_bases_of(path):
        files |= dict.fromkeys(distillers_in(file), file.name)
    return {name: files[name] for name in names if name in files} if distillers_in(path) - files.keys() else {}


def written(text: Any) -> dict[str, Any]:
    """Return the values in a text without running it, an expression as its :class:`Source`; none if it is no config."""
    try:
        lines = ast.parse(text).body
    except (SyntaxError, TypeError, ValueError):
        return {}
    pairs = [(line.targets[0], line.value) for line in lines if isinstance(line, ast.Assign)]
    return {name.id: _value(value) for name, value in pairs if isinstance(name, ast.Name)}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        # dict({'a.b': 1}) is for names that are no identifiers; what dict(_base_.model) holds is not in this text
        mappings = [mapping_value for mapping in node.args if isinstance(mapping_value := _value(mapping), dict)]
        return {name: value for mapping in mappings for name, value in mapping.items()} | {
            str(word.arg): _value(word.value) for word in node.keywords
        }
    if isinstance(node, ast.Dict):
        pairs = [(_value(name), _value(value)) for name, value in zip(node.keys, node.values, strict=True) if name]
        return {tuple(name) if isinstance(name, list) else name: value for name, value in pairs}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(member) for member in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Source(ast.unparse(node))


# Names and networks


_KNOWN: ContextVar[dict[str, Config] | None] = ContextVar('_KNOWN', default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Let :func:`read_file` read each file once while this is open: for work in which no config changes."""
    token = _KNOWN.set({} if _KNOWN.get() is None else _KNOWN.get())
    try:
        yield
    finally:
        _KNOWN.reset(token)


def read_file(path: str | Path) -> Config:
    """Return the config in a file, as ``Config.fromfile`` does, for the caller to change."""
    cache, key = _KNOWN.get(), os.path.abspath(path)
    if cache is not None and key in cache:
        return copy.deepcopy(cache[key])
    try:
        config = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{broken_file(error) or path}: line {error.lineno} is no Python: {error.msg}.') from error
    if cache is not None:
        cache[key] = copy.deepcopy(config)
    return config


def broken_file(error: SyntaxError) -> str | None:
    """Return the file in which mmengine found a syntax error, or ``None`` if it cannot be told.

    mmengine parses the text of a file without its name, so the error has none. The functions that read a config, one
    within the other for each level of bases, hold it as ``filename``.
    """
    if error.filename and Path(error.filename).is_file():
        return error.filename
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if 'filename' in frame.f_locals]
    readers = [frame for frame in frames if frame.f_globals.get('__name__') == 'mmengine.config.config']
    return str(readers[-1].f_locals['filename']) if readers else None


def without_pretrained(model: Any) -> Any:
    """Return a copy of a model config without the options that load pre-trained weights."""
    if isinstance(model, Mapping):
        options = {}
        for name, value in model.items():
            if name in ('pretrained', 'teacher_ckpt'):  # the second belongs to mmdet's own distilling detectors
                value = None
            elif name == 'init_cfg' and isinstance(value, (list, tuple)):
                value = [member for member in value if not _fetches(member)]
            elif (name == 'init_cfg' and _fetches(value)) or (name == 'checkpoint' and model.get('type') == _OWN_VIT):
                continue
            options[name] = without_pretrained(value)
        return options
    if isinstance(model, (list, tuple)):
        return type(model)(without_pretrained(member) for member in model)
    return model


_OWN_VIT = 'mmdistill_dense.VisionTransformer'  # names its file in `checkpoint`


def _fetches(init_cfg: Any) -> bool:
    # mmdet's PVT also loads the checkpoint of an init_cfg without a type.
    return isinstance(init_cfg, Mapping) and ('Pretrained' in str(init_cfg.get('type')) or 'checkpoint' in init_cfg)


# The keys of a DistillModel config; all others are the student's.
DISTILL_KEYS = ('type', 'student', 'teacher', 'distillers', 'inherit', 'unlabelled')
# keys of model.teacher that are not keys of its network
TEACHER_OPTIONS = (
    'checkpoint', 'allow_random', 'allow_other_classes', 'classes', 'class_names', 'accelerate', 'scale', 'fit',
)  # fmt: skip
TASKS = {'mmseg': 'seg', 'mmdet': 'det'}  # by default_scope
_PACKAGES = ('mmseg', 'mmdet', 'mmdistill_dense')


@dataclass
class ModelConfig:
    """A resolved network."""

    model: ConfigDict
    scope: str | None  # that it is built in
    source: str | None  # the config it came from
    key: str = 'model'  # of a config
    beside: Mapping[str, Any] = field(default_factory=dict)  # keys that stood beside it, and were merged over it


def package_root(package: str) -> Path:
    """Return the folder that holds a package's ``configs``: ``<package>/.mim`` where installed, or the checkout."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f'{package!r} (the part before "::") is not an installed package.')
    folder = Path(next(iter(spec.submodule_search_locations)))
    for root in (folder / '.mim', folder.parent):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(f'The installed {package} has no configs ({folder / ".mim"}): install it with mim.')


def find_config(name: str, key: str = 'cfg') -> Path:
    """Return the path of a config, named ``'package::folder/file.py'`` (``.py`` is optional) or given as a file."""
    if '::' not in name:
        path = expand_user(name)
        if not path.is_file():
            raise FileNotFoundError(f"{key}={name!r}: no such file in {Path.cwd()}, no 'mmseg::…'.{_in_zoo(name)}")
        return path
    package, _, file_name = name.partition('::')
    try:
        configs = package_root(package) / 'configs'
    except ModuleNotFoundError as error:
        begins = ', '.join(f'{prefix}::' for prefix in _PACKAGES)
        raise ModuleNotFoundError(f'{key}={name!r}: {error} Names of configs begin with {begins}.') from error
    if package == 'mmdistill_dense' and file_name.startswith('control/'):  # the folder of recipes until 0.1
        file_name = f'_base_/recipes/{file_name.removeprefix("control/")}'
    path = configs / (file_name if file_name.endswith('.py') else f'{file_name}.py')
    if not path.is_file():
        files = [file.relative_to(configs) for file in configs.rglob('*.py') if not file.stem.endswith('_tta')]
        names = [str(file) for file in files if package == 'mmdistill_dense' or '_base_' not in file.parts]
        close = difflib.get_close_matches(str(path.relative_to(configs)), names, n=3)
        zoos = [zoo for zoo in _PACKAGES if zoo != package and importlib.util.find_spec(zoo) is not None]
        zoos = [zoo for zoo in zoos if (package_root(zoo) / path.relative_to(configs.parent)).is_file()]
        hint = f' {zoos[0]} has one: {zoos[0]}::{file_name}.' if zoos else _in_zoo(file_name, (package,))
        hint = f' Close: {", ".join(f"{package}::{match}" for match in close)}.' if close else hint
        raise FileNotFoundError(f'{key}={name!r}: {package} has no such config.{hint}')
    return path


def _in_zoo(name: str, packages: Sequence[str] = ('mmseg', 'mmdet')) -> str:
    """Return the zoo configs that a word may mean: of this name, else with it in theirs."""
    word = Path(name).name.removesuffix('.py').lower()
    configs = [
        (path.stem.lower(), f'{package}::{path.relative_to(root)}')
        for package in packages
        if importlib.util.find_spec(package) is not None
        for root in [package_root(package) / 'configs']
        for path in sorted(root.rglob('*.py'))
        if '_base_' not in path.parts and not path.stem.endswith('_tta')  # which is no network
    ]
    matches = [full for stem, full in configs if stem == word]
    if not matches and not name.endswith('.py'):
        matches = sorted((full for stem, full in configs if stem.startswith(word)), key=len)[:3]
    return f' Did you mean {", ".join(matches)}?' if matches else ''


def base(name: str) -> str:
    """Return a config's path for ``_base_`` in any folder: ``__import__('mmdistill_dense').base('mmseg::….py')``."""
    return str(find_config(name, '_base_'))


def load_model(option: Mapping[str, Any], key: str) -> ModelConfig:
    """Resolve a network option, ``dict(cfg=…, **overrides)`` or a full model dict with ``type``.

    ``cfg`` names a config; all other keys are merged over its model. ``pretrained=False`` takes out all options that
    load pre-trained weights, also every ``init_cfg`` that does so. ``key`` is named in errors.
    """
    name, scope = option.get('cfg'), None
    model = ConfigDict({name: value for name, value in option.items() if name != 'cfg'})
    if name is None:
        if 'type' not in model:
            raise KeyError(f"{key}: give cfg='mmseg::…' (or a file), or a dict with its type; got {sorted(option)}.")
    elif not isinstance(name, str):
        problem = f'{key}.cfg must name a config or a file, got {type(name).__name__}'
        raise TypeError(f'{problem}: the keys of a network stand beside checkpoint, {key}=dict(type=…, checkpoint=…).')
    else:
        config = read_file(find_config(name, f'{key}.cfg'))
        if 'model' not in config:
            raise KeyError(f'{key}.cfg={name!r} has no key model.')
        base_model = config.model
        if is_distill_model(base_model):
            # Take the student of a pair or a method's config, so that a distilled student can teach the next one.
            base_model = load_model(student_option(base_model), 'model.student').model
        if config.get('data_preprocessor') is not None:
            base_model.setdefault('data_preprocessor', config.data_preprocessor)
        scope = config.get('default_scope')
        model = merge(base_model, _without_scope(model, f'{scope}.'), key)
    default = DefaultScope.get_current_instance()
    scope = model.pop('_scope_', None) or scope or (default and default.scope_name)
    last = (model.get('roi_head') or {}).get('shared_head') or {}  # the last stage of a C4 network lies in its head
    if isinstance(init := last.get('init_cfg'), Mapping) and init.get('checkpoint') == 'backbone':
        file = ((model.get('backbone') or {}).get('init_cfg') or {}).get('checkpoint')
        last['init_cfg'] = {**init, 'checkpoint': file} if file else None
    if model.get('pretrained') is False:
        model = ConfigDict(without_pretrained({k: v for k, v in model.items() if k != 'pretrained'}))
    return ModelConfig(model, scope, name, key)


def _without_scope(value: Any, scope: str) -> Any:
    """Return overrides whose types name no scope where it is the default one, so that they are compared by name."""
    if isinstance(value, Mapping):
        entry = {name: _without_scope(option, scope) for name, option in value.items()}
        return {**entry, 'type': entry['type'].removeprefix(scope)} if isinstance(entry.get('type'), str) else entry
    return type(value)(_without_scope(option, scope) for option in value) if type(value) in (list, tuple) else value


def model_of(config: Mapping[str, Any]) -> ConfigDict:
    """Return a config's model as the runner builds it: with the ``data_preprocessor`` beside it, if it has none."""
    model = ConfigDict(config['model'])
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config['data_preprocessor'])
    return model


def is_distill_model(model: Any) -> bool:
    """Tell whether a model config is a ``DistillModel``."""
    return isinstance(model, Mapping) and type_name(model) == 'DistillModel'


def is_single_teacher(option: Mapping[str, Any]) -> bool:
    """Tell whether ``model.teacher`` is one teacher, not a dict of several by name."""
    return 'cfg' in option or 'type' in option or not all(isinstance(member, Mapping) for member in option.values())


def teachers_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the teachers of a model config by key: ``teacher``, or ``teacher.NAME`` for each of several."""
    option = model.get('teacher') or {}
    if option and is_single_teacher(option):
        return {'teacher': option}
    return {f'teacher.{name}': value for name, value in option.items()}


def student_option(model: Mapping[str, Any]) -> Any:
    """Return the student of a ``DistillModel`` config, with all further keys of the model merged over it."""
    keys = {name: value for name, value in model.items() if name not in DISTILL_KEYS}
    student = model.get('student')
    if not isinstance(student, Mapping):
        raise KeyError(f"model.student of a DistillModel must be a dict such as dict(cfg='mmseg::…'), got {student!r}.")
    return merge(student, keys, 'model')


def without_effect(model: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each option of ``model.student`` that a key beside it, merged over it, replaces."""
    student = flat(model['student']) if isinstance(model.get('student'), Mapping) else {}
    beside = flat({name: value for name, value in model.items() if name not in DISTILL_KEYS})
    return [
        f'model.student.{key}={value!r} has no effect: model.{key}={beside[key]!r} stands beside it and counts.'
        for key, value in student.items()
        if key in beside and beside[key] != value
    ]


def normalised_anew(student: Mapping[str, Any], beside: Mapping[str, Any]) -> list[str]:
    """Return a sentence if ``model.data_preprocessor`` normalises otherwise than the student's config does."""
    outer = beside.get('data_preprocessor')
    if 'cfg' not in student or not isinstance(outer, Mapping):
        return []
    inner = load_model(student, 'model.student').model.get('data_preprocessor') or {}
    shared = [key for key in ('mean', 'std', 'bgr_to_rgb') if key in inner and key in outer]
    new, old = (flat({key: cfg[key] for key in shared}) for cfg in (outer, inner))  # tuples become lists
    changes = [f'{key}={new[key]!r} in place of {old[key]!r}' for key in shared if new[key] != old[key]]
    problem = f'model.data_preprocessor counts, perhaps of a base, not that of {student["cfg"]}'
    return [f'{problem}: {", ".join(changes)}.'] if changes else []


def merge(model: Any, overrides: Mapping[str, Any], key: str = '') -> Any:
    """Return ``model`` with ``overrides`` merged in as mmengine's ``_base_`` does, with four additional rules.

    A dict with another ``type`` replaces the old one completely; ``{'0': dict(…)}`` changes a member of a list; another
    dict without ``type`` changes every member of a list of dicts, for instance the number of classes of several
    auxiliary heads; a dict with ``_delete_=True`` replaces the old one. Neither argument is changed. ``key`` is that of
    ``model``, named in the error for a list member that does not exist.
    """
    if not isinstance(overrides, Mapping):
        return overrides
    overrides = dict(overrides)
    replaces = overrides.pop('_delete_', False)
    if isinstance(model, (list, tuple)) and overrides and all(str(name).isdigit() for name in overrides):
        members = list(model)
        for name, value in overrides.items():
            if int(name) >= len(members):
                raise KeyError(f'{key}.{name}: {key.rpartition(".")[2]} has the members 0 to {len(members) - 1}.')
            members[int(name)] = merge(members[int(name)], value, f'{key}.{name}')
        return members
    dicts = isinstance(model, (list, tuple)) and bool(model) and all(isinstance(member, Mapping) for member in model)
    if dicts and overrides and 'type' not in overrides and not replaces:
        return [merge(member, overrides, f'{key}.{index}') for index, member in enumerate(model)]
    same_type = isinstance(model, Mapping) and overrides.get('type', model.get('type')) == model.get('type')
    if replaces or not same_type:
        return ConfigDict({name: merge(None, value) for name, value in overrides.items()})
    merged = ConfigDict(model)
    for name, value in overrides.items():
        merged[name] = merge(merged.get(name), value, f'{key}.{name}')
    return merged
