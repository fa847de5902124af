"""``settings='auto'`` and ``'canonical'``: words for config fragments, ``configs/_base_/distillers/auto/*.py``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.config.resolve import merge, package_root, read_file
from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.registry import DISTILLERS, kind_of

Options = Mapping[str, Any]
PUBLISHED, AUTO = 'published', 'auto'
_WORDS = (AUTO, 'canonical')
_TASKS = {'seg': 'segmentation (mmseg)', 'det': 'detection (mmdet)'}


def expand(cls: Any, options: Options, task: str | None, key: str) -> tuple[dict[str, Any], str]:
    """Return the options of a distiller with those that its ``settings`` stand for, and what these are, for a log.

    ``'published'``, the default, leaves the options as they are, and the text is empty. Options given beside other
    settings are merged over theirs. ``task`` is ``'seg'``, ``'det'``, or ``None`` for a student of neither; ``key`` the
    distiller's config key, for errors.
    """
    overrides = dict(options)
    name = overrides.pop('settings', PUBLISHED)
    if name == PUBLISHED:
        return overrides, ''
    settings = _options_of(cls, name, task, key)
    merged = merge(settings, overrides).to_dict()
    text = f'{name!r}: ' + ', '.join(f'{option}={merged[option]!r}' for option in settings)
    exceptions = ', '.join(option for option in settings if option in overrides)
    return merged, f'{text}; given, not of the settings: {exceptions}' if exceptions else text


def resolve_settings(option: Options, task: str | None, key: str) -> dict[str, Any]:
    """Return a distiller's config with all options in the place of ``settings``; arguments as of :func:`expand`."""
    options = {name: value for name, value in option.items() if name != 'type'}
    cls = kind_of(DISTILLERS, option)
    return dict(option) if cls is None else {'type': option['type'], **expand(cls, options, task, key)[0]}


def replace_settings(distillers: Options, chosen: Mapping[str, str], task: str | None, key: str) -> dict[str, Any]:
    """Return shipped distillers by name, some of them, the ``chosen``, with settings in place of what these set.

    What the settings leave open stays: an activation, the name of a teacher, taps that only the config can name.
    Those of an unknown type stay as they are, and fail when the model is built. ``key`` is for errors.
    """
    configs = dict(distillers)
    for name in filter(chosen.__contains__, distillers):
        cls, removed = kind_of(DISTILLERS, configs[name]), {'settings'}
        if cls is None:
            continue
        if chosen[name] != PUBLISHED:
            options = {*_options_of(cls, chosen[name], task, f'{key}.{name}'), 'loss_weight', 'schedule'}
            removed |= options - {'learn'}  # how long tokens are learned belongs to the data
            removed |= {'teacher_tap'} if 'student_tap' in removed else set()
        kept = {option: value for option, value in configs[name].items() if option not in removed}
        configs[name] = kept if chosen[name] == PUBLISHED else {**kept, 'settings': chosen[name]}
    return configs


def _options_of(cls: Any, name: Any, task: str | None, key: str) -> dict[str, Any]:
    """Return the options in the fragment of a method, or of the nearest class that it derives from."""
    folder = package_root('mmdistill_dense') / 'configs/_base_/distillers'
    fragments = {word: paths for word in _WORDS if (paths := _fragments(cls, folder / word))}
    if not isinstance(name, str) or name not in fragments:
        names = [PUBLISHED, *fragments]
        choices = ', '.join(map(repr, names))
        raise ValueError(f'{key}.settings={name!r} is unknown; {cls.__name__} has {choices}.{hint(str(name), names)}')
    if task is None or task not in fragments[name]:
        tasks = ' and '.join(_TASKS[kind] for kind in fragments[name])
        raise ValueError(
            f'{key}.settings={name!r}: {cls.__name__} has these settings for {tasks}, and the student is for '
            f"{_TASKS.get(str(task), 'neither')}. Set the options themselves and settings='{PUBLISHED}'."
        )
    (option,) = read_file(fragments[name][task]).distillers.to_dict().values()
    left_out = {'type', 'student_tap'} if cls.no_auto else {'type'}
    return {field: value for field, value in option.items() if field not in left_out}


def _fragments(cls: Any, folder: Path) -> dict[str, Path]:
    """Return the fragments of a class by task: ``maskd_seg.py`` for one, ``pcd.py`` for what has none of its own."""
    for base in cls.__mro__:
        name = base.__name__.lower()
        files = [(task, folder / f'{name}{ending}.py') for task in _TASKS for ending in ('', f'_{task}')]
        if paths := {task: path for task, path in files if path.is_file()}:  # of two that of the task, which comes last
            return paths
    return {}
