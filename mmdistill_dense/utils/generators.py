"""Random generators that a data set and the steps of its pipeline hold, beside the global streams."""

from __future__ import annotations

import ast
import inspect
import random
import sys
import textwrap
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np
import torch

_KINDS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)
_LEAVES = (str, bytes, int, float, np.ndarray, torch.Tensor, type, ModuleType, type(None))
_MEMBERS, _OBJECTS = 256, 20_000  # longer lists hold pictures, not steps
_ANNOTATIONS = 'data_list', 'data_infos', 'img_infos'  # of mmengine's data sets, and of older ones
# make generators that draw their seed from the system if they get none
_MAKERS = ('default_rng', 'RandomState', 'Random', 'PCG64', 'MT19937', 'Philox', 'SFC64')
_SYSTEM = ('SystemRandom', 'urandom', 'token_bytes', 'randbits')


class Generators:
    """The random generators that an object, what it holds, and their classes and modules have.

    Libraries such as albumentations draw from generators of their own, which seeds of the global streams do not reach.
    They are looked for once.
    """

    def __init__(self, holder: Any) -> None:
        shared = {id(np.random.mtrand._rand), id(random._inst), id(torch.default_generator)}
        self._classes = list[type]()
        self._slots: list[tuple[Any, Any]] = []  # what holds a generator under which key: it may be replaced
        for owner in _objects(holder):
            slots = [slot for table in _tables(owner) for slot in _slots(table) if id(slot[0][slot[1]]) not in shared]
            shared |= {id(table[key]) for table, key in slots}
            self._slots += slots
            self._classes.append(type(owner))

    def seed(self, seed: int) -> None:
        """Give each generator a stream that follows from a seed and the generator's number."""
        for number, (table, key) in enumerate(self._slots):
            with suppress(LookupError, TypeError, ValueError, NotImplementedError):  # gone, or named by `unseeded`
                _seed(table[key], zlib.crc32(f'{seed}/{number}'.encode()))

    def unseeded(self) -> list[str]:
        """Return the names of what draws random numbers from the system, so that no seed reaches it."""
        names = {type(table[key]).__name__ for table, key in self._slots if not _takes_seed(table[key])}
        return sorted(names.union(*map(_draws_from_the_system, self._classes)))


def _seed(generator: Any, seed: int) -> None:
    """Seed a generator where it is, since others may share it."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    elif isinstance(generator, _KINDS):
        bits = _bits_of(generator)
        bits.state = type(bits)(seed).state


def _bits_of(generator: Any) -> Any:
    return getattr(generator, 'bit_generator', None) or getattr(generator, '_bit_generator', generator)


def _takes_seed(generator: Any) -> bool:
    if isinstance(generator, (torch.Generator, random.Random)):
        return not isinstance(generator, random.SystemRandom)
    with suppress(TypeError, ValueError, NotImplementedError):  # of a class of your own
        return bool(type(_bits_of(generator))(0).state)
    return False


def _objects(holder: Any) -> Iterator[Any]:
    """Yield an object and those below it that may hold generators: no arrays, no long lists and no annotations."""
    seen, waiting = {id(holder): holder}, deque([holder])
    while waiting:
        owner = waiting.popleft()
        if isinstance(owner, (*_LEAVES, *_KINDS)):
            continue
        yield owner
        if isinstance(owner, (dict, list, tuple)):
            members = (owner.values() if isinstance(owner, dict) else owner) if len(owner) <= _MEMBERS else ()
        else:
            names = getattr(owner, '__dict__', {})
            members = [member for name, member in names.items() if name not in _ANNOTATIONS]
            members += [getattr(owner, '__self__', None), *_contents(owner)]
        for member in members:
            if not isinstance(member, (*_LEAVES, *_KINDS)) and id(member) not in seen and len(seen) < _OBJECTS:
                seen[id(member)] = member
                waiting.append(member)


def _contents(function: Any) -> list[Any]:
    """Return what a function holds, as one in a step such as Lambda."""
    with suppress(ValueError):  # not yet filled
        return [cell.cell_contents for cell in getattr(function, '__closure__', None) or ()]
    return []


def _tables(owner: Any) -> Iterator[Any]:
    """Yield the mappings and lists in which an object has its members, those of its classes and of their modules."""
    if isinstance(owner, (dict, list, tuple)):
        yield owner
    else:
        modules = (sys.modules.get(cls.__module__) for cls in type(owner).__mro__)
        spaces = (owner, *type(owner).__mro__, *modules)
        yield from (getattr(space, '__dict__', {}) for space in spaces)
        yield getattr(owner, '__globals__', {})
        yield _contents(owner)


def _slots(table: Any) -> Iterator[tuple[Any, Any]]:
    members = [*table.items()] if hasattr(table, 'items') else enumerate(table)
    return ((table, key) for key, member in members if isinstance(member, _KINDS))


def _draws_from_the_system(cls: type) -> Iterator[str]:
    """Yield the methods of a local class that make generators without a seed while pictures are loaded."""
    members = {name: member for base in reversed(cls.__mro__) for name, member in vars(base).items()}
    methods = {name: one for name, one in members.items() if inspect.isfunction(one) and name != '__init__'}
    for name, method in methods.items():
        installed = '-packages' in method.__code__.co_filename
        if installed or method.__module__.split('.')[0] in sys.stdlib_module_names:
            continue
        with suppress(OSError, TypeError, SyntaxError):  # without a source
            nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method))))
            for call in (node for node in nodes if isinstance(node, ast.Call)):
                called = getattr(call.func, 'attr', getattr(call.func, 'id', ''))
                if called in _SYSTEM or (called in _MAKERS and not call.args and not call.keywords):
                    yield f'{cls.__name__}.{name}'
