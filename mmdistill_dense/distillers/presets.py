"""Settings: what the option ``settings`` of a distiller stands for.

``'published'``, the default, leaves the options of a method as they are. ``'auto'`` and ``'canonical'`` set the options
of :data:`COMMON` and those of the class attribute ``SETTINGS``. Options that are given beside ``settings`` are merged
over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from mmdistill_dense.config.resolve import merge
from mmdistill_dense.config.unknown_keys import hint
from mmdistill_dense.distillers.schedule import AUTO_RATIO, AUTO_RATIO_SGD
from mmdistill_dense.registry import DISTILLERS

Options = Mapping[str, Any]
Settings = Mapping[str, Mapping[str, Options]]  # options by name of the settings and task, 'seg' or 'det'

PUBLISHED, AUTO, CANONICAL = 'published', 'auto', 'canonical'
COMMON: Mapping[str, Options] = {
    AUTO: dict(balance=dict(ratio='auto'), schedule=dict(ramp_down=(0, 1.0))),
    CANONICAL: dict(balance=dict(ratio='auto')),
}
_INSTEAD = {  # options that must go where settings replace others
    'balance': ('loss_weight',),
    'student_tap': ('teacher_tap',),
    'queue_size': ('keys_per_image', 'enqueue'),
}
_KEPT = ('learn',)  # how long tokens are learned belongs to the data


class Method(Protocol):
    """What is read of a distiller's class."""

    __name__: str
    SETTINGS: ClassVar[Settings]
    no_auto: ClassVar[str]


def for_both(**options: Any) -> Mapping[str, Options]:
    """Return options that hold for both tasks."""
    return {'seg': options, 'det': options}


@dataclass(frozen=True)
class Chosen:
    """The settings of a distiller: their name, what they set as merged with what was given, and the names of the
    latter.
    """

    name: str
    options: Options
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f'{self.name!r}: ' + ', '.join(f'{key}={value!r}' for key, value in self.options.items())
        return f'{told}; given, not of the settings: {", ".join(self.given)}' if self.given else told


def expand(cls: Method, options: Options, task: str | None, key: str) -> dict[str, Any]:
    """Return the options of a distiller with those that its ``settings`` stand for.

    ``task`` is ``'seg'``, ``'det'``, or ``None`` for a student of neither; ``key`` the distiller's config key, for
    errors. ``settings`` becomes a :class:`Chosen`, and is left out with ``'published'``.
    """
    given = dict(options)
    name = given.pop('settings', PUBLISHED)
    if name == PUBLISHED:
        return given
    found = options_of(cls, name, task, key)
    if given.get('loss_weight') is not None and given.get('balance', '') is not None:
        raise ValueError(
            f'{key}.loss_weight={given["loss_weight"]!r} beside settings={name!r}, which finds the weight by balance: '
            'leave loss_weight out (on a command line: loss_weight=None), or set balance=None to keep it.'
        )
    merged = merge(found, given)
    chosen = Chosen(name, {option: merged[option] for option in found}, tuple(one for one in found if one in given))
    return {**merged, 'settings': chosen}


def options_of(cls: Method, name: Any, task: str | None, key: str) -> dict[str, Any]:
    """Return the options that settings of a method stand for; arguments as of :func:`expand`."""
    if not isinstance(name, str) or name not in COMMON:
        known = [PUBLISHED, *(one for one in COMMON if one in cls.SETTINGS)]
        listed = ', '.join(map(repr, known))
        raise ValueError(f'{key}.settings={name!r} is unknown; {cls.__name__} has {listed}.{hint(str(name), known)}')
    if name not in cls.SETTINGS:
        raise ValueError(f'{key}.settings={name!r}: {cls.__name__} has no such settings: {_reason(name)}.')
    if task is None or task not in cls.SETTINGS[name]:
        tasks = {'seg': 'segmentation (mmseg)', 'det': 'detection (mmdet)'}
        there = ' and '.join(text for one, text in tasks.items() if one in cls.SETTINGS[name])
        raise ValueError(
            f'{key}.settings={name!r}: {cls.__name__} has these settings for {there}, and the student is for '
            f"{tasks.get(str(task), 'neither')}. Set the options themselves and settings='{PUBLISHED}'."
        )
    found = {**COMMON[name], **cls.SETTINGS[name][task]}
    if cls.no_auto:
        found.pop('student_tap', None)
    return found


def put(option: Options, cls: Method, name: str, task: str | None, key: str) -> dict[str, Any]:
    """Return shipped options with settings in place of the constants that these set; arguments as of :func:`expand`.

    What the settings leave open stays: an activation, the name of a teacher, taps that only the config can name.
    """
    rest = {one: value for one, value in option.items() if one != 'settings'}
    if name == PUBLISHED:
        return rest
    chosen = options_of(cls, name, task, key)
    gone = {*chosen, *(one for other in chosen for one in _INSTEAD.get(other, ()))} - set(_KEPT)
    return {**{one: value for one, value in rest.items() if one not in gone}, 'settings': name}


def put_all(distillers: Options, chosen: Mapping[str, str], task: str | None, place: str) -> dict[str, Any]:
    """Return shipped distillers by name, some of them, the ``chosen``, with settings by :func:`put`.

    Those of an unknown type stay as they are, and fail when the model is built. ``place`` holds them, for errors.
    """
    found = dict(distillers)
    for name in chosen.keys() & found.keys():
        cls = _class_of(found[name])
        if cls is not None:
            found[name] = put(found[name], cls, chosen[name], task, f'{place}.{name}')
    return found


def identity_of(option: Options, task: str | None, key: str) -> Options:
    """Return the options of a distiller for a hash: with settings, all options and constants that they stand for."""
    cls = None if option.get('settings', PUBLISHED) == PUBLISHED else _class_of(option)
    if cls is None:
        return option
    found = expand(cls, {name: value for name, value in option.items() if name != 'type'}, task, key)
    return {**found, 'type': option['type'], 'settings': option['settings'], 'ratios': [AUTO_RATIO, AUTO_RATIO_SGD]}


def _class_of(option: Options) -> Any:
    kind = option.get('type')
    return DISTILLERS.get(kind) if isinstance(kind, str) else kind


def _reason(name: str) -> str:
    having = ' and '.join(sorted(kind for kind, one in DISTILLERS.module_dict.items() if name in one.SETTINGS))
    what = 'it is the plain form of distilling scores or one map, without what other methods add' * (name == CANONICAL)
    return '; '.join(filter(None, [what, f'use {having}']))
