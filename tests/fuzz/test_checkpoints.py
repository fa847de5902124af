"""Changed and hostile checkpoints give the right content or an error that names the file, and run nothing."""

import io
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
from tests.fuzz.mutations import changed_bytes, changed_zip, cut, few, hostile, many, members_of, zipped
from tests.weights.test_safe_load import unequal

Draw = Callable[..., Any]


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
    made = {}
    for name, new_format in (('new.pth', True), ('old.pth', False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new_format)
        made[name] = buffer.getvalue()
    tensors = {name: value.clone() for name, value in content['state_dict'].items()}
    return {**made, 'a.safetensors': save(tensors)}


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
    found = reads(path)
    if found is not None and name == 'new.pth':
        (folder / 'whole.pth').write_bytes(files[name])
        assert not unequal(found, read_values(folder / 'whole.pth'))


def members_change(draw: Draw, files: dict[str, bytes], folder: Path) -> None:
    path = folder / 'a.pth'
    path.write_bytes(changed_zip(draw, files['new.pth']))
    reads(path)


def calls_are_refused(draw: Draw, files: dict[str, bytes], folder: Path) -> None:
    mark, path = folder / 'mark', folder / 'a.pth'
    path.write_bytes(hostile(draw, files['new.pth'], mark))
    with payload.trusting_torch():
        found = reads(path)
    assert not mark.exists() and found is None


def anything(draw: Draw, files: dict[str, bytes], folder: Path) -> None:
    path = folder / draw(st.sampled_from(['a.pth', 'a.safetensors', 'a']))
    start = draw(st.sampled_from([b'', b'PK\x03\x04', b'\x80\x02', b'\x80\x02}', b'<html>', bytes(8)]))
    path.write_bytes(start + draw(st.binary(max_size=200)))
    reads(path)


@pytest.mark.parametrize('effort', [few, pytest.param(many, marks=pytest.mark.soak)], ids=['few', 'many'])
@pytest.mark.parametrize('promise', [bytes_change, members_change, calls_are_refused, anything])
def test_promise(promise: Callable[..., None], effort: Any, files: dict[str, bytes], tmp_path: Path) -> None:
    @effort
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        promise(data.draw, files, tmp_path)

    holds()


# What came out of it


def test_a_flipped_bit_of_a_weight_is_found(tmp_path: Path) -> None:
    """torch writes a checksum and does not look at it."""
    weight, path = torch.arange(100.0), tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(w=weight)), path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(weight.numpy().tobytes()) + 41] ^= 1
    path.write_bytes(raw)
    assert not torch.equal(torch.load(path)['state_dict']['w'], weight), 'torch reads it as it is'
    with pytest.raises(ValueError, match=r"a\.pth' is no readable checkpoint .*Bad CRC-32 for file 'a/data/0'"):
        read_values(path)


def test_a_damaged_name_of_a_device_matters_only_without_map_location(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save(dict(w=torch.ones(2)), path)
    members = members_of(path.read_bytes())
    name = next(name for name in members if name.endswith('data.pkl'))
    device = b'X\x03\x00\x00\x00cpu'
    assert members[name].count(device) == 1
    path.write_bytes(zipped({**members, name: members[name].replace(device, b')')}))  # an empty tuple
    assert read_values(path)['w'].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"a\.pth' is no readable checkpoint .*expected string or bytes-like object"):
        CheckpointLoader.load_checkpoint(str(path))


def test_a_file_without_checksums_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, 'get_crc32_options', lambda: False)
    torch.save(dict(w=torch.ones(3)), tmp_path / 'a.pth')
    with open(tmp_path / 'a.pth', 'rb') as file:
        for source in (tmp_path / 'a.pth', file):
            assert read_values(source)['w'].tolist() == [1, 1, 1]


def test_a_compressed_file_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    """A few bytes of it could ask for any memory."""
    path = tmp_path / 'a.pth'
    path.write_bytes(zipped(members_of(files['new.pth']), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=r'no readable checkpoint .*is compressed'):
        read_values(path)


def test_values_that_are_named_again_and_again_are_walked_once(tmp_path: Path) -> None:
    value: Any = (torch.ones(1),)
    for _ in range(80):
        value = (value, value)  # 2 ** 80 leaves
    torch.save(dict(value=value), tmp_path / 'a.pth')
    found = read_values(tmp_path / 'a.pth')['value']
    assert found[0] is found[1]


@pytest.mark.parametrize(('made', 'words'), [
    (lambda w: w.to('meta'), 'without values'),
    (lambda w: w.to(torch.int8), r'torch\.int8 \(model torch\.float32\)'),
    (lambda w: w.to(torch.complex64), r'torch\.complex64'),
    (lambda w: w.to_sparse(), r'torch\.sparse_coo'),
    (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), 'qint8'),
])  # fmt: skip
def test_tensors_that_are_no_weights_are_named(made: Any, words: str, tmp_path: Path) -> None:
    """torch casts them, or keeps what is there, and says nothing."""
    network, path = nn.Linear(3, 3), tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(weight=made(torch.ones(3, 3)), bias=torch.ones(3))), path)
    with pytest.raises(ValueError, match=rf'(?s)k does not fit Linear.*1 of another shape or kind.*unfit: .*{words}'):
        load_strictly(network, state_dict_of(read_checkpoint(path), path), None, 'k')


def test_names_that_are_no_text_and_a_meta_that_is_no_dictionary(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    for content, told in (
        (dict(state_dict={0: torch.ones(1)}), 'holds no weights'),
        (dict(state_dict=dict(w=torch.ones(1)), meta=[1]), r"a\.pth' is damaged: its 'meta' is a list"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=told):
            state_dict_of(read_checkpoint(path), path)
