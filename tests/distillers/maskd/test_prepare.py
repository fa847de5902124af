"""Where a run's tokens come from, that nothing else notices, and the command that only learns them."""

import multiprocessing
import shutil

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmseg.models import SegDataPreProcessor

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.inspect.token_masks import masks_of_sample
from mmdistill_dense.distillers.maskd import learning as token_learner
from mmdistill_dense.registry import HOOKS
from mmdistill_dense.utils.reproducible import stream_states
from tests import toys
from tests.distillers.maskd.learners import Interrupt, stop_at
from tests.distillers.maskd.tokens import LEARN, LOGITS, NECK, det_model, same, seg_model, token_files, tokens_of
from tests.faults.tools import log_of


@pytest.fixture
def learned(monkeypatch):
    """The iterations of the learning that happen, as a list that fills."""
    iterations = []
    step = token_learner.TokenLearner.step

    def noted(self, *args):
        iterations.append(self.iteration)
        return step(self, *args)

    monkeypatch.setattr(token_learner.TokenLearner, 'step', noted)
    return iterations


def run(work_dir, model=None, iters=2, **changes):
    return toys.train(work_dir, model or seg_model(), iters=iters, **changes)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run that learned its tokens: its folder, its tokens, its student."""
    work_dir = tmp_path_factory.mktemp('finished')
    runner = run(work_dir, iters=5, log_level='INFO')
    return work_dir, tokens_of(runner), toys.student_state(runner.model)


# The ladder


def test_tokens_are_learned_once(finished):
    work_dir, tokens, _ = finished
    (name,) = token_files(work_dir)
    content = torch.load(work_dir / 'maskd_tokens' / name, weights_only=True)
    assert same({f'mask_modules.{key}': value for key, value in tokens.items()}, content['state_dict'])
    meta = content['meta']
    assert name == f'maskd-{meta["fingerprint"]}.pth' and meta['taps'] == ['decode_head.conv_seg']
    assert meta['learn']['max_iters'] == 6 and meta['receipt']['file'] == 'fcn_16.pth'
    assert str(work_dir) not in str(meta)
    lines = [line for line in log_of(work_dir).splitlines() if 'maskd: tokens [' in line]
    assert [line.split('tokens [')[1].split(']')[0] for line in lines] == ['3/6', '6/6']
    assert all(word in line for line in lines for word in ('lr: ', 'task loss: ', 'dice: '))


def test_learned_tokens_train_the_same_student(finished, tmp_path, learned):
    work_dir, tokens, student = finished
    shutil.copytree(work_dir / 'maskd_tokens', tmp_path / 'maskd_tokens')
    again = run(tmp_path, iters=5)
    assert not learned and same(tokens_of(again), tokens) and same(toys.student_state(again.model), student)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ('change', 'steps'), [('settings', 4), ('teacher', 6), ('data', 6), ('what does not count', 0)]
)
def test_what_tokens_depend_on_is_learned_anew_beside_the_first(
    finished, tmp_path, learned, other_teacher, change, steps
):
    shutil.copytree(finished[0] / 'maskd_tokens', tmp_path / 'maskd_tokens')
    seldom = dict(LEARN, save_interval=100, log_interval=100)
    model, changes = {
        'settings': (seg_model(dict(LOGITS, learn=dict(LEARN, max_iters=4))), {}),
        'teacher': (seg_model(teacher=other_teacher), {}),
        'data': (seg_model(), dict(train_dataloader=dict(dataset=dict(num_images=6)))),
        'what does not count': (seg_model(dict(LOGITS, learn=seldom, loss_weight=3.0, student_mask_from=1)), {}),
    }[change]
    run(tmp_path, model, **changes)
    assert learned == list(range(steps)) and len(token_files(tmp_path)) == 1 + bool(steps)


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.soak)])
def test_interrupted_learning_continues_to_the_same_bits(tmp_path, monkeypatch, learned, workers):
    """The two-stage detector's own loss samples at random."""

    def start(name):
        model = det_model(NECK, 'faster_rcnn', 'faster_rcnn')
        loader = dict(num_workers=workers)
        return toys.train(None, toys.det_run_config(tmp_path / name, model, train_dataloader=loader))

    whole = start('whole')
    learned.clear()
    with monkeypatch.context() as patched, pytest.raises(Interrupt):
        stop_at(patched, 3)
        start('cut')
    (partial,) = token_files(tmp_path / 'cut')
    assert partial.endswith('.partial.pth') and learned == [0, 1, 2]
    with pytest.raises(ValueError, match=r'tokens=.*\.partial\.pth.* is unfinished: remove tokens'):
        run(tmp_path / 'other', with_tokens(tmp_path / 'cut' / 'maskd_tokens' / partial))
    assert not multiprocessing.active_children(), 'the workers are gone, even so'
    learned.clear()
    again = start('cut')
    assert learned == [2, 3, 4, 5], 'from the last saved iteration'
    assert same(tokens_of(again), tokens_of(whole)) and token_files(tmp_path / 'cut') == token_files(tmp_path / 'whole')
    assert same(toys.student_state(again.model), toys.student_state(whole.model))


@pytest.mark.parametrize('changes', [
    dict(train_dataloader=dict(batch_size=4)), pytest.param(dict(randomness=dict(seed=6)), marks=pytest.mark.soak),
], ids=['batch size', 'seed'])  # fmt: skip
def test_an_unfinished_file_of_other_batches_is_not_continued(tmp_path, monkeypatch, learned, changes):
    with monkeypatch.context() as patched, pytest.raises(Interrupt):
        stop_at(patched, 3)
        run(tmp_path)
    learned.clear()
    runner = run(tmp_path, log_level='INFO', **changes)
    assert learned == [0, 1, 2, 3, 4, 5] and 'the unfinished tokens were started with' in log_of(tmp_path)
    assert same(tokens_of(runner), tokens_of(run(tmp_path / 'alone', **changes)))


def test_a_resumed_run_has_its_tokens(finished, tmp_path, learned):
    work_dir, tokens, student = finished
    resumed = run(tmp_path, iters=5, resume=True, load_from=str(work_dir / 'iter_2.pth'))
    assert not learned and same(tokens_of(resumed), tokens) and not (tmp_path / 'maskd_tokens').exists()
    assert same(toys.student_state(resumed.model), student)


def test_a_run_resumed_with_another_teacher_learns_anew(finished, tmp_path, learned, other_teacher):
    allow = dict(default_hooks=dict(distill=dict(resume_changed=True)))
    start = dict(resume=True, load_from=str(finished[0] / 'iter_2.pth'))
    run(tmp_path, seg_model(teacher=other_teacher), iters=4, **start, **allow)
    assert len(learned) == 6


# The option tokens


@pytest.fixture
def other_teacher(tmp_path):
    """The same network with other weights."""
    content = torch.load(toys.teacher_file('fcn'), weights_only=True)
    content['state_dict']['backbone.layer1.0.conv1.weight'] += 1e-3
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    return toys.seg_net('fcn', 16, checkpoint=str(path))


def with_tokens(path, **options):
    return seg_model(dict(LOGITS, tokens=str(path), **options))


def the_file(finished):
    return next((finished[0] / 'maskd_tokens').iterdir())


@pytest.mark.sample(1)
@pytest.mark.parametrize('source', ['file', 'checkpoint'])
def test_tokens_of_another_teacher_are_refused(finished, tmp_path, other_teacher, source):
    path = the_file(finished) if source == 'file' else finished[0] / 'iter_2.pth'
    teacher_hash = torch.load(the_file(finished), weights_only=True)['meta']['teacher']
    model = with_tokens(path)
    with pytest.raises(ValueError) as error:
        run(tmp_path, dict(model, teacher=other_teacher))
    message = str(error.value)
    assert message.startswith(f"model.distillers.maskd.tokens='{path}' was learned on another teacher or tap")
    assert f'tap: {teacher_hash} (' in message and 'allow_other_teacher=True' in message and 'other.pth' in message
    wanted_hash = message.split('), not ')[1].split()[0]
    assert len(wanted_hash) == len(teacher_hash) and wanted_hash != teacher_hash
    run(tmp_path, dict(with_tokens(path, allow_other_teacher=True), teacher=other_teacher))


def test_tokens_are_not_learned_from_labels_of_other_classes(tmp_path, learned):
    """Each label would be a class of the teacher's, but another one."""
    head = dict(decode_head=dict(num_classes=60), auxiliary_head=dict(num_classes=60))
    other = toys.seg_net('fcn', 16, allow_random=True, allow_other_classes=True, **head)
    with pytest.raises(ValueError, match='tokens are learned on the labels of this run, but .* has other classes'):
        run(tmp_path, dict(seg_model(dict(NECK, student_tap='backbone[3]')), teacher=other))
    assert not learned


def test_tokens_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.distillers\.maskd\.tokens='nowhere\.pth': no such file"):
        run(tmp_path, with_tokens('nowhere.pth'))


def test_a_teacher_without_a_training_loss_cannot_learn(tmp_path, monkeypatch):
    toys.build(seg_model())  # makes the student's class, which reads the signature
    monkeypatch.setattr(type(toys.build_plain(toys.seg_net('fcn'))), 'loss', property())
    with pytest.raises(ValueError, match='through the training loss of model.teacher, but EncoderDecoder has none'):
        run(tmp_path)


# What else a run has


@HOOKS.register_module()
class Looks(Hook):
    """Notes the random streams and the batches that the preprocessor saw, by priority before or after the learning."""

    seen: list = []

    def before_train(self, runner):
        self.seen.append((stream_states(), vars(runner.model.data_preprocessor).get('batches', 0)))


def test_learning_leaves_streams_alone(tmp_path, learned, monkeypatch):
    """And the preprocessor, which may count batches: the run's own begins at its first batch."""
    forward = SegDataPreProcessor.forward

    def counting(self, *args):
        self.batches = vars(self).get('batches', 0) + 1
        return forward(self, *args)

    monkeypatch.setattr(SegDataPreProcessor, 'forward', counting)
    Looks.seen.clear()
    hooks = [dict(type='mmdistill_dense.Looks', priority=priority) for priority in ('VERY_HIGH', 'VERY_LOW')]
    run(tmp_path, iters=1, custom_hooks=hooks)
    before, after = Looks.seen
    assert len(learned) == 6 and before == after


# The command


def command(tmp_path, model, *options):
    """The command on the config file of a run that has not begun."""
    toys.run_config(tmp_path / 'work', model, iters=2, log_level='INFO').dump(tmp_path / 'leaf.py')
    return main(['tokens', str(tmp_path / 'leaf.py'), *map(str, options)])


@pytest.mark.soak
def test_learning_alone_leaves_what_training_finds(tmp_path):
    out = tmp_path / 'shared' / 'tokens.pth'
    command(tmp_path, seg_model(), '--out', out)
    (name,) = token_files(tmp_path / 'work')
    assert not list((tmp_path / 'work').glob('*.pth')), 'no student was trained'
    learned = torch.load(tmp_path / 'work' / 'maskd_tokens' / name, weights_only=True)
    again = torch.load(out, weights_only=True)
    assert learned['meta'] == again['meta'] and not toys.differing(learned['state_dict'], again['state_dict'])
    stat_before = (tmp_path / 'work' / 'maskd_tokens' / name).stat()
    tokens = tokens_of(toys.train(None, toys.run_config(tmp_path / 'work', seg_model(), iters=2)))
    assert (tmp_path / 'work' / 'maskd_tokens' / name).stat().st_mtime_ns == stat_before.st_mtime_ns
    assert same(tokens, {key.removeprefix('mask_modules.'): value for key, value in learned['state_dict'].items()})


def test_one_file_for_two_distillers_is_refused(tmp_path, capsys):
    two = toys.model_config(toys.seg_net('fcn'), toys.seg_teacher('fcn'), dict(a=LOGITS, b=LOGITS))
    for model, words in (
        *((seg_model(option), 'nothing to learn') for option in (dict(type='LogitKD'), dict(LOGITS, tokens='x.pth'))),
        (two, '--out is one file, but 2 distillers of the config learn tokens'),
    ):
        assert command(tmp_path, model, '--out', tmp_path / 'x.pth') == 2
        assert words in capsys.readouterr().err


@pytest.mark.sample(1)
@pytest.mark.parametrize(('kind', 'rows'), [('seg', 1), ('det', 5), ('bands', 4)])
def test_masks_are_drawn_by_level(tmp_path, kind, rows):
    """A sheet has a row for each level or band, and a column for the picture and for each token."""
    freekd = dict(type='FreeKD', student_tap='backbone[3]', num_tokens=3, learn=LEARN)
    model = det_model() if kind == 'det' else seg_model(freekd if kind == 'bands' else LOGITS)
    make = toys.det_run_config if kind == 'det' else toys.run_config
    make(tmp_path / 'work', model, iters=1).dump(tmp_path / 'leaf.py')
    assert not main(['tokens', str(tmp_path / 'leaf.py'), '--draw', str(tmp_path / 'sheets'), '--pictures', '2'])
    sheets = [cv2.imread(str(path)) for path in sorted((tmp_path / 'sheets').iterdir())]
    height, width = sheets[0].shape[0] // rows, sheets[0].shape[1] // 4
    assert (height, width, len(sheets)) == (68, 68, 2)
    assert (sheets[0] != sheets[1]).any() and not (sheets[0][:, width - 4 : width] != 255).any()


def test_a_drawn_mask_has_no_padding(tmp_path):
    """By a formula of its own: sigmoid of each token times the map, enlarged, cut to the picture."""
    runner = toys.train(tmp_path, toys.det_run_config(tmp_path, det_model(), iters=1))
    model, dataset = runner.model, runner.train_dataloader.dataset
    sample = {**dataset[1], 'inputs': dataset[1]['inputs'][:, :50, :40]}  # padded to 64 x 64
    distiller, maps = model.distillers['maskd'], []
    handle = distiller.teacher.network.neck.register_forward_hook(lambda *args: maps.extend(args[2]))
    drawn = list(masks_of_sample(model, distiller, sample))
    handle.remove()
    for level, (title, masks) in enumerate(drawn):
        scores = torch.einsum('tc,chw->thw', distiller.slot(level).mask_token, maps[level][0])
        expected = F.interpolate(scores.sigmoid()[None], size=(64, 64), mode='bilinear')[0, :, :50, :40]
        assert title == f'neck: {level}'
        torch.testing.assert_close(torch.tensor(np.stack(masks)), expected, rtol=0, atol=1e-4)
    assert len(drawn) == 5


@pytest.mark.soak
def test_a_teachers_head_may_differ_where_tokens_are_given(tmp_path, learned):
    """Learning runs the whole teacher, which must then be loaded whole; tokens need no more than its features."""
    head = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3))
    model = seg_model(dict(NECK, student_tap='backbone[3]'))
    other = dict(toys.merged(toys.seg_teacher('fcn'), head), allow_other_classes=True)
    runner = run(tmp_path / 'a', model)
    with pytest.raises(ValueError, match='model.teacher.checkpoint.*of another shape'):
        run(tmp_path / 'b', dict(model, teacher=other))
    path = next((tmp_path / 'a' / 'maskd_tokens').iterdir())
    model = dict(seg_model(dict(NECK, student_tap='backbone[3]', tokens=str(path))), teacher=other)
    assert same(tokens_of(run(tmp_path / 'b', model)), tokens_of(runner)) and len(learned) == 6
