"""The key ``starts`` of a definition: first weights for students that differ from the control's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdistill_dense.apps.suite.reader import NAME, Reader, config_file

RANDOM = 'random'  # built in, without an entry
BACKBONE = 'backbone.'  # prefix of the backbone in training checkpoints
_VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*([^{}]*?)\s*\}\}')  # as in mmengine's configs


@dataclass(frozen=True)
class Start:
    """First weights: one of ``config``, ``checkpoint`` and ``inherit`` is set, or none for a random backbone."""

    name: str
    config: Path | None = None  # the config of a pre-training, which is a run of the suite
    options: Mapping[str, Any] = field(default_factory=dict)  # settings that replace some of that config
    seed: int | None = 0  # the seed of the pre-training; ``None`` for one pre-training per seed of the suite
    checkpoint: str | None = None  # A path or an address, with the environment variables not yet filled in
    prefix: str | None = None  # the prefix of the backbone's tensors in the file
    # parts to copy from the teacher, as in ``model.inherit``. The backbone then starts as the control's.
    inherit: tuple[tuple[str, ...], ...] = ()

    @property
    def key(self) -> str:
        """The key in the definition, for error messages."""
        return f'starts.{self.name}.{"pretrain" if self.config else "inherit" if self.inherit else "checkpoint"}'

    @property
    def given(self) -> str:
        """The checkpoint, with the environment variables filled in."""
        return filled(self.checkpoint or '')

    def text(self) -> str:
        """Describe it in words."""
        if self.inherit:
            return f"the teacher's {', '.join(pair[1] for pair in self.inherit)}"
        if self.config is None:
            return f'the file {Path(self.checkpoint).name}' if self.checkpoint else 'random weights'
        seed = 'one for each seed' if self.seed is None else f'one for all seeds, of seed {self.seed}'
        return f'pre-training `{self.config.stem}`{with_options(self.options)}, {seed}'


def filled(value: Any) -> Any:
    """Return nested values with the environment variables of their texts filled in."""
    if isinstance(value, Mapping):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(one) for one in value]
    return _VARIABLE.sub(lambda one: os.environ.get(one[1], one[2]), value) if isinstance(value, str) else value


def with_options(options: Mapping[str, Any]) -> str:
    """Return `` with `key=value …` ``, or nothing without options."""
    return f' with `{" ".join(f"{key}={value}" for key, value in options.items())}`' if options else ''


def read_starts(top: Reader) -> dict[str, Start]:
    """Read the key ``starts``."""
    inner = top.inner('starts')
    found = {str(name): _start(str(name), inner.inner(str(name), value)) for name, value in inner.raw.items()}
    return {**found, RANDOM: Start(RANDOM)}


def _start(name: str, option: Reader) -> Start:
    if name == RANDOM or not NAME.fullmatch(name):
        raise option.error('', f'a name consists of letters, digits and .+-_, and {RANDOM!r} is built in')
    kinds = {'pretrain': {'options', 'seed', 'per_seed'}, 'checkpoint': {'prefix'}, 'inherit': set()}
    option.only(kinds.keys() | {'prefix', 'options', 'seed', 'per_seed'})
    given = [kind for kind in kinds if kind in option.raw]
    if len(given) != 1:
        raise option.error('', 'needs exactly one of `pretrain` (a config), `checkpoint` (a file) and `inherit`')
    foreign = option.raw.keys() - kinds[given[0]] - {given[0]}
    if foreign:
        raise option.error(sorted(foreign)[0], f'cannot be combined with `{given[0]}`')
    if given == ['checkpoint']:
        return Start(name, checkpoint=option.get('checkpoint', str), prefix=option.get('prefix', str, None))
    if given == ['inherit']:
        return Start(name, inherit=_inherit(option))
    return _pretraining(name, option)


def _inherit(option: Reader) -> tuple[tuple[str, ...], ...]:
    from mmdistill_dense.networks.inherit import parse_inherit  # imports torch

    pairs = option.get('inherit', list)
    with option.naming('inherit'):
        parse_inherit(pairs)
    return tuple(tuple(pair) for pair in pairs)


def _pretraining(name: str, option: Reader) -> Start:
    each = option.get('per_seed', bool, False)
    if each and 'seed' in option.raw:
        raise option.error('per_seed', 'true means one pre-training per seed; `seed` is for a single one')
    file = config_file(option, 'pretrain', option.get('pretrain', str), 'pcd')
    seed = None if each else option.count('seed', 0, least=0)
    return Start(name, file, option.options('options'), seed, prefix=BACKBONE)
