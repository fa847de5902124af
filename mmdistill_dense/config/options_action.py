"""Read ``--cfg-options`` of a command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction


class OptionsAction(DictAction):
    """mmengine's action for ``KEY=VALUE …``, which keeps the blanks of a single value.

    mmengine takes all blanks out, which breaks paths. Lists (``a,b`` or ``[a, b]``) are read as there. A word that is
    no ``KEY=VALUE`` is an error of the command line.
    """

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Return the value of one option: a number, boolean, ``None``, text, list or tuple."""
        text = val.strip().strip('\'"')
        listed = ',' in text or (text[:1], text[-1:]) in (('(', ')'), ('[', ']'))
        return DictAction._parse_iterable(val) if listed else DictAction._parse_int_float_bool(text)

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: str | Sequence[Any] | None, option: Any = None
    ) -> None:
        """Add the options to those of the namespace."""
        for value in values or ():
            if '=' not in str(value):
                parser.error(f'--cfg-options {value}: give KEY=VALUE; put quotes around a value with blanks.')
        super().__call__(parser, namespace, values, option)
