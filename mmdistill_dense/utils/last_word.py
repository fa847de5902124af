"""The one sentence about a mistake that the package knows, as the last line of a program that ends with an error."""

from __future__ import annotations

import dis
import os
import sys
import time
from functools import cache
from itertools import dropwhile
from pathlib import Path
from types import TracebackType

from mmdistill_dense.utils.files import write_json
from mmdistill_dense.utils.validate import text_of

_PACKAGE = f'{Path(__file__).parents[1]}{os.sep}'
_RAISE = dis.opmap['RAISE_VARARGS']
# what others raise for a mistake of a config, by a part of their text
_OF_OTHERS = {
    'Expected more than 1 value per channel when training': 'train_dataloader.batch_size=1: a batch norm behind global '
    'pooling (DeepLabV3, PSPNet) has one value a channel to normalise. Set it to 2 or more, for each process.'
}


def known_mistake(error: BaseException) -> str:
    """Return what an error means to the user: the message of a ``raise`` of this package, or ours for one of others.

    The first in the chain of causes counts; empty if there is none.
    """
    one: BaseException | None = error
    while one is not None:
        if told := next((told for part, told in _OF_OTHERS.items() if part in str(one)), ''):
            return told
        trace = one.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename.startswith(_PACKAGE) and code.co_code[trace.tb_lasti] == _RAISE:
                return text_of(one)
        if ' in DataLoader worker process ' in str(one) and (told := _of_worker(str(one))):
            return told
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return ''


def _of_worker(text: str) -> str:
    """Return the message of a ``raise`` of this package in the traceback that torch makes a worker's error of."""
    _, _, last = text.rpartition('  File "')
    _, line, *rest = *last.splitlines(), '', ''
    if not last.startswith(_PACKAGE) or not line.strip().startswith('raise '):
        return ''
    return '\n'.join(dropwhile(lambda one: one.startswith(' '), rest)).partition(': ')[2].strip()


def tell(mistake: str) -> None:
    """Print a mistake as the last line, and let torchrun show it in its own report."""
    print(f'ERROR    {mistake}', file=sys.stderr, flush=True)
    if file := os.environ.get('TORCHELASTIC_ERROR_FILE'):
        write_json(Path(file), {'message': {'message': mistake, 'extraInfo': {'timestamp': int(time.time())}}})


@cache
def tell_at_the_end() -> None:
    """Let a program that ends with a known mistake say so once more below its traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if told := known_mistake(error):
            tell(told)

    sys.excepthook = hook
