"""Files made from a real checkpoint: bytes changed, members of the zip swapped, the pickle inside it changed."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, settings

from tests.payload import Payload

Draw = Callable[..., Any]
FEW, MANY = 60, 1000
_COMMON: dict[str, Any] = dict(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
few = settings(max_examples=FEW, **_COMMON)
many = settings(max_examples=int(os.environ.get('FUZZ_EXAMPLES', MANY)), **_COMMON)


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
        place = draw(st.integers(0, max(len(raw) - 1, 0)))
        end = min(place + draw(st.integers(1, 64)), len(raw))
        kind = draw(st.sampled_from(['cut', 'flip', 'write', 'drop', 'double', 'swap']))
        if kind == 'cut':
            del raw[place:]
        elif kind == 'flip' and raw:
            raw[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 'write':
            raw[place:end] = draw(st.binary(min_size=1, max_size=16))
        elif kind == 'drop':
            del raw[place:end]
        elif kind == 'double':
            raw[end:end] = raw[place:end]
        else:
            other = draw(st.integers(0, max(len(raw) - 1, 0)))
            raw[place:end], raw[other : other + 8] = raw[other : other + 8], raw[place:end]
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


def changed_zip(draw: Draw, content: bytes) -> bytes:
    """Members exchanged, left out, renamed, emptied or made longer; or the pickle's bytes changed."""
    members = members_of(content)
    names = list(members)
    one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    kind = draw(st.sampled_from(['swap', 'drop', 'rename', 'empty', 'longer', 'pickle', 'pickle', 'pickle']))
    if kind == 'swap':
        members[one], members[other] = members[other], members[one]
    elif kind == 'drop':
        del members[one]
    elif kind == 'rename':
        # a codec in place of the category takes seconds, for a table of all characters
        names = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), min_size=1, max_size=9)
        members[draw(names)] = members.pop(one)
    elif kind == 'empty':
        members[one] = b''
    elif kind == 'longer':
        members[one] += members[other]
    else:
        name = next(name for name in names if name.endswith('data.pkl'))
        members[name] = changed_bytes(draw, members[name])
    return zipped(members)


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.answer = function, arguments

    def __reduce__(self) -> Any:
        return self.answer


def hostile(draw: Draw, content: bytes, mark: Path) -> bytes:
    """The checkpoint with a call in the place of its pickle; each call would leave the mark."""
    touch = f'open({str(mark)!r}, "w")'
    calls = Payload(mark), Call(os.system, (f'touch {mark}',)), Call(eval, (touch,)), Call(Path(mark).touch, ())
    call = draw(st.sampled_from([*calls, Call(getattr, (Path, 'touch')), Call(torch.load, (str(mark),))]))
    places = [call, [call], {'state_dict': {'w': call}}, {'meta': call}, {'state_dict': {call: 1}}]
    value = draw(st.sampled_from(places))
    raw = pickle.dumps(value, protocol=draw(st.integers(2, 5)))
    if draw(st.booleans()):
        return raw
    members = members_of(content)
    members[next(name for name in members if name.endswith('data.pkl'))] = raw
    return zipped(members)
