"""What students may start from instead of their control's first weights: the key ``starts`` of a definition."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdistill_dense.suite.definition.reader import NAME, Reader, config_file

RANDOM = 'random'  # needs no entry
BACKBONE = 'backbone.'  # of training checkpoints
_VARIABLE = re.compile(r'\{\{\s*\$(\w+)\s*:\s*([^{}]*?)\s*\}\}')  # as mmengine's configs have them


@dataclass(frozen=True)
class Start:
    """Where first weights are from: of ``config``, ``checkpoint`` and ``inherit`` one; none: a random backbone.

    Attributes:
        name: In the definition.
        config: A pre-training, which is a run of the suite.
        options: Settings of the pre-training that replace some of its config's.
        seed: Of the pre-training; ``None``: each seed has its own.
        checkpoint: A file, or its address, as it is written: variables of the environment stand in it.
        prefix: Of the backbone's tensors in the file.
        inherit: Parts that are copied from the teacher, as ``model.inherit`` has them; the backbone is the control's.
    """

    name: str
    config: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = 0
    checkpoint: str | None = None
    prefix: str | None = None
    inherit: tuple[tuple[str, ...], ...] = ()

    @property
    def key(self) -> str:
        """The key in the definition, for errors."""
        return f'starts.{self.name}.{"pretrain" if self.config else "inherit" if self.inherit else "checkpoint"}'

    @property
    def given(self) -> str:
        """The checkpoint, the variables of the environment filled in."""
        return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[2]), self.checkpoint or '')

    def text(self) -> str:
        """Return in words what it is."""
        if self.inherit:
            return f"the teacher's {', '.join(pair[1] for pair in self.inherit)}"
        if self.config is None:
            return f'the file {Path(self.checkpoint).name}' if self.checkpoint else 'random weights'
        options = ' '.join(f'{key}={value}' for key, value in self.options.items())
        seed = 'one for each seed' if self.seed is None else f'one for all seeds, of seed {self.seed}'
        return f'pre-training `{self.config.stem}`' + (f' with `{options}`' if options else '') + f', {seed}'

    def seed_for(self, seed: int) -> int:
        """Return the seed of the pre-training that a run of some seed starts from."""
        return seed if self.seed is None else self.seed


def read_starts(top: Reader) -> dict[str, Start]:
    """Read the key ``starts``.

    Raises:
        FileNotFoundError: When the config of a pre-training does not exist.
        ValueError: For keys that are unknown or do not go together, and names that cannot be a folder's.
    """
    inner = top.inner('starts', top.raw.get('starts') or {})
    found = {str(name): _start(str(name), inner.inner(str(name), value)) for name, value in inner.raw.items()}
    return {**found, RANDOM: Start(RANDOM)}


def _start(name: str, option: Reader) -> Start:
    if name == RANDOM or not NAME.fullmatch(name):
        raise option.error(
            '', f'a name is made of letters, digits and .+-_ and is not {RANDOM!r}, which needs no entry'
        )
    kinds = {'pretrain': {'options', 'seed', 'per_seed'}, 'checkpoint': {'prefix'}, 'inherit': set()}
    option.only(kinds.keys() | {'prefix', 'options', 'seed', 'per_seed'})
    given = [kind for kind in kinds if kind in option.raw]
    if len(given) != 1:
        raise option.error(
            '', 'give one of `pretrain`, a config, `checkpoint`, a file, `inherit`, parts of the teacher'
        )
    foreign = option.raw.keys() - kinds[given[0]] - {given[0]}
    if foreign:
        raise option.error(sorted(foreign)[0], f'does not go with `{given[0]}`')
    if given == ['checkpoint']:
        return Start(name, checkpoint=option.get('checkpoint', str), prefix=option.get('prefix', str, None))
    if given == ['inherit']:
        return Start(name, inherit=_inherit(option))
    return _pretraining(name, option)


def _inherit(option: Reader) -> tuple[tuple[str, ...], ...]:
    from mmdistill_dense.networks.inherit import parse_inherit  # imports torch

    pairs = option.get('inherit', list)
    try:
        parse_inherit(pairs)
    except TypeError as error:
        raise option.error('inherit', str(error)) from error
    return tuple(tuple(pair) for pair in pairs)


def _pretraining(name: str, option: Reader) -> Start:
    each = option.get('per_seed', bool, False)
    if each and 'seed' in option.raw:
        raise option.error('per_seed', 'true gives each seed its own pre-training; `seed` is for a single one')
    file = config_file(option, 'pretrain', option.get('pretrain', str), 'pcd')
    seed = None if each else option.count('seed', 0, least=0)
    return Start(name, file, option.options('options'), seed, prefix=BACKBONE)
