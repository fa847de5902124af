"""Random generators that a data set and the steps of its pipeline hold, beside the global streams."""

import ast
import inspect
import random
import sys
import textwrap
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

_KINDS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)
_LEAVES = (str, bytes, int, float, np.ndarray, torch.Tensor, type, ModuleType, type(None))
_MEMBERS, _OBJECTS = 256, 20_000  # longer lists hold pictures, not steps
_ANNOTATIONS = 'data_list', 'data_infos', 'img_infos'  # of mmengine's data sets, and of older ones
# make generators that draw their seed from the system if they get none
_MAKERS = ('default_rng', 'RandomState', 'Random', 'PCG64', 'MT19937', 'Philox', 'SFC64')
_SYSTEM = ('SystemRandom', 'urandom', 'token_bytes', 'randbits')
_SEEDS, _CLOCKS = ('seed', 'manual_seed'), ('time', 'time_ns', 'perf_counter', 'perf_counter_ns', 'monotonic', 'getpid')


class Generators:
    """The random generators that an object, what it holds, and their classes and modules have.

    Libraries such as albumentations draw from generators of their own, which seeds of the global streams do not reach.
    They are looked for once.
    """

    def __init__(self, holder: Any) -> None:
        shared = {id(np.random.mtrand._rand), id(random._inst), id(torch.default_generator)}
        self._owners = list[Any]()
        self._slots: list[tuple[Any, Any]] = []  # what holds a generator under which key: it may be replaced
        for owner in walk_objects(holder):
            slots = [slot for table in _tables(owner) for slot in _slots(table) if id(slot[0][slot[1]]) not in shared]
            shared |= {id(table[key]) for table, key in slots}
            self._slots += slots
            self._owners.append(owner)

    def __len__(self) -> int:
        return len(self._slots)

    def seed(self, seed: int) -> None:
        """Give each generator a stream that follows from a seed and the generator's number."""
        for number, (table, key) in enumerate(self._slots):
            with suppress(LookupError, TypeError, ValueError, NotImplementedError):  # gone, or named by `unseeded`
                _seed(table[key], zlib.crc32(f'{seed}/{number}'.encode()))

    def unseeded(self) -> list[str]:
        """Return the names of what draws random numbers from the system, so that no seed reaches it."""
        names = {type(table[key]).__name__ for table, key in self._slots if not _takes_seed(table[key])}
        return sorted(names.union(*map(_draws_from_the_system, self._owners)))


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


def walk_objects(holder: Any) -> Iterator[Any]:
    """Yield an object and those below it that may hold generators: no arrays, no long lists and no annotations."""
    memo, queue = {id(holder): holder}, deque([holder])
    while queue:
        owner = queue.popleft()
        if isinstance(owner, (*_LEAVES, *_KINDS)):
            continue
        yield owner
        if isinstance(owner, (dict, list, tuple)):
            members = (owner.values() if isinstance(owner, dict) else owner) if len(owner) <= _MEMBERS else ()
        else:
            names = getattr(owner, '__dict__', {})
            members = [member for name, member in names.items() if name not in _ANNOTATIONS]
            members += [getattr(owner, '__self__', None), *_contents(owner)]
            members += [owner.func, owner.keywords] if isinstance(owner, partial) else []
        for member in members:
            if not isinstance(member, (*_LEAVES, *_KINDS)) and id(member) not in memo and len(memo) < _OBJECTS:
                memo[id(member)] = member
                queue.append(member)


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


def of_modules(network: Any) -> list[dict[str, Any]]:
    """Return the generators that modules of a network hold, by their names there."""
    modules = network.modules() if isinstance(network, nn.Module) else ()
    tables = ({name: rng for name, rng in vars(module).items() if isinstance(rng, _KINDS)} for module in modules)
    return [table for table in tables if table]


def _draws_from_the_system(owner: Any) -> Iterator[str]:
    """Yield the methods of a local class that make generators without a seed while pictures are loaded.

    Functions of its module that a method calls are parts of it.
    """
    if _is_local(owner) and _makes_unseeded(owner, owner):
        yield owner.__name__
    members = {name: member for base in reversed(type(owner).__mro__) for name, member in vars(base).items()}
    for name, method in members.items():
        if name != '__init__' and _is_local(method):
            helpers = [method.__globals__.get(name) for name in method.__code__.co_names]
            if any(_makes_unseeded(function, owner) for function in (method, *filter(_is_local, helpers))):
                yield f'{type(owner).__name__}.{name}'


def _is_local(function: Any) -> bool:
    if not inspect.isfunction(function) or '-packages' in function.__code__.co_filename:
        return False
    return function.__module__.split('.')[0] not in sys.stdlib_module_names


def _makes_unseeded(function: Any, owner: Any) -> bool:
    """Tell whether a function makes a generator without a seed, and gives it none afterwards."""
    with suppress(OSError, TypeError, SyntaxError):  # without a source
        nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
        calls = [(_called(node), node) for node in nodes if isinstance(node, ast.Call)]
        seeds = [node for name, node in calls if name in _SEEDS and not _is_self(getattr(node.func, 'value', None))]
        if any(name in _SYSTEM for name, _ in calls) or any(_is_unseeded(node, owner) for node in seeds):
            return True
        return not seeds and any(name in _MAKERS and _is_unseeded(node, owner) for name, node in calls)
    return False


def _called(call: ast.Call) -> str:
    return getattr(call.func, 'attr', getattr(call.func, 'id', ''))


def _is_self(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == 'self'


def _is_unseeded(call: ast.Call, owner: Any) -> bool:
    """Tell whether a call's seed is none, ``None``, also as an attribute of the step, or the time."""
    seeds = [*call.args, *(keyword.value for keyword in call.keywords)]
    for seed in seeds:
        option = getattr(owner, seed.attr, 0) if isinstance(seed, ast.Attribute) and _is_self(seed.value) else 0
        times = (_called(node) in _CLOCKS for node in ast.walk(seed) if isinstance(node, ast.Call))
        if option is None or (isinstance(seed, ast.Constant) and seed.value is None) or any(times):
            return True
    return not seeds
