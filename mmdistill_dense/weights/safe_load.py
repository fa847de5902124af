"""Read files of weights as tensors and plain values, without running code from them.

torch's own reader (``weights_only=True``) refuses every class but its own. A runner writes more: numpy values, log
histories, config dicts, the two functions of mmengine's one-cycle schedule, argparse's namespaces. Stand-ins, each of
which accepts only plain values, rebuild these. The real numpy types are not allowed, because their pickled state may
declare raw bytes to be pointers to Python objects, and reading would then access any address.

A zip of torch.save holds a checksum of every member. torch does not check it, so a flipped bit would become a weight.
"""

import json
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import Tensor

_KINDS = re.compile(r'[?biufcSU]\d*$')  # numpy types that hold values, not objects
_SHOWN = 300  # characters of a reason in an error
_PART = 2**20  # bytes that are read at a time
_WRAPPERS = re.compile(r'(?<![^.])_(?:orig_mod|checkpoint_wrapped_module|fsdp_wrapped_module)\.')
INDEX = '.safetensors.index.json'  # lists the files of large weights
SAFETENSORS_META = 'mmdistill_dense'  # the entry of a safetensors header that holds our metadata as JSON
_ONE_CYCLE = object()  # stands for mmengine's one-cycle schedule, whose saved state refers to one of its functions


class _DType:
    """Stand-in for a numpy type: its code and byte order, nothing else."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _KINDS.match(code):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')
        self.real = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.real = self.real.newbyteorder(state[1])


class _Array:
    """Stand-in for the result of numpy's ``_reconstruct``; :func:`_replace_stand_ins` takes the array ``real``."""

    def __init__(self, *_: Any) -> None:
        self.real = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        values = np.frombuffer(raw, dtype.real).reshape(shape, order='F' if fortran else 'C')
        self.real = values.astype(values.dtype.newbyteorder('='), 'K')  # a copy, which is writable as numpy's own


class _History:
    """Stand-in for a ``HistoryBuffer``; it becomes one as soon as its three values are known."""

    def __setstate__(self, state: Any) -> None:
        log, counts = (np.array(_replace_stand_ins(state[name])) for name in ('_log_history', '_count_history'))
        vars(self).update(max_length=int(state['max_length']), _log_history=log, _count_history=counts)
        self.__class__ = HistoryBuffer
        HistoryBuffer._set_default_statistics(self)


def _scalar(dtype: Any, raw: Any = b'') -> Any:
    return np.frombuffer(raw, dtype.real, count=1)[0]  # in this machine's byte order


def _attribute(owner: Any, name: Any) -> Any:
    """Stand in for ``getattr``, by which histories refer to their statistics and a schedule to its function."""
    if owner is _History:
        return None  # _History sets the statistics itself
    if owner is _ONE_CYCLE and name in ('_annealing_cos', '_annealing_linear'):
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError('GLOBAL builtins.getattr')


_STAND_INS: dict[str, Any] = {
    'argparse.Namespace': Namespace,
    'builtins.bytes': lambda *_: b'',  # pickles of protocol 2 call it for empty ones alone
    'builtins.getattr': _attribute,
    'builtins.slice': slice,
    'mmengine.config.config.ConfigDict': ConfigDict,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _ONE_CYCLE,
    'numpy.dtype': _DType,
    'numpy.ndarray': _Array,
    # These functions have different paths in numpy 1 and 2, and files are moved between the two.
    **{f'numpy.{core}.multiarray._reconstruct': _Array for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
}


def read_values(
    file: str | Path | IO[bytes], name: str | None = None, map_location: Any = 'cpu', lazily: bool = False
) -> Any:
    """Read any file that ``torch.save`` or safetensors wrote; ``lazily`` leaves the tensors of a zip on the disk, where
    nothing checks their sums.

    ``torch.serialization.add_safe_globals`` allows a further class that holds nothing but values.
    """
    name = name or (str(file) if isinstance(file, (str, Path)) else 'the file')
    try:
        if name.endswith('.safetensors'):
            return _read_safetensors(file, map_location)
        if name.endswith(INDEX):
            return _read_parts(Path(name), map_location)
        if not lazily:
            _check_sums(file)
        with _stand_ins():
            return _replace_stand_ins(torch.load(file, map_location=map_location, weights_only=True, mmap=lazily))
    except (FileNotFoundError, PermissionError, IsADirectoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise _refusal(name, error) from error


def _check_sums(file: str | Path | IO[bytes]) -> None:
    """Raise an error for a zip whose checksums do not fit; files of the old format have none."""
    with open(file, 'rb') if isinstance(file, (str, Path)) else nullcontext(file) as stream:
        offset = stream.tell()
        if stream.read(4) == b'PK\x03\x04':
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                if len({member.filename for member in members}) < len(members):
                    raise zipfile.BadZipFile('two members have one name')
                for member in members:
                    # torch does not compress, and a small member could expand to any size
                    if member.compress_type != zipfile.ZIP_STORED:
                        raise zipfile.BadZipFile(f'{member.filename!r} is compressed')
                    with archive.open(member) as content:
                        while member.CRC and content.read(_PART):  # 0 after torch's set_crc32_options(False)
                            pass
        stream.seek(offset)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Make torch use the stand-ins, even where the real classes were allowed before."""
    before = torch.serialization.get_safe_globals()
    names = (entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}' for entry in before)
    entries = [entry for entry, name in zip(before, names, strict=True) if name not in _STAND_INS]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*entries, *((value, name) for name, value in _STAND_INS.items())])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _replace_stand_ins(value: Any, memo: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Replace the stand-ins by numpy values, in place except in tuples; visit each object once."""
    # By address: the value, so that the address stays in use, and its replacement.
    memo = {} if memo is None else memo
    if isinstance(value, (_Array, _DType)):
        return value.real
    if id(value) not in memo:
        memo[id(value)] = value, value
        if isinstance(value, tuple):
            members = tuple(_replace_stand_ins(member, memo) for member in value)
            if type(value) is tuple and any(new is not old for new, old in zip(members, value, strict=True)):
                memo[id(value)] = value, members
        elif isinstance(value, list):
            value[:] = [_replace_stand_ins(member, memo) for member in value]
        elif isinstance(value, (dict, Namespace)):
            entries = value if isinstance(value, dict) else vars(value)
            for key, member in list(dict.items(entries)):
                dict.__setitem__(entries, key, _replace_stand_ins(member, memo))
    return memo[id(value)][1]


def _read_safetensors(file: Any, map_location: Any) -> dict[str, Any]:
    from safetensors import safe_open  # type: ignore[import-not-found,unused-ignore]

    if not isinstance(file, (str, Path)):
        raise ValueError('safetensors are read from a path')
    with safe_open(str(file), 'pt') as content:
        state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  (no mapping)
        meta = json.loads((content.metadata() or {}).get(SAFETENSORS_META, '{}'))
    if isinstance(map_location, (str, torch.device)):
        state = {name: tensor.to(map_location) for name, tensor in state.items()}
    return {'state_dict': state, 'meta': meta if isinstance(meta, dict) else {}}


def part_files(index: Path) -> dict[str, list[str]]:
    """Return the tensors of each file that an index lists, by the file's name."""
    files = json.loads(index.read_text(encoding='utf-8')).get('weight_map')
    if not isinstance(files, dict) or not files:
        raise ValueError('it has no weight_map')
    parts: dict[str, list[str]] = {}
    for tensor, name in files.items():
        if Path(str(name)).name != name or not name.endswith('.safetensors'):
            raise ValueError(f'{name!r} is no .safetensors file beside it')
        parts.setdefault(name, []).append(tensor)
    return parts


def _read_parts(index: Path, map_location: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, names in part_files(index).items():
        tensors = _read_safetensors(index.parent / name, map_location)['state_dict']
        if strays := sorted(tensors.keys() ^ set(names)):
            raise ValueError(f'{name} holds other tensors than the index lists: {strays[0]} and {len(strays) - 1} more')
        state |= tensors
    return {'state_dict': state, 'meta': {}}


def _refusal(name: str, error: Exception) -> ValueError:
    match = re.search(r'GLOBAL (\S+)', str(error))
    if isinstance(error, pickle.UnpicklingError) and match:
        return ValueError(
            f'{name!r} holds more than tensors and plain values ({match[1]}), which could run code. If you trust the '
            "file: torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW); if it holds "
            'only values: torch.serialization.add_safe_globals.'
        )
    # a damaged length field needs any memory, and the rest of a text may be a piece of the file
    text = 'it needs more memory than there is' if isinstance(error, MemoryError) else str(error)
    sentence = re.split(r'\n|\. ', text)[0][:_SHOWN] or 'it ends too early'
    reason = 'not written by torch.save' if isinstance(error, pickle.UnpicklingError) else sentence
    return ValueError(f'{name!r} is no readable checkpoint (damaged, truncated or of another kind): {reason}')


def read_checkpoint(path: str | Path, lazily: bool = False) -> dict[str, Any]:
    """Read a checkpoint: a dictionary of tensors and plain values, or a runner's file with its history."""
    content = read_values(path, lazily=lazily)
    if not isinstance(content, dict):
        raise ValueError(f'{str(path)!r} holds a {type(content).__name__}, not a dictionary of weights.')
    if not isinstance(content.get('meta') or {}, Mapping):
        raise ValueError(f"{str(path)!r} is damaged: its 'meta' is a {type(content['meta']).__name__}, not a dict.")
    return content


def plain_name(name: Any) -> Any:
    """Return a name without what DDP, FSDP, torch.compile and recomputed activations put into it."""
    return re.sub(r'^(module\.)+', '', _WRAPPERS.sub('', name)) if isinstance(name, str) else name


def plain_names(entries: Mapping[Any, Any], file: str) -> dict[Any, Any]:
    """Return a file's entries by their plain names; a ``ValueError`` says which name two different tensors share."""
    plain = {plain_name(name): entry for name, entry in entries.items()}
    for name, entry in entries.items() if len(plain) < len(entries) else ():
        other = plain[plain_name(name)]
        if isinstance(entry, Tensor) and isinstance(other, Tensor) and not torch.equal(entry, other):
            raise ValueError(f'{file} holds another {plain_name(name)} beside {name}: save one of the two networks.')
    return plain


def read_for_mmengine(file: str | Path | IO[bytes], name: str | None = None, map_location: Any = 'cpu') -> Any:
    """Read a file, its names without wrappers where mmengine and backbones that read files themselves look.

    A leading ``module.`` stays: mmengine cuts it itself, or compares it with the prefix of an ``init_cfg``.
    """
    content = read_values(file, name, map_location)
    for part in (content, content.get('state_dict'), content.get('model')) if isinstance(content, dict) else ():
        if isinstance(part, dict):
            plain_names(part, repr(name or str(file)))
            entries = {_WRAPPERS.sub('', key) if isinstance(key, str) else key: entry for key, entry in part.items()}
            part.clear()  # a state dict keeps its metadata
            part.update(entries)
    return content
