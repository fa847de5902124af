"""Reading files without running what they hold."""

import io
import pickle
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR, OneCycleParamScheduler
from torch import nn

from mmdistill_dense.weights.safe_load import read_checkpoint, read_values
from mmdistill_dense.weights.strict_load import load_strictly, state_dict_of
from tests import payload, toys
from tests.payload import Reduced, unequal, written


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def array_of(kind, length):
    """An array of eight bytes that says what they are."""
    state = (1, (length,), kind, False, b'A' * 8)
    return Reduced(np.ones(1).__reduce__()[0], np.ndarray, (0,), b'b', state=state)


def test_values_of_a_runner_come_out_as_they_went_in(tmp_path):
    content = dict(
        buffer=HistoryBuffer([1.0, 2.0], [1, 1], max_length=7),
        empty=HistoryBuffer(),
        numbers=[np.int64(3), np.float32(0.5), np.bool_(True), np.str_('a'), np.dtype('>f4')],
        arrays=(np.ones(2), np.arange(6.0, dtype='>f4').reshape(2, 3), np.array(['ab', 'c']), np.zeros((0, 3))),
        fortran=np.asfortranarray(np.arange(6).reshape(2, 3)),
        config=ConfigDict(a=dict(b=np.ones(1), c=[1])),
        options=Namespace(arch='r50', sizes=np.ones(2)),
        place=slice(1, 2),
    )
    path = saved(tmp_path / 'a.pth', content)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    values = read_values(path)
    assert not unequal(values, torch.load(path, weights_only=False))
    assert values['buffer'].statistics('mean') == 1.5
    values['buffer'].update(5.0)
    values['arrays'][0][0] = 2  # they are our own, and writable
    again = read_values(saved(tmp_path / 'b.pth', values))
    assert again['buffer'].data[0].tolist() == [1, 2, 5] and again['arrays'][0].tolist() == [2, 1]


def test_file_of_a_real_run_is_read_whole(tmp_path):
    """A schedule may have a function in its state; what is shared or nested keeps its ties."""
    path = toys.teacher_file('fcn', runner_file=True)
    content = read_checkpoint(path)
    assert {'meta', 'state_dict', 'message_hub', 'optimizer'} <= set(content)
    assert content['message_hub']['log_scalars']['train/loss'].current() > 0
    assert not unequal(content, torch.load(path, weights_only=False))
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    schedule, other = (OneCycleLR(optimizer, eta_max=1.0, total_steps=9) for _ in range(2))
    schedule.step()
    other.load_state_dict(read_values(saved(tmp_path / 'a.pth', schedule.state_dict())))
    assert not unequal(other.state_dict(), schedule.state_dict())
    loop = dict(shared=(shared := [np.ones(1)]), again=(shared, 1))
    loop['itself'] = loop
    values = read_values(saved(tmp_path / 'a.pth', loop))
    assert values['shared'] is values['again'][0] and values['itself'] is values
    assert isinstance(values['shared'][0], np.ndarray)


class Value:
    def __init__(self):
        self.number = 3


def test_what_a_user_allows_is_read(tmp_path):
    path = saved(tmp_path / 'a.pth', dict(value=Value(), array=np.ones(2)))
    with pytest.raises(ValueError, match=r'test_safe_load\.Value\).*add_safe_globals'):
        read_values(path)
    allowed = [Value, np.dtype, np.ndarray, (np.ones, 'numpy.core.multiarray._reconstruct')]
    with torch.serialization.safe_globals(allowed):
        values = read_values(path)
        assert set(torch.serialization.get_safe_globals()) >= set(allowed)
    assert values['value'].number == 3 and values['array'].tolist() == [1, 1]
    assert np.dtype not in torch.serialization.get_safe_globals()


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / 'a.safetensors'
    save_file(dict(w=torch.ones(2)), path)
    assert not unequal(state_dict_of(read_checkpoint(path), path), dict(w=torch.ones(2)))
    with path.open('rb') as file, pytest.raises(ValueError, match='read from a path'):
        read_values(file, path.name)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match='no readable checkpoint'):
        read_checkpoint(path)


@pytest.mark.parametrize('new_format', [True, False])
@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'a.pkl'])
def test_code_is_refused(tmp_path, name, new_format):
    mark = tmp_path / 'mark'
    path = payload.write(tmp_path / name, mark, new_format=new_format)
    text = '' if name.endswith('.safetensors') else 'more than tensors.*exec.*could run code.*If you trust the file'
    with payload.trusting_torch(), pytest.raises(ValueError, match=rf"^'{path}'.*{text}"):
        read_checkpoint(path)
    assert not mark.exists()
    torch.load(path.rename(tmp_path / 'b.pth'), weights_only=False)
    assert mark.exists(), 'the file would have run code'


POINTERS = (3, '|', None, None, None, -1, -1, 0)  # says that they are plain bytes: reading would follow any address
FIELDS = (3, '<', ('a',), {'a': (np.dtype('i8'), 0)}, None, 64, 8, 63)


@pytest.mark.parametrize(('content', 'text'), [
    # runner files reach for a schedule's function and for statistics through getattr
    *((Reduced(getattr, owner, name), 'holds more than tensors.*getattr')
      for owner, name in (({}, 'clear'), (nn.Parameter, '__init__'), (OneCycleParamScheduler, 'step'))),
    *((array_of(Reduced(np.dtype, code, False, True, state=POINTERS), 1),
       rf"holds more than tensors.*numpy\.dtype\('{code}'\)") for code in ('O8', 'V8', 'M8')),
    (Reduced(np.dtype, 'f8', False, True, state=(3, 'forged' * 1000)), r'is no readable checkpoint .{,400}$'),
    (array_of(np.dtype('f8'), 9), 'is no readable checkpoint .*truncated'),  # more than its bytes
])  # fmt: skip
def test_what_could_run_code_or_read_memory_is_refused(tmp_path, content, text):
    with pytest.raises(ValueError, match=rf"a\.pth' {text}"):
        read_values(saved(tmp_path / 'a.pth', content))
    values = read_values(saved(tmp_path / 'b.pth', Reduced(np.dtype, 'f8', False, True, state=FIELDS)))
    assert values == np.dtype('f8') and values.flags == np.dtype('f8').flags, 'a type keeps to its code'


def test_a_checkpoint_is_a_dictionary(tmp_path):
    path = saved(tmp_path / 'a.pth', [torch.zeros(1)])
    with pytest.raises(ValueError, match='holds a list, not a dictionary'):
        read_checkpoint(path)
    assert isinstance(read_values(path), list)
    for name in ('b.pth', 'b.safetensors'):
        with pytest.raises(FileNotFoundError):
            read_values(tmp_path / name)


# Damaged files


def members_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(members, compression=zipfile.ZIP_STORED):
    """A zip with right checksums: only its content is wrong."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return out.getvalue()


def test_a_flipped_bit_of_a_weight_is_seen(tmp_path):
    """torch writes a checksum and does not look at it; a few compressed bytes could ask for any memory."""
    weight, path = torch.arange(3e5), tmp_path / 'a.pth'  # longer than what is read at a time
    whole = written(dict(state_dict=dict(w=weight)))
    raw = bytearray(whole)
    raw[raw.index(weight.numpy().tobytes()) + 1_150_001] ^= 1
    path.write_bytes(raw)
    assert not torch.equal(torch.load(path)['state_dict']['w'], weight), 'torch reads it as it is'
    with pytest.raises(ValueError, match=r"a\.pth' is no readable checkpoint .*Bad CRC-32 for file '.*/data/0'"):
        read_values(path)
    path.write_bytes(zipped(members_of(whole), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=r'no readable checkpoint .*is compressed'):
        read_values(path)
    path.write_bytes(zipped({**members_of(whole), 'archive/data.pk0': b''}).replace(b'data.pk0', b'data.pkl'))
    with pytest.raises(ValueError, match=r'no readable checkpoint .*two members have one name'):
        read_values(path)


def test_values_that_are_named_often_are_walked_once(tmp_path):
    value = (torch.ones(1),)
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
def test_what_is_no_weight_is_named(content, words, tmp_path):
    """torch accepts such tensors silently: it casts them, or keeps the old weights. A name may be no text."""
    path = tmp_path / 'a.pth'
    torch.save(content, path)
    with pytest.raises(ValueError, match=words):
        load_strictly(nn.Linear(3, 3), state_dict_of(read_checkpoint(path), path), None, 'k')
