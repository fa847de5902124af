"""Which pictures two data sets share, by their files."""

import os
import shutil
from pathlib import Path

from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmdistill_dense.unlabelled import pictures as overlap
from mmdistill_dense.unlabelled.pictures import not_on_disk, picture_paths, same_pictures


class Listed(BaseDataset):
    """A data set that knows its paths and nothing else."""

    def __init__(self, *names: str) -> None:
        self.names = names
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=name) for name in self.names]


class Mixed:
    """As mmdet's ``MultiImageMixDataset``, which does not pass ``get_data_info`` on."""

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset


def test_wrapped_data_sets_tell_their_pictures() -> None:
    one, two = Listed('a', 'b'), Listed('b', 'c')
    assert picture_paths(one) == ['a', 'b']
    assert picture_paths(ConcatDataset([one, two])) == ['a', 'b', 'c']
    assert picture_paths(RepeatDataset(one, 3)) == picture_paths(Mixed(one)) == ['a', 'b']
    assert picture_paths(['a']) == []


def test_path_link_and_content_count_and_the_name_does_not(tmp_path: Path) -> None:
    for name, content in (('a/1', b'one'), ('a/2', b'two'), ('b/1', b'six'), ('b/3', b'two'), ('b/4', b'longer')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / 'b/5').symlink_to(tmp_path / 'a/1')
    first, second = (sorted(map(str, (tmp_path / side).iterdir())) for side in 'ab')
    assert same_pictures(second, first) == {str(tmp_path / 'b/3'): first[1], str(tmp_path / 'b/5'): first[0]}
    assert same_pictures(first, [*first, 'none']) == {path: path for path in first}
    assert not_on_disk([*first, 's3://x/1.jpg']) == ['s3://x/1.jpg']
    shutil.rmtree(tmp_path / 'a')
    assert not same_pictures(first, second)


def test_a_file_is_read_again_after_it_has_changed(tmp_path, monkeypatch):
    """A suite compares the same pictures for each of its rows."""
    first, second = tmp_path / 'a.png', tmp_path / 'b.png'
    first.write_bytes(b'one'), second.write_bytes(b'two')
    reads, plain = [], overlap.hashlib.sha256
    monkeypatch.setattr(overlap.hashlib, 'sha256', lambda content: (reads.append(content), plain(content))[1])
    for _ in range(2):
        assert not overlap.same_pictures([str(first)], [str(second)])
    assert sorted(reads) == [b'one', b'two']
    second.write_bytes(b'one')
    os.utime(second, ns=(1, 1))
    assert overlap.same_pictures([str(first)], [str(second)]) == {str(first): str(second)}
