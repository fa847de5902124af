"""The command ``config``: write configs to edit, list which methods fit which recipes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import (
    SCHEDULES,
    Parts,
    best,
    config_text,
    configs,
    gives_maps,
    has_several,
    methods,
    option_files,
    options_for,
    owners,
    parts_of,
    recipe_text,
    recipes,
    sources_of,
    unknown,
)
from mmdistill_dense.apps.recipes.named import check_data, combinations, made_of, optimizer_of, optimizer_problem
from mmdistill_dense.config.resolve import bases_of, find_config
from mmdistill_dense.config.values import listed
from mmdistill_dense.utils.literals import assignments, check_place
from mmdistill_dense.utils.process import quiet


def base_file(kind: str, name: str) -> Path:
    """Return the file of a pair, data set or schedule, given by its name in ``configs/_base_/<kind>`` or as a file."""
    if name.endswith('.py') and Path(name).is_file():
        return Path(name).resolve()
    folder = configs() / '_base_' / kind
    file = folder / f'{name.removesuffix(".py")}.py'
    if not file.is_file() and (name.endswith('.py') or '/' in name):
        raise FileNotFoundError(f'--{kind[:-1]} {name}: no such file (working folder {Path.cwd()}).')
    if not file.is_file():
        raise KeyError(unknown(kind[:-1], name, {path.stem for path in folder.glob('[!_]*.py')}))
    return file


def method_and_options(name: str) -> tuple[str, Path | None]:
    """Return a method's name and, if it was given as a file of method options, that file."""
    if name.endswith('.py') and Path(name).is_file():
        return Path(name).stem.split('_')[0], Path(name).resolve()
    option_files(name)
    return name, None


def recipe_of(pair: Path, dataset: Path | None, schedule: Path | None, method: str) -> Path | None:
    """Return the recipe for a pair, a data set and a schedule (``None``: any), the method's own before others."""
    given = {'pair': pair, 'dataset': dataset, 'schedule': schedule}
    files = {kind: file.resolve() for kind, file in given.items() if file}
    rows = [
        recipe
        for recipe in recipes()
        if (not owners(recipe) or method in owners(recipe)) and files.items() <= sources_of(recipe).items()
    ]
    rows.sort(key=lambda recipe: (method not in owners(recipe), recipe.stem != pair.stem, recipe.stem))
    return rows[0] if rows else None


def recipe_name(parts: Parts) -> str:
    """Return a free name for a new recipe: the pair's, with data set and schedule added where it is taken."""
    taken = {recipe.stem for recipe in recipes()}
    names = [parts.pair, f'{parts.pair}_{parts.dataset}', f'{parts.pair}_{parts.dataset}_{parts.schedule}']
    return next(name for name in names if name not in taken or name == names[-1])


def new_config(args: argparse.Namespace) -> None:
    if args.list:
        print(listing())
    elif args.all:
        write_all([args.method] if args.method else methods())
    elif args.method and args.pair:
        write_one(args)
    else:
        raise ValueError('give --method and --pair, or --all, or --list.')


def listing() -> str:
    """Return a table of recipes by methods: ``x`` where a config file exists, ``o`` where the method fits by name."""
    names = methods()
    written = {name: {one.base for one in combinations(name) if one.file.is_file()} for name in names}
    wide = max(len(recipe.stem) for recipe in recipes())
    rows = [' ' * wide + '  ' + ' '.join(names)]
    for recipe in recipes():
        marks = ['x' if recipe in written[name] else 'o' if options_for(name, recipe) else '.' for name in names]
        marks = [mark.center(len(name)) for mark, name in zip(marks, names, strict=True)]
        rows.append(f'{recipe.stem:<{wide}}  {" ".join(marks)}'.rstrip())
    return '\n'.join([*rows, '', 'x: a config file exists; o: the method fits, use the name METHOD:PAIR'])


def write_all(names: Sequence[str]) -> None:
    """Write the default variant of every config that has no file yet; existing files stay as they are."""
    if not _is_checkout():
        raise ValueError('--all writes into configs/ of a checkout; here the package is installed without one.')
    for name in names:
        option_files(name)
        found = [one for one in combinations(name) if one.variant is None]
        missing = [one for one in found if not one.file.is_file()]
        for one in missing:
            one.file.parent.mkdir(parents=True, exist_ok=True)
            one.file.write_text(one.text(), encoding='utf-8')
        print(f'{name}: {len(found)} configs, {len(missing)} written')


def write_one(args: argparse.Namespace) -> None:
    if args.unlabelled and not Path(args.unlabelled).is_dir():
        raise ValueError(f'--unlabelled {args.unlabelled}: no such folder (looked in {Path.cwd()}).')
    method, options = method_and_options(args.method)
    if options and args.variant:
        said = f'--method {args.method} is already a file of options; leave out --variant.'
        raise ValueError(f'--variant {args.variant}: {said}')
    pair = base_file('pairs', args.pair)
    dataset, schedule = (
        base_file(f'{kind}s', given) if (given := getattr(args, kind)) else None for kind in ('dataset', 'schedule')
    )
    recipe = recipe_of(pair, dataset, schedule, method)
    parts = parts_of(recipe) if recipe else _planned(pair, dataset, schedule)
    options = options or best(option_files(method), parts.pair, parts.task, args.variant, parts.maps, parts.several)
    if options is None:
        there = ', '.join(path.stem for path in option_files(method))
        advice = ' Options for several teachers name them, see docs/combining.md.' if parts.several else ''
        raise ValueError(
            f'--method {method}: no method options fit {pair.stem} with a data set for {parts.task} '
            f'({parts.dataset}); it has {there}.{advice}'
        )
    distillers = _with_settings(options, args.settings, parts.task) if args.settings else None
    ours = _is_checkout() and all(file.is_relative_to(configs()) for file in (pair, options))
    ours = ours and not (args.out or args.settings or args.unlabelled)
    texts, note = {}, ''
    if recipe is None:
        recipe = _recipe_place(parts, ours, args.out)
        schedule = schedule or base_file('schedules', parts.schedule)
        runtime = configs() / '_base_' / f'{parts.runtime}.py'
        texts[recipe] = recipe_text(pair, dataset or pair, schedule, runtime, recipe.parent)
        note = ': the student alone, and the control'
    with _written(texts):
        variant = '_'.join(filter(None, [args.variant, args.settings])) or None
        file = args.out or _config_place(method, parts, recipe, variant, ours)
        check_place(f'--out {file}', file.name)
        text = config_text(method, recipe, options, file.parent, distillers, args.unlabelled)
        with _written({file: text}), quiet():
            problem = _check(file, parts.task, args)
    print(f'recipe   {recipe}  ({parts.dataset}, {parts.schedule}{note})\noptions  {options}\nconfig   {file}')
    if problem:
        print(f'warning  {problem}')
    print(f'train    mim train {"mmseg" if parts.task == "seg" else "mmdetection"} {file}')


def _with_settings(options: Path, settings: str, task: str) -> dict[str, Any]:
    from mmdistill_dense.distillers.fragments import put_all  # imports all methods

    shipped = Config.fromfile(options).to_dict()['distillers']
    return put_all(shipped, dict.fromkeys(shipped, settings), task, f'--settings {settings}: {options.stem}')


def _planned(pair: Path, dataset: Path | None, schedule: Path | None) -> Parts:
    if dataset is None:
        known = sorted(path.stem for path in (configs() / '_base_/datasets').glob('[!_]*.py'))
        raise ValueError(
            f'--dataset: configs/_base_/recipes has no such recipe for {pair.stem}. Give a data set, a file or one of '
            f'{", ".join(known)}.'
        )
    loader = str(Config.fromfile(dataset).get('train_dataloader'))
    tasks = [task for task, step in (('seg', 'PackSegInputs'), ('det', 'PackDetInputs')) if step in loader]
    if len(tasks) != 1:
        raise ValueError(f'--dataset {dataset}: train_dataloader ends in neither PackSegInputs nor PackDetInputs.')
    task = tasks[0]
    schedule_name = schedule.stem if schedule else SCHEDULES[task]
    return Parts(pair.stem, dataset.stem, schedule_name, f'runtime_{task}', task, gives_maps(pair), has_several(pair))


def _recipe_place(parts: Parts, ours: bool, out: Path | None) -> Path:
    if ours:
        return configs() / '_base_/recipes' / f'{recipe_name(parts)}.py'
    return out.with_name(f'{out.stem}_control.py') if out else Path.cwd() / f'{parts.pair}_control.py'


def _config_place(method: str, parts: Parts, recipe: Path, variant: str | None, ours: bool) -> Path:
    named = made_of(method, recipe, variant) if ours else None
    return named.file if named else Path.cwd() / f'{"_".join(filter(None, (parts.pair, method, variant)))}.py'


@contextmanager
def _written(texts: dict[Path, str]) -> Iterator[None]:
    """Write files; remove them again if an error follows."""
    for file, text in texts.items():
        if file.is_file() and file.read_text(encoding='utf-8') != text:
            raise FileExistsError(f'{file} exists with other contents; remove it, or give --out.')
    new = [file for file in texts if not file.is_file()]
    folders = [folder for file in new for folder in file.parents if not folder.is_dir()]
    try:
        for file in new:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(texts[file], encoding='utf-8')
        yield
    except BaseException:
        for file in new:
            file.unlink(missing_ok=True)
        for folder in folders:  # the innermost first
            folder.rmdir()
        raise


def _check(file: Path, task: str, args: argparse.Namespace) -> str:
    """Raise ValueError if a config does not resolve or its data set does not suit its student; return a warning."""
    given = ' '.join(f'--{key} {value}' for key in ('pair', 'dataset', 'schedule') if (value := getattr(args, key)))
    try:
        config = Config.fromfile(file)
        check_data(config, task)
        problem = optimizer_problem(config)
    except Exception as error:  # what a user's own file raises
        said = str(error.args[0]) if error.args else type(error).__name__
        raise ValueError(f'{given}: {_set_twice(file) if "Duplicate key" in said else said}') from error
    return f'{problem} {_schedules_like(config)}' if problem else ''


def _set_twice(file: Path) -> str:
    """Return which key two bases of a config, or of the recipe that is its first base, set, and what to do."""
    for config in (bases_of(file)[0], file):
        found: dict[str, tuple[Path, Any]] = {}
        for base in bases_of(config):
            for key, value in Config.fromfile(base, import_custom_modules=False).items():
                if key in found:
                    return _in_one_place(key, config, [found[key], (base, value)])
                found[key] = base, value
    return 'two bases set one key'


def _in_one_place(key: str, config: Path, given: Sequence[tuple[Path, Any]]) -> str:
    first, second = (path for path, _ in given)
    advice = 'Take it out of one of them.'
    if key == 'custom_imports':  # nearly always the user's beside the runtime's
        own = first if second.is_relative_to(configs().resolve()) else second
        names = dict.fromkeys(name for _, value in given for name in listed(value.get('imports')))
        line = assignments({key: {'imports': [*names], 'allow_failed_imports': False}}).strip()
        advice = f'Take it out of {own.name}, call this command again, and add to {config.name}: {line}'
    return f'{first.name} and {second.name} both set {key}, and a key may stand in one base alone. {advice}'


def _schedules_like(config: Config) -> str:
    kind = optimizer_of(Config.fromfile(find_config(config.model.student.cfg))).get('type')
    files = sorted((configs() / '_base_/schedules').glob('[!_]*.py'))
    names = [file.stem for file in files if optimizer_of(Config.fromfile(file)).get('type') == kind]
    return f'Schedules with {kind}: {", ".join(names)}.' if names else f'No schedule here uses {kind}: write one.'


def _is_checkout() -> bool:
    return configs().parent.name != '.mim'
