"""Token files and fingerprints: layouts, refusals, writing, and what changes a fingerprint."""

import copy
import types

import pytest
import torch

from mmdistill_dense.distillers.maskd import token_files as files
from mmdistill_dense.networks.taps import Tap
from tests import toys
from tests.distillers.maskd.tokens import same

T, C = 3, 4


def values(levels=2, branch=True, tokens=T, channels=C):
    shapes = {'mask_token': (tokens, channels)}
    if branch:
        shapes |= {'prob.0.weight': (channels, channels, 3, 3), 'prob.0.bias': (channels,)}
        shapes |= {'prob.2.weight': (tokens, channels, 1, 1), 'prob.2.bias': (tokens,)}
    generator = torch.Generator().manual_seed(0)
    return {
        f'{level}.{name}': torch.randn(shape, generator=generator)
        for level in range(levels)
        for name, shape in shapes.items()
    }


def shapes(tokens):
    return {name: value.shape for name, value in tokens.items()}


def prefixed(prefix, tokens):
    return {f'{prefix}{name}': value for name, value in tokens.items()}


def saved(tmp_path, content):
    path = tmp_path / 'file.pth'
    torch.save(content, path)
    return path


def test_written_files_come_back_with_what_was_noted(tmp_path):
    path = tmp_path / 'a' / 'b' / 'file.pth'
    files.write_tokens(path, values(), {'teacher': 't1', 'learn': {'lr': 0.1}}, learner={'iteration': 3})
    tokens, meta = files.read_tokens(path, 'maskd')
    assert same(tokens, values()) and meta == {'teacher': 't1', 'learn': {'lr': 0.1}, 'unfinished': True}
    assert torch.load(path, weights_only=True)['learner'] == {'iteration': 3}


def test_released_layouts(tmp_path):
    detector, neck = {'backbone.conv1.weight': torch.ones(2)}, {'neck.0.conv.bias': torch.ones(2)}
    for dump in (
        prefixed('mask_modules.', values()),
        {'state_dict': prefixed('mask_modules.', values()), 'meta': {'epoch': 1}},
        {'state_dict': prefixed('neck.mask_modules.', values()) | detector},
        {'state_dict': prefixed('module.mask_modules.', values()) | neck, 'optimizer': {}},  # data parallel
    ):
        tokens, meta = files.read_tokens(saved(tmp_path, dump), 'maskd')
        assert same(tokens, values()) and 'teacher' not in meta, list(dump)
    token = torch.randn(8, 19)  # of segmentation
    dump = {'mask_token': torch.nn.Parameter(token)}
    for nested in (dump, {'state_dict': dump}):
        assert same(files.read_tokens(saved(tmp_path, nested), 'maskd')[0], {'0.mask_token': token})
    half = files.read_tokens(saved(tmp_path, {'mask_token': token.half()}), 'maskd')[0]
    assert half['0.mask_token'].dtype == torch.float32


def test_a_checkpoint_gives_the_tokens_under_the_distillers_name(tmp_path):
    first, second = values(), values(levels=1)
    state = prefixed('maskd.mask_modules.', first) | prefixed('other.mask_modules.', second)
    state |= {'maskd.tokens_ready': torch.tensor(0x123), 'maskd.aligns.0.weight': torch.ones(1)}
    path = saved(tmp_path, {'state_dict': {'conv.weight': torch.ones(1)}, 'distillers': state})
    tokens, meta = files.read_tokens(path, 'maskd')
    assert same(tokens, first) and meta['teacher'] == 't000000000000123'
    assert same(files.read_tokens(path, 'other')[0], second)
    with pytest.raises(ValueError, match="several sets of tokens, under 'maskd.', 'other.'; none is 'third'"):
        files.read_tokens(path, 'third')


def test_a_file_without_tokens_is_refused(tmp_path):
    path = saved(tmp_path, {'state_dict': {'backbone.conv1.weight': torch.ones(1)}})
    with pytest.raises(ValueError, match=r"holds no tokens.*'backbone.conv1.weight'"):
        files.read_tokens(path, 'maskd')
    path = saved(tmp_path, {'mask_token': torch.ones(2, 3), 'meta': types.SimpleNamespace()})
    with pytest.raises(ValueError, match='SimpleNamespace.*could run code'):
        files.read_tokens(path, 'maskd')


def test_a_file_fits_without_its_branch():
    tokens = {name: value for name, value in values().items() if name.endswith('mask_token')}
    assert len(tokens) == 2 and same(files.fit_tokens(values(), shapes(tokens), 'x'), tokens)
    needed = 'needs 3 tokens of 4 channels on 2 levels, with mask weights'
    for actual, words in (
        (dict(tokens=5), '5 tokens of 4 channels on 2 levels, with mask weights'),
        (dict(channels=6), '3 tokens of 6 channels on 2 levels, with mask weights'),
        (dict(levels=1), '3 tokens of 4 channels on 1 level, with mask weights'),
        (dict(levels=3), '3 tokens of 4 channels on 3 levels, with mask weights'),
        (dict(branch=False), '3 tokens of 4 channels on 2 levels, without mask weights'),
    ):
        with pytest.raises(ValueError, match=f"tokens='x.pth' holds {words};.*{needed}"):
            files.fit_tokens(values(**actual), shapes(values()), "tokens='x.pth'")
    bands = {f'{level}.mask_token': torch.ones(4, 3, C) for level in range(2)}  # of FreeKD
    branch = {'0.prob.2.bias': torch.ones(3)}
    assert same(files.fit_tokens(bands | branch, shapes(bands), 'x'), bands)
    for held, words in ((slice(2), '4 x 2 tokens'), (0, '4 tokens')):
        cut = {name: value[:, held] for name, value in bands.items()}
        with pytest.raises(ValueError, match=f'holds {words} of 4 channels on 2 levels.*needs 4 x 3 tokens of 4'):
            files.fit_tokens(cut, shapes(bands), 'x')


NECK = [Tap.parse('neck')]


@pytest.fixture(scope='module')
def teacher():
    options = dict(student=toys.det_net(), teacher=toys.det_teacher())
    distillers = dict(m=dict(type='MaskedMimic', student_tap='neck'))
    return toys.teacher_of(toys.distilled('mmdet', distillers=distillers, **options))


def changed(teacher, weight=None, **config):
    """The teacher with another number in a tensor, or whose config says something else."""
    other = copy.copy(teacher)
    other.network, other.config = copy.deepcopy(teacher.network), copy.deepcopy(teacher.config)
    if weight:
        with torch.no_grad():
            other.network.state_dict()[weight].view(-1)[0] += 1
    for part, option in config.items():
        other.config.model[part].update(option)
    return other


def whole(teacher, taps=NECK, settings=None, dataset=None):
    return files.learning_fingerprint(teacher, taps, settings, dataset)


def test_weights_before_the_last_tap_make_the_teacher(teacher):
    before = 'backbone.conv1.weight', 'backbone.bn1.running_mean', 'neck.fpn_convs.0.conv.bias'
    for name in (*before, 'bbox_head.retina_cls.weight'):
        other = changed(teacher, name)
        actual = files.teacher_fingerprint(other, NECK) != files.teacher_fingerprint(teacher, NECK)
        assert actual == (name in before) and whole(other) != whole(teacher), name
    for taps in ([Tap.parse('bbox_head.retina_cls')], [*NECK, Tap.parse('bbox_head')], [Tap.parse('')]):
        assert files.teacher_fingerprint(other, taps) != files.teacher_fingerprint(teacher, taps), 'a head in front'


def test_taps_settings_data_and_normalisation_count(teacher):
    first = whole(teacher, settings=dict(T=6), dataset=dict(type='A'))
    assert first == whole(teacher, settings=dict(T=6), dataset=dict(type='A'))
    brighter = changed(teacher, data_preprocessor=dict(mean=[0.0, 0.0, 0.0]))
    configs = [
        *(whole(network, NECK, dict(T=6), dict(type='A')) for network in (teacher, brighter)),
        whole(teacher, [Tap.parse('neck[:3]')], dict(T=6), dict(type='A')),
        *(whole(teacher, NECK, settings, data) for settings, data in ((dict(T=8), dict(type='A')), (dict(T=6), None))),
    ]
    assert len({first, *configs}) == 5
    assert files.teacher_fingerprint(brighter, NECK) != files.teacher_fingerprint(teacher, NECK)
    moved = changed(teacher, backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='/my/resnet18.pth')))
    assert whole(moved) == whole(teacher)


def test_local_code_of_the_data_set_counts(teacher, monkeypatch):
    dataset, codes = dict(type='A'), [{}, {}, {'blur.py': 'aa'}, {'blur.py': 'bb'}]
    before = whole(teacher, dataset=dataset)
    monkeypatch.setattr(files, 'code_of_dataset', lambda options: codes.pop(0))
    actual = [whole(teacher, dataset=dataset) for _ in range(4)]
    assert actual[0] == actual[1] == before and len({*actual}) == 3, 'without such code it stays'


def test_the_first_pass_does_not_count():
    """It puts the weights in another order in memory; the teacher is that of its file all the same."""
    fast = toys.seg_teacher('fcn', accelerate=dict(channels_last=True))
    teacher = toys.teacher_of(toys.distilled(student=toys.seg_net('fcn'), teacher=fast))
    taps = [Tap.parse('backbone[3]')]
    before = whole(teacher, taps), files.teacher_fingerprint(teacher, taps)
    weight = teacher.network.backbone.layer1[0].conv1.weight
    assert not weight.is_contiguous(memory_format=torch.channels_last)
    teacher(torch.randn(1, 3, 64, 64))
    assert weight.is_contiguous(memory_format=torch.channels_last), 'else nothing is shown'
    assert (whole(teacher, taps), files.teacher_fingerprint(teacher, taps)) == before


def test_classes_count_by_name():
    class Pipeline:
        pass

    def dataset(root):
        inner = dict(type='X', data_root=root, ann_file=f'{root}/annotations/train.json', img='images/')
        return dict(type='RepeatDataset', times=2, dataset=inner, table=f'/disk3{root}/table.txt')

    here = files.digest(dataset('/data/coco'))
    assert here == files.digest(dataset('/mnt/disk2/coco')) == files.digest(dataset('data/coco'))
    assert here != files.digest(dict(dataset('/data/coco'), times=3))
    kinds = [files.digest(one) for one in ([Pipeline, Pipeline()], [Pipeline, Pipeline()], [Pipeline], [dict])]
    assert kinds[0] == kinds[1] and kinds[2] != kinds[3]
