"""Pictures without labels: their order in a run, its resumption, and what a step on them adds or refuses."""

import copy
import functools
import logging
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from mmdistill_dense.distillers.roi_head_kd import RoIHeadKD
from mmdistill_dense.pretrain import BackboneStudent
from mmdistill_dense.unlabelled.step import Unlabelled, UnlabelledOption, prepare_batch, unlabelled_of
from mmdistill_dense.unlabelled.stream import PassSampler, open_pictures
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys
from tests.engine.resumption import ITERS, MORE, WITH_MORE, noted, pair, train, uninterrupted
from tests.faults.tools import content
from tests.query_nets import query_net
from tests.toys import files

run = functools.partial(noted, train)


def first(sampler, count):
    return [index for index, _ in zip(sampler, range(count), strict=False)]


def test_each_pass_shows_every_picture_in_a_new_order():
    """A later start goes on where the first would be; processes take the positions in turn."""
    taken = first(PassSampler(7, seed=3), 29)
    passes = [taken[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(order) == list(range(7)) for order in passes)
    assert passes[0] != passes[1] != passes[2] and taken[:21] != first(PassSampler(7, seed=4), 21)
    for start in (0, 1, 6, 7, 20):
        assert first(PassSampler(7, 3, start=start), 9) == taken[start : start + 9]
    whole, parts = first(PassSampler(9, 3), 18), [first(PassSampler(9, 3, rank, 2), 9) for rank in (0, 1)]
    assert [batch for pair in zip(*parts, strict=True) for batch in pair] == whole
    assert not set(parts[0][:4]) & set(parts[1][:4])


# Runs


def model(folder, distillers=None, **option):
    return pair(distillers or WITH_MORE, folder, **option)


@pytest.mark.soak
def test_labelled_pictures_are_those_of_a_run_without(tmp_path):
    """In an epoch-based loop without workers, the pictures of a step come from the streams that the last one left.
    Workers read what the main process reads, and a stream that begins late is that of the others."""
    without = run(toys.fresh_dir(), model(None), 'epochs')
    _, with_more = uninterrupted('more pictures, epochs')
    assert [step[:2] for step in with_more] == [step[:2] for step in without]
    assert all(len(more) == 3 for _, _, more in with_more) and {step[2] for step in without} == {None}
    plain = uninterrupted('more pictures')[1]
    assert uninterrupted('more pictures, workers')[1] == plain
    late = run(tmp_path, model(toys.picture_folder(), **MORE, start=2))
    assert [step[2] for step in late] == [None, None, *(step[2] for step in plain[2:])]


@pytest.fixture
def log(monkeypatch):
    lines = []

    def keep(self, record):
        lines.append((record.levelno, record.getMessage()))

    monkeypatch.setattr('mmengine.logging.MMLogger.handle', keep)
    return lines


# Refusals


def opened(folder, **changes):
    """A runner whose hooks have run as far as the first step."""
    network = changes.pop('model', None) or model(folder)
    config = toys.run_config(toys.fresh_dir(), network, iters=1)
    for name, value in changes.items():
        config[name] = value
    return toys.train(None, config)


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
        renamed = more / 'renamed.png'
        renamed.symlink_to(tested / '3.png') if how == 'link' else shutil.copy(tested / '3.png', renamed)
        (more / 'other.png').write_bytes((Path(toys.picture_folder(1, seed=33)) / '0.png').read_bytes())
    changes = files(tested, part := 'test' if how == 'copy' else 'val')
    with pytest.raises(ValueError, match=f'pictures are also in {part}_dataloader') as error:
        opened(str(more), **changes)
    assert ('renamed.png (= ' in str(error.value)) == (how != 'same path')


def test_labelled_pictures_are_taken_out(tmp_path, log):
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
    init_default_scope('mmseg')
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
    """A folder of a data set has them beside the pictures, and 000001.jpg is in every data set."""
    for name in ('train', 'labels'):
        shutil.copytree(toys.picture_folder(2, seed=len(name)), tmp_path / name)
    opened(str(tmp_path / 'labels'), **files(tmp_path / 'train', 'test'))
    changes = files(tmp_path / 'train', 'train')
    changes['train_dataloader']['dataset']['data_prefix']['seg_map_path'] = str(tmp_path / 'labels')
    with pytest.raises(ValueError, match='2 of 2 pictures are label images of train_dataloader: .*labels/0.png'):
        opened(str(tmp_path), **changes)


def test_pictures_are_the_same_in_a_moved_folder(tmp_path, monkeypatch):
    actual = []
    labelled = toys.run_config(tmp_path, model(None)).train_dataloader
    init_default_scope('mmseg')
    for base, folder in (('.', 'more'), ('/', 'more'), ('.', 'moved')):
        shutil.copytree(toys.picture_folder(2), tmp_path / folder, dirs_exist_ok=True)
        option = UnlabelledOption.parse(dict(data_prefix=str(tmp_path / folder)))
        monkeypatch.chdir(tmp_path / base)
        config = dict(train_dataloader=labelled)
        actual.append(open_pictures(option, config, DATASETS.build(labelled.dataset)).identity())
    assert actual[0] == actual[1] == actual[2] and actual[0]['pictures'] == 2


def test_one_picture_in_a_pooling_head_is_refused_at_start(tmp_path):
    """Not when the first such step comes, half of the run later."""
    pair = toys.seg_net('deeplabv3'), toys.seg_teacher('deeplabv3')
    more = dict(data_root=toys.picture_folder(), ratio=0.5, start=0.5)
    heads = toys.model_config(*pair, unlabelled=more)
    with pytest.raises(ValueError, match='decode_head.image_pool of the student normalises a map of one pixel'):
        run(tmp_path, heads)
    backbone = toys.model_config(*pair, dict(fit=dict(type='FitNet', student_tap='backbone[3]')), unlabelled=more)
    assert len(run(tmp_path, backbone)) == ITERS
    student = toys.seg_net('fcn', backbone=dict(with_cp=True))
    option = dict(data_root='more', bn='labelled')
    with pytest.raises(ValueError, match="with_cp=True of backbone.* recomputes activations.*bn='labelled'"):
        toys.build(toys.model_config(student, toys.seg_teacher('fcn'), unlabelled=option))
    words = "activation_checkpointing=.*layer2.* recomputes .*bn='labelled'"
    with pytest.raises(ValueError, match=words):  # statistics cannot stay those of the labelled pictures
        opened(None, model=model(toys.picture_folder(), bn='labelled'), activation_checkpointing=['backbone.layer2'])


def test_few_pictures_are_warned_of(log):
    opened(None, model=model(toys.picture_folder(), start=1.0), log_level='INFO')
    warnings = [text for level, text in log if level == logging.WARNING and text.startswith('model.unlabelled')]
    for words in ('6 pictures are few for 2 a step', 'no step takes these pictures: they begin after step 1 of 1'):
        assert any(re.search(words, text) for text in warnings)
    for name, count in (('val', 2), ('train', 8)):
        words = f'{name}_dataloader: {count} of its {count} pictures are no files here, e.g. shapes/'
        assert any(words in text for text in warnings)


@pytest.mark.soak
def test_another_list_is_refused_on_resume(tmp_path):
    folder, _ = uninterrupted('more pictures')
    start = dict(resume=True, load_from=str(folder / 'iter_2.pth'))
    for network in (model(toys.picture_folder(5), ratio=1.5), model(toys.picture_folder()), model(None)):
        with pytest.raises(ValueError, match='6 pictures without labels .*ratio 1.5'):
            run(tmp_path / 'a', network, **start)
    hooks = dict(default_hooks=dict(distill=dict(resume_changed=True)))
    steps_seen = run(tmp_path / 'b', model(toys.picture_folder()), **start, **hooks)
    assert [len(more) for _, _, more in steps_seen] == [2] * (ITERS - 2)


# A step on pictures without labels


FOLDER = dict(data_root='more')
KD = 'loss_kd'
FITNET = dict(type='FitNet', student_tap='backbone[3]')


def seg_model(distillers=None, dropout=0.0, **option):
    pair = dict(student=toys.seg_net('fcn', dropout=dropout), teacher=toys.seg_teacher('fcn'))
    distillers = distillers or dict(kd=dict(type='LogitKD'))
    return toys.distilled(**pair, distillers=distillers, unlabelled=dict(FOLDER, **option))


def det_model(distillers, student='retinanet', **option):
    pair = dict(student=toys.det_net(student), teacher=toys.det_teacher(student, 16, 16))
    return toys.distilled('mmdet', **pair, distillers=distillers, unlabelled=dict(FOLDER, **option))


def losses(model, unlabelled=None, labelled=None):
    """A step; a model's statistics and queues change as in training."""
    unlabelled_of(model).batch = copy.deepcopy(unlabelled)
    return toys.losses_of(model, labelled)


def test_the_labelled_pictures_again_give_their_loss_twice():
    """Each part is half of the loss; so the whole does not depend on the number of pictures, but on their weight."""
    model = seg_model()
    alone = losses(model)
    both = losses(model, toys.bare(toys.seg_batch()))
    name, second = f'distill.kd.{KD}', f'distill.kd.unlabelled_{KD}'
    torch.testing.assert_close(both[name], alone[name] / 2)
    torch.testing.assert_close(both[second], alone[name] / 2)
    torch.testing.assert_close(both['distill.kd.share'], alone['distill.kd.share'])
    assert set(both) == {*alone, second}
    for key in alone:
        assert key.startswith('distill.') or torch.equal(alone[key], both[key])
    model, more = seg_model(weight=3.0), toys.bare(toys.seg_batch(4, seed=3))
    loss = losses(model)[name]
    assert losses(model, more)[name].item() == pytest.approx(loss.item() * 2 / (2 + 3 * 4))


def test_nothing_else_in_the_run_changes():
    """Neither the random streams, from which the student's dropout and later pictures are drawn, nor the queue's. The
    same pictures get another mask than the labelled ones; and the same in a step that is repeated."""
    distillers = dict(mimic=dict(type='MaskedMimic'), cwd=dict(type='CWD'))
    model, inputs_seen = seg_model(distillers, dropout=0.5), []
    model.decode_head.dropout.register_forward_hook(lambda *_: inputs_seen.append(1))
    states, actual = [], []
    for more in (None, toys.bare(toys.seg_batch(3, seed=3))):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        actual.append(losses(model, more))
        states.append(stream_states())
    assert states[0] == states[1] and len(inputs_seen) == 3  # cwd's tap is behind the dropout, in both parts
    assert torch.equal(actual[0]['decode.loss_ce'], actual[1]['decode.loss_ce'])
    name, second = (f'distill.mimic.{part}loss_mimic' for part in ('', 'unlabelled_'))
    torch.testing.assert_close(actual[1][name] * 5 / 2, actual[0][name])
    again, repeated = (losses(model, toys.bare(toys.seg_batch())) for _ in range(2))
    assert not torch.equal(again[name], again[second]) and torch.equal(again[second], repeated[second])


def test_gradients_end_where_the_tap_is():
    model, more = seg_model(dict(fit=dict(FITNET, schedule=dict(stop_at=5)))), toys.bare(toys.seg_batch(3, seed=3))
    losses(model, more)['distill.fit.unlabelled_loss_fitnet'].backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any(name.startswith('distillers.fit.') for name in got)
    assert {name.split('.')[0] for name in got} == {'backbone', 'distillers'}
    assert {name for name, _ in model.backbone.named_parameters(prefix='backbone')} <= got
    model.distillation.state.iteration, calls = 6, []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    losses(model, more)
    assert len(calls) == 1


@pytest.mark.parametrize('bn', ['both', 'labelled'])
def test_running_statistics_follow_these_pictures_or_not(bn):
    model, more = seg_model(bn=bn), toys.bare(toys.seg_batch(3, seed=3))
    plain = copy.deepcopy(model)
    losses(plain)
    assert losses(model, more) == losses(seg_model(), more), 'their own statistics normalise in either case'
    found = [{name: value for name, value in one.named_buffers() if 'distillers' not in name} for one in (plain, model)]
    assert bool(toys.differing(*found)) == (bn == 'both')
    assert all(one.track_running_stats for one in model.modules() if isinstance(one, nn.BatchNorm2d))
    assert toys.hooks_left(model) == 0


def test_a_method_that_needs_labels_keeps_its_weight():
    """CIRKD needs them for its queues alone."""
    cirkd = dict(type='CIRKD', pixel_memory=8, region_memory=4, pixel_contrast=8, region_contrast=8)
    with pytest.raises(ValueError, match=r'model.unlabelled: c \(CIRKD\) needs labels.*LogitKD'):
        seg_model(dict(c=cirkd))
    batchwise = dict(cirkd, pixel_weight=0, region_weight=0)
    model = seg_model(dict(ifvd=dict(type='IFVD'), kd=dict(type='LogitKD'), c=batchwise))
    alone, both = losses(model), losses(model, toys.bare(toys.seg_batch(2, seed=3)))
    assert torch.equal(alone['distill.ifvd.loss_ifvd'], both['distill.ifvd.loss_ifvd'])
    assert {f'distill.kd.unlabelled_{KD}', 'distill.c.unlabelled_loss_minibatch'} <= {*both}
    assert not any('ifvd.unlabelled' in name for name in both)


def test_pcd_compares_both_parts_without_padding():
    pcd = dict(type='PCD', queue_size=64, student_tap='backbone[3]', enqueue='pooled')
    model = seg_model(dict(pcd=pcd))
    more = toys.bare(toys.seg_batch(3, seed=3, side=48))  # padded to 64
    _, samples = prepare_batch(model, more)
    assert [tuple(sample.metainfo['pad_shape']) for sample in samples] == [(64, 64)] * 3
    masks = []
    compare = model.distillers['pcd'].compare
    model.distillers['pcd'].compare = lambda *args: (masks.append(compare(*args).mask), compare(*args))[1]
    losses(model, more)
    assert masks[0] is None and masks[1].float().mean().item() == pytest.approx((48 / 64) ** 2, abs=0.1)
    assert len(model.distillers['pcd'].queue.negatives()) == 5


# Detection


def crowded(count=4):
    """Pictures full of objects, which nobody has annotated."""
    batch = toys.det_batch(count, seed=4)
    for sample in batch['data_samples']:
        sample.gt_instances = InstanceData()
    return batch


@pytest.mark.parametrize('student', ['retinanet', 'gfl'])
def test_an_unlabelled_object_is_no_background(student):
    """The losses of the head are those of the labelled pictures, to the bit; the neck and the head's scores learn."""
    scores = dict(retinanet='bbox_head.retina_cls', gfl='bbox_head.gfl_cls')[student]
    kd = dict(type='HeadOutputKD', student_tap=scores, form='sigmoid')
    model = det_model(dict(fit=dict(type='FitNet', student_tap='neck'), kd=kd), student)
    alone, both = losses(model, None, toys.det_batch()), losses(model, crowded(), toys.det_batch())
    names = [name for name in alone if not name.startswith('distill.')]
    assert len(names) >= 2
    for name in names:
        for gradient, other in zip(alone[name], both[name], strict=True):
            assert torch.equal(gradient, other)
    added = [name for name in both if 'unlabelled_loss' in name]
    assert len(added) == 2
    sum(both[name] for name in added).backward()
    assert all(parameter.grad is not None for parameter in model.neck.parameters())
    regression = 'retina_reg' if student == 'retinanet' else 'gfl_reg'
    assert getattr(model.bbox_head, regression).weight.grad is None


@pytest.mark.parametrize('student', ['faster_rcnn', pytest.param('deformable', marks=pytest.mark.soak)])
def test_two_stages_learn_as_far_as_their_neck(student):
    network = query_net(student) if student == 'deformable' else toys.det_net(student)
    fit = dict(fit=dict(type='FitNet', student_tap='neck'))
    pair = dict(student=network, teacher=dict(network, allow_random=True))
    model = toys.distilled('mmdet', **pair, distillers=fit, unlabelled=FOLDER)
    assert losses(model, crowded(2), toys.det_batch())['distill.fit.unlabelled_loss_fitnet'].requires_grad


def test_methods_that_read_boxes_or_proposals_are_refused_alone(monkeypatch):
    """A method of somebody else may tap proposals and not say that it needs labels."""
    for kind, student in (('DeFeat', 'retinanet'), ('FGD', 'retinanet'), ('RoIHeadKD', 'faster_rcnn'), ('LD', 'gfl')):
        with pytest.raises(ValueError, match=rf'model.unlabelled: a \({kind}\) needs labels'):
            det_model(dict(a=dict(type=kind)), student)
    monkeypatch.setattr(RoIHeadKD, 'needs_labels', False)
    with pytest.raises(ValueError, match=r"a.student_tap='roi_head.bbox_head.fc_reg' runs on proposals.*the neck"):
        det_model(dict(a=dict(type='RoIHeadKD')), 'faster_rcnn')


@pytest.mark.parametrize(('option', 'size'), [
    (dict(type='BatchSyncRandomResize', random_size_range=(96, 96), interval=1), 32),
    (dict(type='BatchFixedSizePad', size=(128, 128), pad_mask=True, pad_seg=True), 128),  # as Mask2Former's
])  # fmt: skip
def test_an_augmentation_of_batches_stays_the_labelled_ones(option, size):
    """mmdet's resizing keeps the size between steps: the other part uses it and does not change it. What pads masks
    finds none, and pads them again in the step with labels after it."""
    model, augment = det_model(dict(fit=dict(type='FitNet', student_tap='neck'))), DETECTORS.build(option)
    model.data_preprocessor.batch_augments = nn.ModuleList([augment])
    augment._input_size = (32, 32)
    before = dict(vars(augment))
    MessageHub.get_current_instance().update_info('iter', 0)
    batch = crowded()
    for sample in batch['data_samples']:
        sample.ignored_instances = InstanceData()  # as mmdet's PackDetInputs leaves it where there are no labels
    inputs, samples = prepare_batch(model, batch)
    assert inputs.shape[-2:] == (size, size) and vars(augment) == before
    assert not any('bboxes' in part for sample in samples for part in (sample.gt_instances, sample.ignored_instances))


@pytest.mark.parametrize(('option', 'words'), [
    ('data/more', 'model.unlabelled must be a dict'),
    (dict(ratio=1), 'model.unlabelled names no pictures: set data_root'),
    (dict(FOLDER, ratoi=1), "no option 'ratoi'.*Did you mean 'ratio'"),
    (dict(FOLDER, ratio=0), 'model.unlabelled.ratio must be a finite number > 0, got 0'),
    (dict(FOLDER, weight=-1), 'model.unlabelled.weight must be'),
    (dict(FOLDER, start=1.5), 'model.unlabelled.start must be'),
    (dict(FOLDER, bn='none'), "model.unlabelled.bn must be one of 'both', 'labelled'"),
    (dict(FOLDER, pipeline='same'), "model.unlabelled.pipeline must be 'auto' or a list"),
    (dict(FOLDER, workers=-1), 'model.unlabelled.workers must be'),
    (dict(FOLDER, pseudo={}), 'unlabelled.pseudo has left: '),
    (dict(FOLDER, strong=True), 'unlabelled.strong has left: '),
])  # fmt: skip
def test_a_wrong_option_is_named(option, words):
    with pytest.raises((TypeError, ValueError), match=words):
        toys.build(toys.model_config(toys.seg_net('fcn'), distillers={}, unlabelled=option))


def test_a_high_ratio_is_warned_of(monkeypatch):
    output = []
    monkeypatch.setattr('mmdistill_dense.unlabelled.step.print_log', lambda text, *_: output.append(text))
    seg_model(ratio=8)
    assert not output
    seg_model(ratio=9)
    assert 'model.unlabelled.ratio=9: a step takes 10 times as long' in output[0]
    counts = [UnlabelledOption(FOLDER, ratio=ratio).count(8) for ratio in (0.01, 0.5, 1, 3)]
    assert counts == [1, 4, 8, 24]


def test_copies_keep_the_option_alone():
    model = seg_model()
    unlabelled_of(model).batch = toys.bare(toys.seg_batch())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        second = unlabelled_of(other)
        assert second.option == unlabelled_of(model).option and second.batch is None
    student = BackboneStudent(dict(type='mmdet.ResNet', depth=18, base_channels=8))
    with pytest.raises(ValueError, match='BackboneStudent is pre-trained without labels already.*train_dataloader'):
        Unlabelled(UnlabelledOption(FOLDER)).attach(student, {}, ())


def test_the_same_picture_looks_different_in_another_pass(tmp_path):
    diary = run(tmp_path, model(toys.picture_folder(), ratio=1.5))
    taken = [picture for _, _, more in diary for picture in more]
    assert sorted(name for name, _ in taken[:6]) == [f'{number}.png' for number in range(6)]
    assert len(set(taken)) > 6  # flipped, other colours


@pytest.mark.soak
@pytest.mark.parametrize('network', ['start', 'weights'])
def test_a_run_without_such_steps_equals_one_without_them(tmp_path, network):
    off = dict(kd=dict(type='LogitKD', schedule=dict(stop_at=1)))
    options = dict(start=dict(start=1.0), weights=dict(distillers=off))[network]
    folder = toys.picture_folder()
    steps_seen = run(tmp_path / 'a', model(folder, **options))
    run(tmp_path / 'b', model(None, options.get('distillers')))
    used = [more is not None for _, _, more in steps_seen]
    assert used == ([False] * ITERS if network == 'start' else [True] + [False] * (ITERS - 1))
    same = not toys.differing(*(content(tmp_path / name / f'iter_{ITERS}.pth') for name in 'ab'))
    assert same == (network == 'start')


def test_half_precision_learns_about_the_same():
    model, more = seg_model(dict(fit=FITNET)), toys.bare(toys.seg_batch(3, seed=3))
    name = 'distill.fit.unlabelled_loss_fitnet'
    expected = losses(model, more)[name]
    with torch.autocast('cpu', torch.bfloat16):
        actual = losses(model, more)
    assert actual[name].dtype == torch.float32
    torch.testing.assert_close(actual[name], expected, rtol=0.05, atol=0)
    toys.total(actual).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
