"""The one sentence about a mistake that the package knows, as the last line of a program that ends with an error."""

import os
import sys
import time
import traceback
from functools import cache
from itertools import dropwhile
from pathlib import Path
from types import TracebackType

from mmdistill_dense.utils.files import write_json
from mmdistill_dense.utils.validate import first_line, text_of

_PACKAGE = f'{Path(__file__).parents[1]}{os.sep}'
_BUGS = (AttributeError, IndexError, NameError, ZeroDivisionError)  # which a `raise` may end in, and none names
_LARGER = 'Train on larger pictures (--size of `new`, else the Resize of the pipeline).'
# what others raise for a mistake of a config, by a part of their text
_OF_OTHERS = {
    'Expected more than 1 value per channel when training': 'train_dataloader.batch_size=1: a batch norm behind global '
    'pooling (DeepLabV3, PSPNet) has one value a channel to normalise. Set it to 2 or more, for each process.',
    'selected index k out of range': f'perhaps the maps have fewer places than num_queries. {_LARGER}',
    'Default process group has not been initialized': 'perhaps MMSyncBN needs processes. Set norm_cfg.type to SyncBN.',
    'Output size is too small': f'a map is smaller than the window of its pooling, as of LR-ASPP. {_LARGER}',
    'input image is smaller than kernel': f'a map is smaller than the kernel of a deformable convolution. {_LARGER}',
}


def known_mistake(error: BaseException) -> str:
    """Return what an error means to the user: the message of a ``raise`` of this package, or ours for one of others.

    The first in the chain of causes counts; empty if there is none.
    """
    cause: BaseException | None = error
    while cause is not None:
        if message := next((message for part, message in _OF_OTHERS.items() if part in str(cause)), ''):
            return f'{message} The library says: {first_line(cause)}'
        # of a reading process, whose error torch tells with its whole traceback, the last place is in that text
        _, _, last = ''.join(traceback.format_exception(cause, chain=False)).rpartition('  File "')
        _, line, *tail = *last.splitlines(), '', ''
        if last.startswith(_PACKAGE) and line.strip().startswith('raise ') and not isinstance(cause, _BUGS):
            if ' in DataLoader worker process ' not in str(cause):
                return text_of(cause)
            return '\n'.join(dropwhile(lambda text: text.startswith(' '), tail)).partition(': ')[2].strip()
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ''


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
        if message := known_mistake(error):
            tell(message)

    sys.excepthook = hook
