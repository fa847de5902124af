"""The stream of pictures without labels in a run: its order, its resumption, and what it leaves alone."""

import functools
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.registry import DATASETS, DefaultScope

from mmdistill_dense.registry import TRANSFORMS
from mmdistill_dense.unlabelled.step import UnlabelledOption, unlabelled_of
from mmdistill_dense.unlabelled.stream import PassSampler, open_pictures
from tests import toys
from tests.engine.resumption import ITERS, MORE, WITH_MORE, noted, pair, train, uninterrupted
from tests.faults.tools import content

run = functools.partial(noted, train)


def first(sampler, count):
    return [index for index, _ in zip(sampler, range(count), strict=False)]


def test_each_pass_shows_every_picture_in_a_new_order():
    taken = first(PassSampler(7, seed=3), 21)
    passes = [taken[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert passes[0] != passes[1] != passes[2] and taken != first(PassSampler(7, seed=4), 21)


@pytest.mark.parametrize('start', [0, 1, 6, 7, 20])
def test_a_later_start_goes_on_where_the_first_would_be(start):
    assert first(PassSampler(7, 3, start=start), 9) == first(PassSampler(7, 3), start + 9)[start:]


def test_processes_take_the_positions_in_turn():
    whole, parts = first(PassSampler(9, 3), 18), [first(PassSampler(9, 3, rank, 2), 9) for rank in (0, 1)]
    assert [one for pair in zip(*parts, strict=True) for one in pair] == whole
    assert not set(parts[0][:4]) & set(parts[1][:4])


# Runs


def model(folder, distillers=None, **option):
    return pair(distillers or WITH_MORE, folder, **option)


@pytest.mark.soak
def test_workers_read_what_the_main_process_reads():
    assert uninterrupted('more pictures, workers')[1] == uninterrupted('more pictures')[1]


@pytest.mark.soak
def test_labelled_pictures_are_those_of_a_run_without():
    """In an epoch-based loop without workers, the pictures of a step come from the streams that the last one left."""
    folder = toys.fresh_dir()
    without = run(folder, model(None), 'epochs')
    _, with_more = uninterrupted('more pictures, epochs')
    assert [one[:2] for one in with_more] == [one[:2] for one in without]
    assert all(len(more) == 3 for _, _, more in with_more) and {one[2] for one in without} == {None}


def test_the_same_picture_looks_different_in_another_pass(tmp_path):
    diary = run(tmp_path, model(toys.picture_folder(), ratio=1.5))
    taken = [picture for _, _, more in diary for picture in more]
    assert sorted(name for name, _ in taken[:6]) == [f'{number}.png' for number in range(6)]
    assert len(set(taken)) > 6  # flipped, other colours


@pytest.mark.soak
@pytest.mark.parametrize('network', ['start', 'weights'])
def test_a_run_without_such_steps_equals_the_one_without_the_option(tmp_path, network):
    off = dict(kd=dict(type='LogitKD', schedule=dict(stop_at=1)))
    own = dict(start=dict(start=1.0), weights=dict(distillers=off))[network]
    folder = toys.picture_folder()
    seen = run(tmp_path / 'a', model(folder, **own))
    run(tmp_path / 'b', model(None, own.get('distillers')))
    used = [more is not None for _, _, more in seen]
    assert used == ([False] * ITERS if network == 'start' else [True] + [False] * (ITERS - 1))
    same = not toys.differing(*(content(tmp_path / one / f'iter_{ITERS}.pth') for one in 'ab'))
    assert same == (network == 'start')


@pytest.mark.soak
def test_a_stream_that_begins_late_is_that_of_the_others(tmp_path):
    seen = run(tmp_path, model(toys.picture_folder(), **MORE, start=2))
    assert [one[2] for one in seen] == [None, None, *(one[2] for one in uninterrupted('more pictures')[1][2:])]


@pytest.fixture
def log(monkeypatch):
    lines = []

    def keep(self, record):
        lines.append((record.levelno, record.getMessage()))

    monkeypatch.setattr('mmengine.logging.MMLogger.handle', keep)
    return lines


@pytest.mark.soak
def test_a_damaged_picture_is_replaced_and_counted(tmp_path, log):
    """Its header is whole, so that only the reading finds it."""
    shutil.copytree(toys.picture_folder(3), tmp_path / 'more')
    damaged = tmp_path / 'more/1.png'
    damaged.write_bytes(damaged.read_bytes()[:200])
    seen = run(tmp_path, model(str(tmp_path / 'more'), ratio=1.5), log_level='INFO')
    assert {name for _, _, more in seen for name, _ in more} == {'0.png', '2.png'}
    assert any('1 damaged files read so far, others taken instead' in text for _, text in log)


# Refusals


@TRANSFORMS.register_module()
class NoAnnotations(BaseTransform):
    """Gives a picture of a file the label map of nothing."""

    def transform(self, results):
        results['gt_seg_map'] = np.zeros(results['img'].shape[:2], np.uint8)
        results['seg_fields'].append('gt_seg_map')
        return results


def opened(folder, **changes):
    """A runner whose hooks have run as far as the first step."""
    network = changes.pop('model', None) or model(folder)
    config = toys.run_config(toys.fresh_dir(), network, iters=1)
    for name, value in changes.items():
        config[name] = value
    return toys.train(None, config)


def files(folder, kind):
    """A loader that reads the pictures of a folder as if they were labelled."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmdistill_dense.NoAnnotations'), dict(type='PackSegInputs')]
    prefix, classes = dict(img_path=str(folder)), dict(classes=[str(number) for number in range(toys.NUM_CLASSES)])
    dataset = dict(type='BaseSegDataset', data_prefix=prefix, img_suffix='.png', metainfo=classes, pipeline=pipeline)
    sampler = dict(type='InfiniteSampler' if kind == 'train' else 'DefaultSampler')
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=sampler)
    rest = dict(test_cfg=dict(type='TestLoop'), test_evaluator=dict(type='IoUMetric')) if kind == 'test' else {}
    return {f'{kind}_dataloader': loader, **rest}


@pytest.mark.parametrize('how', [pytest.param('same path', marks=pytest.mark.soak), 'link', 'copy'])
def test_pictures_of_validation_are_refused(tmp_path, how):
    source = Path(toys.picture_folder())
    tested, more = tmp_path / 'tested', tmp_path / 'more'
    shutil.copytree(source, tested)
    more.mkdir()
    shutil.copy(source / '1.png', more / 'other.png')
    if how == 'same path':
        more = tested
    else:
        place = more / 'renamed.png'
        place.symlink_to(tested / '3.png') if how == 'link' else shutil.copy(tested / '3.png', place)
        (more / 'other.png').write_bytes((Path(toys.picture_folder(1, seed=33)) / '0.png').read_bytes())
    changes = files(tested, 'val')
    with pytest.raises(ValueError, match='pictures are also in val_dataloader') as error:
        opened(str(more), **changes)
    assert ('renamed.png (= ' in str(error.value)) == (how != 'same path')


def test_a_name_alone_is_no_picture(tmp_path):
    """000001.jpg is in every data set."""
    for seed, name in ((1, 'tested'), (2, 'more')):
        shutil.copytree(toys.picture_folder(2, seed=seed), tmp_path / name)
    opened(str(tmp_path / 'more'), **files(tmp_path / 'tested', 'test'))


def test_labelled_pictures_are_taken_out_and_counted(tmp_path, log):
    train, more = Path(toys.picture_folder(4, seed=41)), tmp_path / 'more'
    shutil.copytree(toys.picture_folder(3, seed=42), more)
    shutil.copy(train / '2.png', more / 'again.png')
    (more / 'link.png').symlink_to(train / '0.png')
    runner = opened(str(more), log_level='INFO', **files(train, 'train'))
    assert unlabelled_of(runner.model).files['pictures'] == 3
    line = next(text for _, text in log if text.startswith('model.unlabelled: 3 pictures'))
    assert '2 labelled ones taken out' in line and 'they teach kd, mimic' in line
    with pytest.raises(ValueError, match='all 4 pictures are those of train_dataloader'):
        opened(str(train), **files(train, 'train'))


def test_a_file_that_is_listed_twice_counts_once(tmp_path, log):
    """And the labelled one among them is the one that is taken out; a link to the folder itself is no more pictures."""
    train, more = Path(toys.picture_folder(4, seed=41)), tmp_path / 'more'
    shutil.copytree(toys.picture_folder(3, seed=42), more)
    shutil.copy(train / '0.png', more / 'labelled.png')
    (more / 'again').symlink_to(more)
    names = ['0.png', '0.png', 'labelled.png', '1.png', '2.png', 'again/2.png']
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    labelled = DATASETS.build(files(train, 'train')['train_dataloader']['dataset'])
    for option in (dict(data_root=str(more), ann_file=str(tmp_path / 'list.txt')), dict(data_root=str(more))):
        config = dict(train_dataloader=files(train, 'train')['train_dataloader'])
        pictures = open_pictures(UnlabelledOption.parse(option), config, labelled)
        left = [
            Path(pictures.dataset.get_data_info(number)['img_path']).name for number in range(len(pictures.dataset))
        ]
        assert left == ['0.png', '1.png', '2.png'] and pictures.labelled == 1


@pytest.mark.parametrize(('step', 'words'), [
    (dict(type='LoadAnnotations'), r"LoadAnnotations fails .*KeyError\('seg_map_path'\)"),
    (dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75), r"RandomCrop fails .*\('gt_seg_map'\)"),
])  # fmt: skip
def test_a_given_pipeline_that_reads_labels_is_refused_at_start(tmp_path, step, words):
    """Whichever picture comes first: one that is damaged tells nothing."""
    shutil.copytree(toys.picture_folder(2), tmp_path / 'more')
    picture = tmp_path / 'more/0.png'
    picture.write_bytes(picture.read_bytes()[:60])
    steps = [dict(type='LoadImageFromFile'), step, dict(type='PackSegInputs')]
    labelled = toys.run_config(tmp_path, model(None)).train_dataloader
    option = UnlabelledOption.parse(dict(data_root=str(tmp_path / 'more'), pipeline=steps))
    before = np.random.get_state()[2]
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(labelled.dataset)
        with pytest.raises(ValueError, match=r'^model\.unlabelled\.pipeline: ' + words):
            open_pictures(option, dict(train_dataloader=labelled), dataset)
    assert np.random.get_state()[2] == before


def test_label_images_are_no_pictures(tmp_path):
    """A folder of a data set has them beside the pictures."""
    for name in ('train', 'labels'):
        shutil.copytree(toys.picture_folder(2, seed=len(name)), tmp_path / name)
    changes = files(tmp_path / 'train', 'train')
    changes['train_dataloader']['dataset']['data_prefix']['seg_map_path'] = str(tmp_path / 'labels')
    with pytest.raises(ValueError, match='2 of 2 pictures are label images of train_dataloader: .*labels/0.png'):
        opened(str(tmp_path), **changes)


def test_pictures_are_the_same_from_another_folder(tmp_path, monkeypatch):
    shutil.copytree(toys.picture_folder(2), tmp_path / 'more')
    option, found = UnlabelledOption.parse(dict(data_prefix=str(tmp_path / 'more'))), []
    labelled = toys.run_config(tmp_path, model(None)).train_dataloader
    for place in ('.', '/'):
        monkeypatch.chdir(tmp_path / place)
        config = dict(train_dataloader=labelled)
        found.append(open_pictures(option, config, DATASETS.build(labelled.dataset)).identity())
    assert found[0] == found[1] and found[0]['pictures'] == 2


def test_one_picture_in_a_pooling_head_is_refused_at_start(tmp_path):
    """Not when the first such step comes, half of the run later."""
    pair = toys.seg_net('deeplabv3'), toys.seg_teacher('deeplabv3')
    more = dict(data_root=toys.picture_folder(), ratio=0.5, start=0.5)
    heads = toys.model_config(*pair, unlabelled=more)
    with pytest.raises(ValueError, match='decode_head.image_pool of the student normalises a map of one pixel'):
        run(tmp_path, heads)
    backbone = toys.model_config(*pair, dict(fit=dict(type='FitNet', student_tap='backbone[3]')), unlabelled=more)
    assert len(run(tmp_path, backbone)) == ITERS


def test_recomputed_stages_are_refused_where_statistics_stay_those_of_the_labelled_pictures():
    with pytest.raises(ValueError, match="activation_checkpointing=.*layer2.* recomputes .*bn='labelled'"):
        opened(None, model=model(toys.picture_folder(), bn='labelled'), activation_checkpointing=['backbone.layer2'])


def test_few_pictures_and_unknown_test_pictures_are_warned_of(log):
    opened(None, model=model(toys.picture_folder(), start=1.0), log_level='INFO')
    warnings = [text for level, text in log if level == logging.WARNING and text.startswith('model.unlabelled')]
    for words in (
        '6 pictures are few for 2 a step',
        'no step takes these pictures: they begin after step 1 of 1',
    ):
        assert any(re.search(words, text) for text in warnings)
    for name, count in (('val', 2), ('train', 8)):
        words = f'{name}_dataloader: {count} of its {count} pictures are no files here, e.g. shapes/'
        assert any(words in text for text in warnings)


@pytest.mark.soak
def test_another_list_another_ratio_and_none_are_refused_on_resume_unless_the_user_insists(tmp_path):
    start = dict(resume=True, load_from=str(uninterrupted('more pictures')[0] / 'iter_2.pth'))
    for network in (model(toys.picture_folder(5), ratio=1.5), model(toys.picture_folder()), model(None)):
        with pytest.raises(ValueError, match='6 pictures without labels .*ratio 1.5'):
            run(tmp_path, network, **start)
    hooks = dict(default_hooks=dict(distill=dict(resume_changed=True)))
    seen = run(tmp_path, model(toys.picture_folder()), **start, **hooks)
    assert [len(more) for _, _, more in seen] == [2] * (ITERS - 2)


@pytest.mark.soak
def test_a_moved_folder_is_the_same(tmp_path):
    folder, before = uninterrupted('more pictures')
    shutil.copytree(toys.picture_folder(), tmp_path / 'moved')
    network = model(str(tmp_path / 'moved'), **MORE)
    assert run(tmp_path, network, resume=True, load_from=str(folder / 'iter_4.pth')) == before[4:]
