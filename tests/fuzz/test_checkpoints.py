"""Changed and hostile checkpoints give the right content or an error that names the file, and run nothing."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save
from torch import nn

from mmdistill_dense.weights.mmengine_loader import install_reader
from mmdistill_dense.weights.safe_load import read_checkpoint, read_values
from mmdistill_dense.weights.strict_load import load_strictly, state_dict_of
from tests import payload, toys
from tests.fuzz.examples import few, many
from tests.payload import Reduced, unequal, written

Draw = Callable[..., Any]


def cut(value: Any) -> Any:
    """A runner's file with little of its tensors: the same structure in a hundredth of the bytes."""
    if isinstance(value, torch.Tensor):
        return value.flatten()[:3].clone()
    if isinstance(value, dict) and type(value).__name__ in ('dict', 'OrderedDict'):
        return {key: cut(member) for key, member in list(value.items())[:12]}
    return [cut(member) for member in value[:3]] if type(value) is list else value


def changed_bytes(draw: Draw, content: bytes) -> bytes:
    """Truncated, bits flipped, a stretch overwritten, left out, doubled or exchanged with another."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        start, other = (draw(st.integers(0, max(len(raw) - 1, 0))) for _ in range(2))
        end = min(start + draw(st.integers(1, 64)), len(raw))
        kind = draw(st.sampled_from(['cut', 'flip', 'write', 'drop', 'double', 'swap']))
        if kind == 'cut':
            del raw[start:]
        elif kind == 'flip' and raw:
            raw[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == 'swap':
            raw[start:end], raw[other : other + 8] = raw[other : other + 8], raw[start:end]
        else:
            new = draw(st.binary(min_size=1, max_size=16)) if kind == 'write' else 2 * raw[start:end]
            raw[start:end] = b'' if kind == 'drop' else new
    return bytes(raw)


def members_of(content: bytes) -> dict[str, bytes]:
    """The files inside a zip, by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with right checksums, so that what is wrong lies deeper."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return out.getvalue()


def hostile(draw: Draw, content: bytes, mark: Path) -> bytes:
    """The checkpoint with a call in the place of its pickle; each call would leave the mark."""
    touch = f'open({str(mark)!r}, "w")'
    calls = (exec, touch), (eval, touch), (os.system, f'touch {mark}'), (Path(mark).touch,)
    other_calls = (getattr, Path, 'touch'), (torch.load, str(mark))
    call = draw(st.sampled_from([Reduced(*call) for call in (*calls, *other_calls)]))
    contents = [call, [call], {'state_dict': {'w': call}}, {'meta': call}, {'state_dict': {call: 1}}]
    raw = pickle.dumps(draw(st.sampled_from(contents)), protocol=draw(st.integers(2, 5)))
    if draw(st.booleans()):
        return raw
    members = members_of(content)
    members[next(name for name in members if name.endswith('data.pkl'))] = raw
    return zipped(members)


@pytest.fixture(scope='module', autouse=True)
def reader() -> None:
    install_reader()


@pytest.fixture(scope='module')
def content() -> dict[str, Any]:
    """What a runner wrote, histories and optimizer and all, with short tensors."""
    return cut(read_checkpoint(toys.teacher_file('fcn', runner_file=True)))


@pytest.fixture(scope='module')
def files(content: dict[str, Any]) -> dict[str, bytes]:
    """It in every format."""
    new, old = (written(content, _use_new_zipfile_serialization=flag) for flag in (True, False))
    tensors = {name: value.clone() for name, value in content['state_dict'].items()}
    return {'new.pth': new, 'old.pth': old, 'a.safetensors': save(tensors)}


def reads(path: Path) -> Any:
    """Every reader on one file: each gives an answer, or the error that it documents.

    All read onto the CPU: without ``map_location`` torch needs the device's name in the file, which may be damaged too.
    """
    values = refused = None
    for reader in (read_values, lambda path: CheckpointLoader.load_checkpoint(str(path), map_location='cpu')):
        try:
            values = reader(path)
        except ValueError as error:
            refused = error
            assert str(path) in str(error) and len(str(error)) < 2000
    try:
        state = state_dict_of(read_checkpoint(path), path)
        load_strictly(nn.Linear(3, 3), state, None, f'checkpoint={str(path)!r}')
    except ValueError as error:
        assert str(path) in str(error)
    assert (values is None) == (refused is not None), 'the readers agree'
    return values


def bytes_change(draw: Draw, files: dict[str, bytes], folder: Path) -> None:
    """The zip of torch holds sums: what is read of a changed one is what was written."""
    name = draw(st.sampled_from(sorted(files)))
    path = folder / name
    path.write_bytes(changed_bytes(draw, files[name]))
    actual = reads(path)
    if actual is not None and name == 'new.pth':
        (folder / 'whole.pth').write_bytes(files[name])
        assert not unequal(actual, read_values(folder / 'whole.pth'))


def calls_are_refused(draw: Draw, files: dict[str, bytes], folder: Path) -> None:
    mark, path = folder / 'mark', folder / 'a.pth'
    path.write_bytes(hostile(draw, files['new.pth'], mark))
    with payload.trusting_torch():
        actual = reads(path)
    assert not mark.exists() and actual is None


@pytest.mark.parametrize('effort', [few, pytest.param(many, marks=pytest.mark.soak)], ids=['few', 'many'])
@pytest.mark.parametrize('promise', [bytes_change, calls_are_refused])
def test_promise(promise: Callable[..., None], effort: Any, files: dict[str, bytes], tmp_path: Path) -> None:
    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        promise(data.draw, files, tmp_path)

    holds()


# What came out of it


def test_a_flipped_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    """torch writes a checksum and does not look at it; a few compressed bytes could ask for any memory."""
    weight, path = torch.arange(100.0), tmp_path / 'a.pth'
    whole = written(dict(state_dict=dict(w=weight)))
    raw = bytearray(whole)
    raw[raw.index(weight.numpy().tobytes()) + 41] ^= 1
    path.write_bytes(raw)
    assert not torch.equal(torch.load(path)['state_dict']['w'], weight), 'torch reads it as it is'
    with pytest.raises(ValueError, match=r"a\.pth' is no readable checkpoint .*Bad CRC-32 for file '.*/data/0'"):
        read_values(path)
    path.write_bytes(zipped(members_of(whole), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=r'no readable checkpoint .*is compressed'):
        read_values(path)


def test_values_that_are_named_often_are_walked_once(tmp_path: Path) -> None:
    value: Any = (torch.ones(1),)
    for _ in range(80):
        value = (value, value)  # 2 ** 80 leaves
    torch.save(dict(value=value), tmp_path / 'a.pth')
    actual = read_values(tmp_path / 'a.pth')['value']
    assert actual[0] is actual[1]


@pytest.mark.parametrize(('content', 'words'), [
    *((dict(state_dict=dict(weight=weight, bias=torch.ones(3))),
       rf'(?s)k does not fit Linear.*1 of another shape or kind.*unfit: .*{words}') for weight, words in (
        (torch.ones(3, 3, device='meta'), 'without values'),
        (torch.ones(3, 3, dtype=torch.int8), r'torch\.int8 \(model torch\.float32\)'),
        (torch.ones(3, 3, dtype=torch.complex64), r'torch\.complex64'),
        (torch.ones(3, 3).to_sparse(), r'torch\.sparse_coo'),
        (torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8), 'qint8'))),
    (dict(state_dict={0: torch.ones(1)}), 'holds no weights'),
    (dict(state_dict=dict(w=torch.ones(1)), meta=[1]), r"a\.pth' is damaged: its 'meta' is a list"),
])  # fmt: skip
def test_what_is_no_weight_is_named(content: Any, words: str, tmp_path: Path) -> None:
    """torch casts such tensors, or keeps what is there, and says nothing; a name may be no text."""
    path = tmp_path / 'a.pth'
    torch.save(content, path)
    with pytest.raises(ValueError, match=words):
        load_strictly(nn.Linear(3, 3), state_dict_of(read_checkpoint(path), path), None, 'k')
