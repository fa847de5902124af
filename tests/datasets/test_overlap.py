"""Which pictures two data sets share, by their files."""

import os
import shutil
from pathlib import Path

from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Subset

from mmdistill_dense.datasets.wrapped import count_pictures
from mmdistill_dense.unlabelled import pictures as overlap
from mmdistill_dense.unlabelled.pictures import not_on_disk, picture_paths, same_pictures
from mmdistill_dense.weights import strict_load


class Listed(BaseDataset):
    """A data set that knows its paths and nothing else."""

    def __init__(self, *names: str) -> None:
        self.names = names
        super().__init__()

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=name) for name in self.names]

    def get_data_info(self, idx: int) -> dict:
        self.asked = getattr(self, 'asked', 0) + 1
        return super().get_data_info(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        return [idx]


class Mixed:
    """As mmdet's ``MultiImageMixDataset``, which does not pass ``get_data_info`` on."""

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


def test_wrapped_data_sets_tell_their_pictures() -> None:
    one, two = Listed('a', 'b'), Listed('b', 'c')
    assert picture_paths(one) == ['a', 'b']
    assert picture_paths(ConcatDataset([one, two])) == ['a', 'b', 'c']
    assert picture_paths(RepeatDataset(one, 3)) == picture_paths(Mixed(one)) == ['a', 'b']
    assert picture_paths(['a']) == []


def test_a_picture_that_is_repeated_is_read_and_counted_once() -> None:
    """mmseg repeats small sets 40000 times."""
    one, two = Listed('a', 'b'), Listed('c')
    often = ConcatDataset([dict(type='RepeatDataset', times=40_000, dataset=one), two])
    assert picture_paths(often) == ['a', 'b', 'c'] and one.asked == 2
    assert len(often) == 80_001 and count_pictures(often) == 3
    joined = dict(type='ConcatDataset', datasets=[one, two])
    assert count_pictures(Mixed(often)) == count_pictures(RepeatDataset(joined, 2)) == 3
    rare = ClassBalancedDataset(one, oversample_thr=5.0)
    assert len(rare) > 2 == count_pictures(rare) == count_pictures(one)
    assert count_pictures(Subset(Listed('a', 'b', 'c'), [0, 2])) == 2


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


def test_a_file_is_read_again_after_it_has_changed(tmp_path):
    """A suite compares the same pictures for each of its rows."""
    first, second = tmp_path / 'a.png', tmp_path / 'b.png'
    first.write_bytes(b'one'), second.write_bytes(b'two')
    before = strict_load._sha256.cache_info().misses
    for _ in range(2):
        assert not overlap.same_pictures([str(first)], [str(second)])
    assert strict_load._sha256.cache_info().misses == before + 2
    second.write_bytes(b'one')
    os.utime(second, ns=(1, 1))
    assert overlap.same_pictures([str(first)], [str(second)]) == {str(first): str(second)}
