"""Checks of options and shapes, each with a message that names the config key, and the parts of messages."""

import argparse
import builtins
import difflib
import functools
import inspect
import math
import numbers
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# Values of options that several methods have; :func:`check_types` asks for the ranges of numbers too.
Positive = Annotated[float, '> 0', lambda value: value > 0]
NotNegative = Annotated[float, '>= 0', lambda value: value >= 0]
OneOrMore = Annotated[float, '>= 1', lambda value: value >= 1]
Share = Annotated[float, 'in [0, 1)', lambda value: 0 <= value < 1]
Count = Annotated[int, '>= 1', lambda value: value >= 1]
Whole = Annotated[int, '>= 0', lambda value: value >= 0]
Iteration = Annotated[int, '>= 0 (an iteration)', lambda value: value >= 0]
PartOfRun = Annotated[float, 'in (0, 1] (a part of the run)', lambda value: isinstance(value, float) and 0 < value <= 1]
Align = Literal['auto', 'conv', 'none']
Resize = Literal['student', 'teacher']
Reduction = Literal['sum', 'mean']
Activation = Literal['softmax', 'sigmoid']


def some(names: Iterable[object], shown: int = 4) -> str:
    """Return the first names and the number of the others: ``a, b, c, d and 3 more``."""
    texts = [str(name) for name in names]
    more = f' and {len(texts) - shown} more' if len(texts) > shown else ''
    return ', '.join(texts[:shown]) + more


def size_text(size: Iterable[int]) -> str:
    """Return height and width, or a whole shape: ``48x64``."""
    return 'x'.join(map(str, size))


def text_of(error: BaseException) -> str:
    """Return the message of an exception; ``str`` would put that of a ``KeyError`` in quotes."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def message_of(error: BaseException) -> str:
    """Return the message of an exception, with its type unless the message is meant for users."""
    text = text_of(error)
    spoken = isinstance(error, (ValueError, KeyError, FileNotFoundError)) and text
    return text if spoken else f'{type(error).__name__}: {text}'


def first_line(error: BaseException) -> str:
    """Return the first line of what :func:`message_of` returns, of an error of a library whose message may be long."""
    return message_of(error).strip().splitlines()[0][:200]


def close_or_all(name: str, choices: Iterable[str]) -> str:
    """Return the known names that are similar to an unknown one (``Close: a, b.``), or all of them (``Known: …``)."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return f'Close: {", ".join(close)}.' if close else f'Known: {", ".join(names)}.'


def check_types(kind: type, options: Mapping[str, Any], prefix: str = '') -> None:
    """Raise a ``ValueError`` for an option of another type, or out of the range, than a class is annotated with.

    Numbers are finite, and ``True`` is none. Constructors and classes of bases count too, types that are not in
    ``_KINDS`` do not.
    """
    hints = _hints(kind)
    for name, value in options.items():
        if name in hints and not _fits(value, hints[name]):
            kinds = dict.fromkeys(_describe(member) for member in _members(hints[name]))
            raise ValueError(f'{prefix}{name} must be {" or ".join(kinds)}, got {value!r}.')


_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    float: ('a finite number', lambda value: _is_number(value, numbers.Real) and math.isfinite(value)),
    int: ('a whole number', lambda value: _is_number(value, numbers.Integral)),
    bool: ('True or False', lambda value: isinstance(value, bool)),
    str: ('a text', lambda value: isinstance(value, str)),
    type(None): ('None', lambda value: value is None),
    Mapping: ('a dict', lambda value: isinstance(value, Mapping)),
    Sequence: ('a list', lambda value: isinstance(value, (list, tuple))),
}


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return any(type(value) is type(literal) and value == literal for literal in get_args(hint))
    if get_origin(hint) is Annotated:
        kind, _, within = get_args(hint)
        return _is(value, kind) and within(value)
    outer = get_origin(hint) or hint
    if outer is tuple:
        same_length = isinstance(value, (list, tuple)) and len(value) == len(get_args(hint))
        return same_length and all(map(_fits, value, get_args(hint)))
    members = get_args(hint)[:1] if outer is Sequence else ()
    fits = outer not in _KINDS or _KINDS[outer][1](value)
    return fits and all(_fits(entry, member) for member in members for entry in value)


def _fits(value: Any, hint: Any) -> bool:
    return any(_is(value, member) for member in _members(hint))


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        values = ', '.join(map(repr, get_args(hint)))
        return f'one of {values}' if len(get_args(hint)) > 1 else values
    if get_origin(hint) is Annotated:
        return f'{_describe(get_args(hint)[0])} {get_args(hint)[1]}'
    if get_origin(hint) in (Sequence, tuple):
        length = f' of {len(get_args(hint))}' if get_origin(hint) is tuple else ''
        return f'a list{length}, each member {" or ".join(map(_describe, _members(get_args(hint)[0])))}'
    return _KINDS[get_origin(hint) or hint][0]


def _members(hint: Any) -> Sequence[Any]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a class and of its constructors, without those that name types its module lacks."""
    hints: dict[str, Any] = {}
    for cls in reversed(kind.__mro__):
        declares = '__signature__' in vars(cls)  # a distiller
        for owner in (*([cls] if declares else []), vars(cls).get('__init__', cls)):
            with suppress(TypeError):  # from constructors in C
                plain = inspect.unwrap(owner) if callable(owner) else owner
                for name, hint in inspect.get_annotations(plain).items():
                    names = getattr(plain, '__globals__', None) or vars(sys.modules.get(plain.__module__, builtins))
                    with suppress(NameError):
                        hints[name] = eval(hint, names, dict(vars(cls))) if isinstance(hint, str) else hint
    return hints


def check_option(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise a ``ValueError`` with the option, its value and the allowed values unless ``value`` is one of them."""
    if value not in allowed:
        raise ValueError(f'{name} must be one of {", ".join(repr(a) for a in allowed)}, got {value!r}.')


def check_weights(**weights: float) -> None:
    """Raise a ``ValueError`` that names the options if a weight is below 0 or all are 0."""
    if min(weights.values()) < 0 or not any(weights.values()):
        texts = ', '.join(map(str, weights.values()))
        raise ValueError(f'{", ".join(weights)} must be >= 0 and not all 0, got {texts}; loss_weight=0 leaves it out.')


def counted(text: str) -> int:
    """Return a word of a command line as a number of 1 or more; the ``type`` of such an argument."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more, got {text!r}')
    return int(text)


def fraction(text: str) -> float:
    """Return a word of a command line as a number from 0 to 1; the ``type`` of such an argument."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f'must be a number from 0 to 1, got {text!r}')


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number and not a bool."""
    return _is(value, float)


def check_map(key: str, name: str, shape: Sequence[int]) -> None:
    """Raise a ``ValueError`` with the config key and the taps unless ``shape`` (without the batch) is (C, H, W)."""
    if len(shape) != 3:
        problem = f'{name} gives {tuple(shape)} (without the batch) and no map (C, H, W)'
        raise ValueError(f"{key}: {problem}: tap e.g. 'backbone[-1]'.")


def check_positions(key: str, name: str, *shapes: Sequence[int]) -> None:
    """Raise a ``ValueError`` for a map (C, H, W) of one position, for methods that compare positions."""
    for shape in shapes:
        if math.prod(shape[1:]) < 2:
            problem = f'{name} has a map of {shape[1]} x {shape[2]}'
            raise ValueError(f'{key}: {problem}, and the method compares positions with each other: tap a larger map.')


def check_directions(key: str, name: str, channels: int) -> None:
    """Raise a ``ValueError`` for maps of one channel, for methods that compare the directions of vectors."""
    if channels < 2:
        problem = f'{name} has maps of one channel, and the method compares directions of vectors'
        raise ValueError(f'{key}: {problem}: tap a map of more.')


def check_scores(key: str, name: str, shape: Sequence[int]) -> None:
    """Raise a ``ValueError`` unless ``shape`` (without the batch) has the class scores in its first axis."""
    if len(shape) not in (1, 3):
        problem = f'{name} gives {tuple(shape)} (without the batch), and no class scores (K, H, W) or (K,)'
        remedy = "tap e.g. 'decode_head.conv_seg', or compare features, e.g. with type='FitNet'"
        raise ValueError(f'{key}: {problem}: {remedy}.')


def check_classes(key: str, name: str, scores: int, way_out: str) -> None:
    """Raise a ``ValueError`` for a softmax over one score; ``way_out`` says what to set instead."""
    if scores < 2:
        raise ValueError(f'{key}: {name} has one class score, of which a softmax is always 1: set {way_out}.')
