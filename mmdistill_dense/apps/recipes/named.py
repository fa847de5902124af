"""Configs by name: ``cwd:deeplabv3_r101_to_r18_voc``, ``cwd:deeplabv3_r101_to_r18_voc:feature``."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib.util import find_spec
from logging import WARNING
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmdistill_dense.apps.recipes import compose
from mmdistill_dense.config.resolve import TASKS, find_config, load_model, read_file, student_option
from mmdistill_dense.datasets.wrapped import classes_of
from mmdistill_dense.distillers.fragments import replace_settings
from mmdistill_dense.guards.config import check_crop, check_retyped, check_student_classes, check_top_level_distillers
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.utils.validate import message_of, some
from mmdistill_dense.utils.version import STACK


def check_data(config: Config, task: str) -> None:
    """Raise ValueError if the data set has another task or number of classes than the student, or a smaller crop."""
    init_default_scope(config.get('default_scope') or 'mmengine')
    student = load_model(student_option(config.model), 'model.student')
    kind = TASKS.get(student.scope or '', task)
    if kind != task:
        raise ValueError(f'the student is for {kind}, the data set for {task}: choose a data set of the same task.')
    dataset = config.train_dataloader.dataset
    check_crop(dataset, student.model)
    check_student_classes(classes_of(dataset), student.model)


_NAME = re.compile(r'[\w.+-]+(:[\w.+-]+)+')
_SETTINGS = re.compile(r'model\.distillers\.([^.]+)\.settings')


class Named(NamedTuple):
    """A config of a method that is made of two files."""

    method: str  # names its folder
    pair: str  # of networks, or the recipe's name if the pair has several recipes
    variant: str | None  # of the options, or None
    base: Path  # the recipe, or the config that is changed
    options: Path  # the method options, or the change

    @property
    def name(self) -> str:
        return ':'.join(filter(None, (self.method, self.pair, self.variant)))

    @property
    def file(self) -> Path:
        return config_path(self.method, self.pair, self.variant)

    def text(self) -> str:
        """Return the text that its file would have; only for a recipe with method options."""
        return compose.config_text(self.method, self.base, self.options, self.file.parent)

    def config(self) -> Config:
        """Return the config that its file would resolve to."""
        base, added = Config.fromfile(self.base), Config.fromfile(self.options).to_dict()
        base.merge_from_dict(added)
        content = base.to_dict()
        if 'distillers' in added:
            content['model']['distillers'] = deepcopy(added['distillers'])
        content['work_dir'] = f'work_dirs/{self.method}/{self.file.stem}'
        return Config(content, cfg_text=base.text, filename=str(self.file), env_variables=base.env_variables)


def read_config(name: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return a config given as a file or by name, with the overrides of a command line."""
    named_config = find_named(str(name))
    config = named_config.config() if isinstance(named_config, Named) else read_file(named_config)
    scope = config.get('default_scope')
    if scope in STACK and find_spec(scope) is None:
        fork, upstream, *_ = STACK[scope]
        problem = f'{name} is for {scope}, which is not installed'
        raise ModuleNotFoundError(f'{problem}: pip install {upstream}, or {fork} beside the other forks.')
    if options:
        written = deepcopy(config)
        chosen = {match[1]: settings for key, settings in options.items() if (match := _SETTINGS.fullmatch(key))}
        task, distillers = TASKS.get(config.get('default_scope')), (config.get('model') or {}).get('distillers')
        if chosen and distillers and task:
            freed = replace_settings(distillers, chosen, task, 'model.distillers')
            pairs = [(key, name) for key in freed for name in {*distillers[key]} - {*freed[key], 'settings'}]
            if constants := {f'model.distillers.{key}.{name}' for key, name in pairs} - options.keys():
                names = some(sorted(constants), 8)
                message = f'these options of the config win over settings of --cfg-options: {names}'
                remedy = 'To leave them out, write a config that gives type and settings alone (docs/settings.md)'
                print_log(f'{message}. {remedy}.', 'current', WARNING)
        config.merge_from_dict(dict(options))
        check_top_level_distillers(config, written)
        check_retyped(config, written)
    return config


def read_quietly(name: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return a config as :func:`read_config` does, without its log. Any error is a ValueError that names the config."""
    try:
        with quiet():
            return read_config(name, options)
    except Exception as error:  # a config may run any code
        raise ValueError(f'{name} cannot be read: {message_of(error)}') from error


def is_name(text: str) -> bool:
    """Return whether a text has the form ``METHOD:PAIR[:VARIANT]``; its parts may be unknown."""
    return _NAME.fullmatch(text) is not None


def find_named(name: str) -> Path | Named:
    """Return the file that a command line names, or the config that the name stands for; see :func:`read_config`."""
    path = Path(name)
    if path.is_file() or not is_name(name):
        return path if path.is_file() else _missing(path)
    method, pair, *suffixes = name.split(':')
    variant = '_'.join(suffixes) or None
    file = config_path(method, pair, variant)
    if file.is_file():
        return file
    if method not in compose.methods():
        kind = {'control': 'recipe', 'teachers': 'teacher'}.get(method, 'method')
        names = {path.stem for path in file.parent.glob('*.py')} or {*compose.methods(), 'control', 'teachers'}
        raise KeyError(f'{name}: {compose.unknown(kind, method if kind == "method" else file.stem, names)}')
    if changed_config := _changed_config(method, pair, variant):
        return changed_config
    method_recipes = _recipes_of(method)
    recipe = method_recipes.get(pair) or next((path for path in compose.recipes() if path.stem == pair), None)
    if recipe is None:
        raise KeyError(f'{name}: {compose.unknown("pair", pair, method_recipes)}')
    if named_config := make_named(method, recipe, variant):
        return named_config
    fits = [str(option or 'none') for option in variants_of(method) if make_named(method, recipe, option)]
    fitting = f'methods: {", ".join(compose.fitting_methods(recipe))}'
    hint = f'variants of {method} that fit it: {", ".join(fits)}' if fits else fitting
    raise KeyError(f'{name}: {f"variant {variant!r} of {method}" if fits else method} does not fit {pair}. {hint}.')


def config_path(method: str, pair: str, variant: str | None = None) -> Path:
    """Return the file of a name, whether it exists or not."""
    folder = '_base_/recipes' if method == 'control' else method
    return compose.configs() / folder / f'{f"{pair}_{variant}" if variant else pair}.py'


def make_named(method: str, recipe: Path, variant: str | None = None) -> Named | None:
    """Return the config of a method on a recipe of this package, or None if no options fit."""
    options = compose.options_for(method, recipe, variant)
    pair = compose.parts_of(recipe).pair if method in compose.owners(recipe) else recipe.stem
    return Named(method, pair, variant, recipe, options) if options else None


def combinations(method: str) -> Iterator[Named]:
    """Yield every config of a method that has a name, also those with files: variants on recipes, and changes."""
    for recipe in _recipes_of(method).values():
        yield from filter(None, (make_named(method, recipe, variant) for variant in variants_of(method)))
    for change in _changes(method):
        ending = f'_{changed}' if (changed := compose.header_remark(change, 'changes')) else ''
        for file in sorted((compose.configs() / method).glob(f'*{ending}.py')):
            pair, variant = file.stem.removesuffix(ending), compose.fit_of(change).variant
            named_config = _changed_config(method, pair, variant)
            if named_config and named_config.options == change and not named_config.file.is_file():
                yield named_config


def variants_of(method: str) -> list[str | None]:
    """Return the variants of a method's options; the first is None, the default."""
    return [None, *sorted(filter(None, {compose.fit_of(path).variant for path in compose.option_files(method)}))]


def _recipes_of(method: str) -> dict[str, Path]:
    paths = [*compose.recipes(), *compose.recipes(pretraining=True)]
    shared = {path.stem: path for path in paths if not compose.owners(path)}
    return shared | {compose.parts_of(path).pair: path for path in paths if method in compose.owners(path)}


def _changes(method: str) -> list[Path]:
    return sorted((compose.configs() / '_base_' / 'changes').glob(f'{method}_*.py'))


def _changed_config(method: str, pair: str, variant: str | None) -> Named | None:
    """Return the config of a method with the change that the variant names, or None."""
    change = compose.best(_changes(method), pair, '', variant) if variant else None
    base = config_path(method, pair, compose.header_remark(change, 'changes')) if change else None
    return Named(method, pair, variant, base, change) if change and base and base.is_file() else None


def _missing(path: Path) -> Path:
    """Return the file of another package's config (``mmseg::…``); raise FileNotFoundError for any other path."""
    if '::' in str(path):
        return find_config(str(path), 'config')
    if path.is_dir():
        files = sorted(str(file) for file in path.glob('*.py'))
        listing = f'; its configs are {some(files, 8)}' if files else ''
        raise FileNotFoundError(f'{path}: a folder, and one config is needed{listing}.')
    method = path.parent.name
    names = {config.file: config.name for config in combinations(method)} if method in compose.methods() else {}
    name = names.get(compose.configs() / method / path.name)
    hint = f' It has a name: {name}.' if name else ' A config without a file is named METHOD:PAIR[:VARIANT].'
    raise FileNotFoundError(f'{path}: no such config (working folder {Path.cwd()}).{hint}')
