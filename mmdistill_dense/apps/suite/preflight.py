"""Checks before the first run, and names in a definition that nothing reads."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmdistill_dense.apps.recipes.compose import unknown
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.job import check_processes, check_unchanged
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.apps.suite.reader import naming
from mmdistill_dense.config.resolve import teachers_of
from mmdistill_dense.config.unknown_keys import options_of
from mmdistill_dense.config.values import flat, listed, may_give, members, scores_of
from mmdistill_dense.guards.config import batch_problem
from mmdistill_dense.unlabelled.step import unlabelled_of
from mmdistill_dense.utils.files import FolderInUse, in_use
from mmdistill_dense.weights.strict_load import local_file


def select(definition: Definition, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Return the runs of some rows and seeds with what they need."""
    runs = plan.runs(definition)
    names = {run.name for run in runs}
    for name in only:
        if name not in names:
            raise ValueError(f'--only: {unknown("row", name, names)}')
    if not set(seeds) <= set(definition.seeds) and (not only or set(only) - {plan.TEACHER}):
        raise ValueError(f'--seeds {list(seeds)}: the definition has {list(definition.seeds)}')
    fits = [run for run in runs if not only or run.name in only]
    wanted = {run.folder for run in fits if not seeds or run.seed in seeds or (only and run.is_teacher)}
    for run in reversed(runs):  # what is needed stands before
        if run.folder in wanted:
            wanted.update(run.after)
    return [run for run in runs if run.folder in wanted]


def unfinished(
    definition: Definition, runs: Sequence[Run], rerun_changed: bool = False, processes: int = 1
) -> list[Run]:
    """Return the runs without a result; ``rerun_changed`` moves those of other configs to ``<out>/replaced``."""
    for run, expected in plan.hashes(definition, runs):
        with _replacing(definition, run, rerun_changed):
            check_unchanged(run, expected)
    if not _todo(runs):
        return []
    for run in plan.runs(definition):
        with _replacing(definition, run, rerun_changed and run in runs):
            check_processes(run, processes)
    needed = {folder for run in _todo(runs) for folder in run.after}
    for run in runs:  # results without weights were restored or tidied up
        if run.folder in needed and run.result is not None and not _has_weights(run):
            put_away(definition, run)
    return _todo(runs)


def _todo(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.result is None]


@contextmanager
def _replacing(definition: Definition, run: Run, allowed: bool) -> Iterator[None]:
    """Put a run away that is refused inside, if that is allowed."""
    try:
        yield
    except ValueError:
        if not allowed:
            raise
        put_away(definition, run)


def _has_weights(run: Run) -> bool:
    """Whether a run has the weights that others read. A tested teacher has only scores."""
    name = (run.result or {}).get('checkpoint')
    return name is None or (run.folder / name).is_file()


def put_away(definition: Definition, run: Run) -> Path:
    """Move a run's folder to ``<out>/replaced``, and return its new path; refuse if a process works in it."""
    if in_use(run.folder):
        raise FolderInUse(f'{run.title}: {run.folder} cannot be repeated, because a process works in it: end it first.')
    found = (run.result or run.state).get('config_hash')
    inside = run.folder.relative_to(definition.out)
    target = definition.out / 'replaced' / inside.parent / f'{inside.name}-{found}'
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f'{inside.name}-{found}-{number}')
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(run.folder, target)
    return target


def check(definition: Definition, todo: Sequence[Run]) -> None:
    """Check that data and weights exist, and build every network that will be trained."""
    _check_names(definition)
    first = {run.name: run for run in reversed(todo)}
    for name, run in first.items():
        config = plan.config_of(definition, run)
        _check_files(config)
        own = run.is_teacher or configs.reads_teacher(config)
        if own and not plan.trains_teacher(definition):
            for key, option in teachers_of(config.model).items():
                if option.get('checkpoint') is not None:
                    local_file(option['checkpoint'], option.get('cfg'), f'model.{key}.checkpoint')
        if config.get('load_from'):
            local_file(config.load_from, None, 'load_from')
        with naming(f'{definition.path}: {name}'):
            model = _build(config)
            if name == plan.CONTROL:
                _try_evaluation(config, model)


def check_batch(definition: Definition, todo: Sequence[Run], processes: int) -> None:
    """Refuse a batch that does not match the recipe's learning rate."""
    for place, run in {'teacher.options' if run.is_teacher else 'options': run for run in todo}.items():
        if run.is_teacher and not plan.trains_teacher(definition):
            continue
        problem = batch_problem(plan.config_of(definition, run), processes)
        if problem:
            raise ValueError(f'{definition.path}: {place}: {problem}')


def _check_names(definition: Definition) -> None:
    recipe, config = configs.read(definition.control), configs.control_config(definition)
    init_default_scope(config.get('default_scope', 'mmengine'))
    check_metric(config, definition.metric, str(definition.path))
    given = [('options', definition.options, recipe, config)]
    if (teacher := definition.teacher) is not None:
        whole = configs.teacher_config(definition, teacher)
        given.append(('teacher.options', teacher.options, configs.read(teacher.config), whole))
    for place, options, before, after in given:
        check_options(options, before, after, f'{definition.path}: {place}')


def _check_files(config: Config) -> None:
    """Look for folders and lists of the data, and labels that a metric reads itself."""
    from mmdistill_dense.datasets.folders import require  # imports all data sets

    for loader in configs.LOADERS:
        for key, dataset in members((config.get(loader) or {}).get('dataset'), f'{loader}.dataset'):
            require(dict(_paths(dataset, key)), str(dataset.get('type')))
    for name in ('val_evaluator', 'test_evaluator'):
        for one in listed(config.get(name)):
            require({f'{name}.ann_file': one.get('ann_file')}, str(one.get('type')))


def _paths(dataset: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    root = dataset.get('data_root') or ''
    if root:
        yield f'{key}.data_root', root
    named = {'ann_file': dataset.get('ann_file')}
    prefixes = dataset.get('data_prefix') or {}
    if not isinstance(prefixes, Mapping):  # UnlabeledImages has one, or a list
        prefixes = dict(enumerate([prefixes] if isinstance(prefixes, str) else prefixes))
    named.update({f'data_prefix.{name}': path for name, path in prefixes.items()})
    for name, path in named.items():
        if isinstance(path, str) and path:
            yield f'{key}.{name}', path if '://' in path else os.path.join(root, path)


def _build(config: Config) -> Any:
    """Build the model as the runner does, to find unknown options, taps and channels; open pictures without labels."""
    init_default_scope(config.get('default_scope', 'mmengine'))
    model = MODELS.build(config.model)
    if (second := unlabelled_of(model)) is not None:
        from mmdistill_dense.unlabelled.stream import open_pictures  # imports all data sets

        open_pictures(second.option, config, DATASETS.build(copy.deepcopy(config.train_dataloader.dataset)))
    return model


def _try_evaluation(config: Config, model: Any) -> None:
    """Pass a picture of validation through the student and the metrics, before hours of training."""
    from mmdistill_dense.apps.check import context, facts  # imports all that a check needs

    subject = context.Subject(config, context.Options(val=0), model=model)
    facts.draw_weights(model)
    facts.read_validation(subject)
    if subject.validation_problem:
        raise ValueError(subject.validation_problem)
    facts.predict(subject)


# Names that nothing reads


_REGISTRIES = (
    registry.LOOPS, registry.OPTIMIZERS, registry.OPTIM_WRAPPERS, registry.PARAM_SCHEDULERS, registry.HOOKS,
    registry.DATASETS, registry.TRANSFORMS, registry.METRICS, registry.DATA_SAMPLERS,
)  # fmt: skip
# keys that mmengine reads itself
_READ = {'type', '_scope_', '_delete_', 'by_epoch', 'constructor', 'paramwise_cfg', 'convert_to_iter_based'}
_READ |= {'dataset', 'num_batch_per_epoch'}


def check_metric(config: Config, metric: str, place: str) -> None:
    """Refuse a metric that evaluators of mmseg and mmdet do not return, and evaluators that give no score."""
    for split in ('val_evaluator', 'test_evaluator'):
        several = listed(config.get(split))
        if any(one.get('format_only') for one in several):
            raise ValueError(f'{place}: {split}.format_only=True writes predictions and gives no score: leave it out.')
        if several and not any(may_give(one, metric) for one in several):
            names = set().union(*(scores_of(one) or () for one in several))
            raise ValueError(f'{place}: metric: {unknown(f"score of {split}", metric, names)}')


def check_options(options: Mapping[str, Any], recipe: Config, config: Config, place: str) -> None:
    """Refuse a new key of ``recipe`` that nothing reads, as ``train_cfg.max_itrs``; networks check their own."""
    for key in flat(options):
        words = key.split('.')
        for depth in range(1, 0 if words[0] == 'model' else len(words)):
            path, word = words[:depth], words[depth]
            before, after = _at(recipe, path), _at(config, path)
            if not isinstance(after, Mapping) or (isinstance(before, Mapping) and word in before):
                continue
            taken = _taken(path, after)
            if taken is not None and word not in taken | _READ:
                what = f'option of {".".join(path)}'
                raise ValueError(f'{place}.{key}: {unknown(what, word, taken)}')


def _at(node: Any, path: Sequence[str]) -> Any:
    for word in path:
        if isinstance(node, (list, tuple)) and word.isdigit() and int(word) < len(node):
            node = node[int(word)]
        else:
            node = node.get(word) if isinstance(node, Mapping | Config) else None
    return node


def _taken(path: Sequence[str], option: Mapping[str, Any]) -> set[str] | None:
    """Return the names of the arguments; ``None`` if any name is accepted, or if they are unknown."""
    if path == ['randomness']:
        return _arguments(Runner.set_randomness)
    if len(path) == 1 and path[0].endswith('_dataloader'):
        return _arguments(DataLoader)
    if path == ['train_cfg'] and 'type' not in option:
        return _arguments(EpochBasedTrainLoop if option.get('by_epoch') else IterBasedTrainLoop)
    kind = option.get('type')
    built = next((found for one in _REGISTRIES if (found := one.get(kind))), None) if isinstance(kind, str) else kind
    return _arguments(built) if callable(built) else None


def _arguments(built: Any) -> set[str] | None:
    """Return the arguments of a function, or of a class with its bases; ``None`` if it accepts any name."""
    parameters = inspect.signature(built).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        known = options_of(built) if inspect.isclass(built) else None
        return None if known is None else set(known)
    return {one.name for one in parameters} - {'self'}
