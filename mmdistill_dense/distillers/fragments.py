"""``settings='auto'`` and ``'canonical'``: words for config fragments, ``configs/_base_/distillers/auto/*.py``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdistill_dense.config.resolve import merge, package_root, read_file
from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.registry import DISTILLERS

Options = Mapping[str, Any]
PUBLISHED, AUTO = 'published', 'auto'
_WORDS = (AUTO, 'canonical')
_TASKS = {'seg': 'segmentation (mmseg)', 'det': 'detection (mmdet)'}
_KEPT = ('learn',)  # how long tokens are learned belongs to the data


def expand(cls: Any, options: Options, task: str | None, key: str) -> tuple[dict[str, Any], str]:
    """Return the options of a distiller with those that its ``settings`` stand for, and what these are, for a log.

    ``'published'``, the default, leaves the options as they are, and the text is empty. Options given beside other
    settings are merged over theirs. ``task`` is ``'seg'``, ``'det'``, or ``None`` for a student of neither; ``key`` the
    distiller's config key, for errors.
    """
    given = dict(options)
    name = given.pop('settings', PUBLISHED)
    if name == PUBLISHED:
        return given, ''
    found = _options_of(cls, name, task, key)
    merged = merge(found, given).to_dict()
    told = f'{name!r}: ' + ', '.join(f'{option}={merged[option]!r}' for option in found)
    own = ', '.join(option for option in found if option in given)
    return merged, f'{told}; given, not of the settings: {own}' if own else told


def resolved(option: Options, task: str | None, key: str) -> dict[str, Any]:
    """Return a distiller's config with all options in the place of ``settings``; arguments as of :func:`expand`."""
    rest = {name: value for name, value in option.items() if name != 'type'}
    cls = _class_of(option)
    return dict(option) if cls is None else {'type': option['type'], **expand(cls, rest, task, key)[0]}


def put_all(distillers: Options, chosen: Mapping[str, str], task: str | None, place: str) -> dict[str, Any]:
    """Return shipped distillers by name, some of them, the ``chosen``, with settings in place of what these set.

    What the settings leave open stays: an activation, the name of a teacher, taps that only the config can name.
    Those of an unknown type stay as they are, and fail when the model is built. ``place`` holds them, for errors.
    """
    found = dict(distillers)
    for name in filter(chosen.__contains__, distillers):
        cls, gone = _class_of(found[name]), {'settings'}
        if cls is None:
            continue
        if chosen[name] != PUBLISHED:
            gone |= {*_options_of(cls, chosen[name], task, f'{place}.{name}'), 'loss_weight'} - {*_KEPT}
            gone |= {'teacher_tap'} if 'student_tap' in gone else set()
        found[name] = {option: value for option, value in found[name].items() if option not in gone}
        if chosen[name] != PUBLISHED:
            found[name]['settings'] = chosen[name]
    return found


def _options_of(cls: Any, name: Any, task: str | None, key: str) -> dict[str, Any]:
    """Return the options in the fragment of a method, or of the nearest class that it derives from."""
    folder = package_root('mmdistill_dense') / 'configs/_base_/distillers'
    known = {word: found for word in _WORDS if (found := _fragments(cls, folder / word))}
    if not isinstance(name, str) or name not in known:
        names = [PUBLISHED, *known]
        listed = ', '.join(map(repr, names))
        raise ValueError(f'{key}.settings={name!r} is unknown; {cls.__name__} has {listed}.{hint(str(name), names)}')
    if task is None or task not in known[name]:
        there = ' and '.join(_TASKS[one] for one in known[name])
        raise ValueError(
            f'{key}.settings={name!r}: {cls.__name__} has these settings for {there}, and the student is for '
            f"{_TASKS.get(str(task), 'neither')}. Set the options themselves and settings='{PUBLISHED}'."
        )
    (option,) = read_file(known[name][task]).distillers.to_dict().values()
    left_out = {'type', 'student_tap'} if cls.no_auto else {'type'}
    return {one: value for one, value in option.items() if one not in left_out}


def _fragments(cls: Any, folder: Path) -> dict[str, Path]:
    """Return the fragments of a class by task: ``maskd_seg.py`` for one, ``at.py`` for both."""
    for one in cls.__mro__:
        name = one.__name__.lower()
        both = folder / f'{name}.py'
        files = {task: both if both.is_file() else folder / f'{name}_{task}.py' for task in _TASKS}
        if found := {task: path for task, path in files.items() if path.is_file()}:
            return found
    return {}


def _class_of(option: Options) -> Any:
    kind = option.get('type')
    return DISTILLERS.get(kind) if isinstance(kind, str) else kind
