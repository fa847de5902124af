"""The monitor: its figures against plain formulas and the golden file, that training does not notice it, the probe."""

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

from mmdistill_dense.distillers import PCD, FeatureMatch, QueueKL
from mmdistill_dense.distillers.base import RunState
from mmdistill_dense.networks.modes import untouched
from mmdistill_dense.pretrain import DenseMonitor
from mmdistill_dense.pretrain import dense_monitor as measures
from mmdistill_dense.pretrain.dense_monitor import (
    Pixels,
    cell_labels,
    hardest,
    linear,
    measure_step,
    nearest,
    scores,
    spread,
)
from mmdistill_dense.unlabelled.step import unlabelled_of
from tests import toys
from tests.golden import pcd as golden
from tests.pretrain import runs as small
from tests.pretrain import test_run as runs

TWO_VIEW = Path(__file__).parents[3] / 'shared/golden/pcd/two_view.npz'
SHAPES = dict(type='mmdistill_dense.ShapesSegDataset', num_images=6, pipeline=[
    dict(type='mmdistill_dense.LoadShapes'), dict(type='mmseg.PackSegInputs'),
])  # fmt: skip
PROBE = dict(train=dict(SHAPES, seed=5), test=dict(SHAPES, seed=6), images=4)
HOOK = dict(type='mmdistill_dense.DenseMonitor', probe=PROBE, probe_interval=1)


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views(seed: int, shape: tuple[int, ...] = (3, 5, 2, 4)) -> list[torch.Tensor]:
    return [maps(*shape, seed=seed), maps(*shape, seed=seed + 1)]


def bare(students: list[torch.Tensor], teachers: list[torch.Tensor], keys: int = 9, **options: Any) -> Any:
    queue = F.normalize(maps(keys, teachers[0].shape[1], seed=9), dim=1).numpy()
    return golden.bare(students[0], teachers[0], queue, np.array(0), **options)


# Figures


@pytest.mark.parametrize('pairing', ['cross', 'same'])
def test_similarities_are_those_of_the_compared_pixels(pairing: str) -> None:
    students, teachers = views(0), views(2)
    distiller = bare(students, teachers, view_pairing=pairing)
    found = measure_step(distiller, {'tap': students}, {'tap': teachers}, None)
    targets = teachers[::-1] if pairing == 'cross' else teachers
    positives, negatives = [], []
    for student, teacher in zip(students, targets, strict=True):
        for image in range(3):
            for i, j in np.ndindex(2, 4):
                s, t = student[image, :, i, j], teacher[image, :, i, j]
                positives.append(float(s @ t / s.norm() / t.norm()))
                negatives.append(max(float(s @ key / s.norm()) for key in distiller.queue.rows))
    assert found['positive'] == pytest.approx(np.mean(positives), abs=1e-12)
    assert found['negative'] == pytest.approx(np.mean(negatives), abs=1e-12)


@pytest.mark.skipif(not TWO_VIEW.is_file(), reason='no ../shared/golden')
def test_ranks_are_those_of_the_golden_file() -> None:
    arrays = dict(np.load(TWO_VIEW))
    s, t = ([torch.from_numpy(arrays[f'{side}{view}']) for view in (1, 2)] for side in 'st')
    distiller = golden.bare(s[0], t[0], arrays['queue_before'], arrays['ptr_before'])
    found = measure_step(distiller, {'tap': s}, {'tap': t}, None)
    for name in ('top1', 'top5'):
        assert found[name] == pytest.approx(float(arrays[f'monitor_{name}']), abs=1e-9)


def test_an_empty_queue_has_no_negatives_and_no_ranks() -> None:
    students, teachers = views(0), views(2)
    distiller = bare(students, teachers)
    distiller.queue.filled.zero_()
    found = measure_step(distiller, {'tap': students}, {'tap': teachers}, None)
    assert 'positive' in found and not {'negative', 'top1', 'top5'} & set(found)


def test_only_the_sampled_valid_pixels_of_a_padded_batch_count() -> None:
    class Sample:
        metainfo = dict(img_shape=(8, 8), pad_shape=(8, 16))  # the right half is padding

    student, teacher = maps(2, 5, 4, 8, seed=0), maps(2, 5, 4, 8, seed=1)
    distiller = bare([student], [teacher], num_pixels=20)
    distiller.state = RunState(iteration=1, max_iters=10, seed=1)

    def found() -> dict[str, float]:
        return measure_step(distiller, {'tap': [student]}, {'tap': [teacher]}, [Sample(), Sample()])

    before = found()
    student[..., 4:], teacher[..., 4:] = 7.0, -7.0
    assert found() == before
    chosen = distiller.positions(32, 0)
    kept = [place for place in chosen.tolist() if place % 8 < 4]
    s, t = (x.flatten(2)[..., kept] for x in (student, teacher))
    assert before['positive'] == pytest.approx(float(F.cosine_similarity(s, t, dim=1).mean()), abs=1e-12)


def test_levels_are_averaged() -> None:
    shapes = {'tap': [torch.Size((1, 5, 2, 4)), torch.Size((1, 5, 1, 2))]}
    distiller = PCD('tap', head=None, queue_size=8, queue_init='random')
    distiller.setup(shapes, shapes)
    distiller.double()
    students, teachers = ([maps(3, 5, 2, 4, seed=k), maps(3, 5, 1, 2, seed=k + 1)] for k in (0, 2))
    found = measure_step(distiller, {'tap': students}, {'tap': teachers}, None)
    expected = [F.cosine_similarity(s, t, dim=1).mean() for s, t in zip(students, teachers, strict=True)]
    assert found['positive'] == pytest.approx(float(sum(expected)) / 2, abs=1e-6)


def test_methods_that_compare_maps_have_the_spread_behind_the_alignment_and_nothing_changes() -> None:
    """The student's 4 channels become 6, its side 4 becomes 8; vectors of a tap have no spread over pixels."""
    distiller = FeatureMatch(student_tap='tap', teacher_tap='tap', resize='student')
    distiller.setup({'tap': [torch.Size((2, 4, 4, 4))]}, {'tap': [torch.Size((2, 6, 8, 8))]})
    student, teacher = maps(2, 4, 4, 4).float(), maps(2, 6, 8, 8, seed=1).float()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    found = measure_step(distiller, {'tap': [student]}, {'tap': [teacher]}, None)
    own, target = distiller.matched(student, teacher, 0)
    for name, x in {'out': own, 'map': student, 'teacher': target}.items():
        unit = x / x.norm(dim=1, keepdim=True)
        deviation = (unit - unit.mean((0, 2, 3), keepdim=True)).square().sum(1).mean().sqrt()
        assert math.isclose(found[f'{name}_std'], deviation.item(), rel_tol=1e-5)
    assert 0 < found['out_within'] <= 1
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())
    vectors = QueueKL(student_tap='tap', teacher_tap='tap')
    vectors.setup({'tap': [torch.Size((2, 4))]}, {'tap': [torch.Size((2, 4))]})
    assert measure_step(vectors, {'tap': [student[..., 0, 0]]}, {'tap': [student[..., 0, 1]]}, None) == {}


def test_hardest_negative_is_found_in_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, keys = (F.normalize(maps(n, 6, seed=n), dim=1) for n in (7, 30))
    expected = (rows @ keys.t()).amax(1).mean()
    monkeypatch.setattr(measures, '_BLOCK', 4)
    torch.testing.assert_close(hardest(rows, keys), expected)
    assert hardest(rows[:0], keys) == 0


def test_spread_is_the_deviation_of_unit_pixels() -> None:
    x = maps(3, 6, 4, 5)
    unit = F.normalize(x, dim=1).movedim(1, -1).reshape(3, 20, 6)
    std, within = spread(x)
    assert float(std) == pytest.approx(float(unit.flatten(0, 1).std(0, correction=0).square().sum().sqrt()), abs=1e-12)
    inside = (unit - unit.mean(1, keepdim=True)).square().sum(2).mean()
    assert float(within) == pytest.approx(float(inside / std**2), abs=1e-12)


def test_spread_tells_both_kinds_of_collapse() -> None:
    vector = maps(1, 6, 1, 1)
    std, _ = spread(vector.expand(4, 6, 3, 3) * torch.rand(4, 1, 3, 3))
    assert std < 1e-6
    std, within = spread(maps(4, 6, 1, 1).expand(4, 6, 3, 3))
    assert std > 0.5 and within < 1e-6
    std, within = spread(vector.expand(4, 6, 3, 3) * torch.tensor([1.0, -1, 1]))
    assert within == pytest.approx(1, abs=1e-6)


def test_spread_leaves_padding_out() -> None:
    x, valid = maps(2, 6, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    valid[..., 2:] = False
    torch.testing.assert_close(spread(x, valid), spread(x[..., :2]))
    valid[1, 1:] = False  # 6 pixels and 2
    unit = F.normalize(x, dim=1)
    apart = [unit[0, :, :, :2].flatten(1), unit[1, :, 0, :2]]
    std, within = spread(x, valid)
    inside = sum((one - one.mean(1, keepdim=True)).square().sum() for one in apart) / 8
    assert float(within) == pytest.approx(float(inside / std**2), abs=1e-12)


def test_the_probe_looks_at_its_interval_and_at_the_end() -> None:
    hook, seen = DenseMonitor(probe_interval=3), []
    hook._probe = lambda runner, model, step: seen.append(step)
    for done in range(1, 8):
        hook._probe_every(mock.Mock(), done, 7, done)
    assert seen == [3, 6, 7]


# No trace


def test_modules_are_left_as_they_were() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    with untouched(module):
        module.train()
        module(torch.randn(4, 3, 2, 2))
    assert not toys.differing(module.state_dict(), before)
    assert [part.training for part in module] == [True, False]
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_step_keeps_the_gradients_of_the_head() -> None:
    gradients = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = toys.ready(toys.build(small.model(), scope='mmdet'))
        inputs = [torch.randn(2, 3, small.SIDE, small.SIDE) for _ in range(2)]
        if watched:
            model.distillers['pcd'].register_forward_pre_hook(lambda d, args: measure_step(d, *args) and None)
        with torch.autocast('cpu', torch.bfloat16):
            loss = toys.total(model(inputs, None, mode='loss'))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert gradients[-1]['distillers.pcd.projector.0.weight'] is not None
    assert not toys.differing(*gradients)


@pytest.fixture(scope='module')
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp('watched')
    return folder, runs.train(runs.config(folder, custom_hooks=[HOOK]))


@pytest.mark.soak
def test_watched_run_ends_at_the_bits_of_the_unwatched_one(watched: tuple[Path, Any]) -> None:
    expected, notes = runs.uninterrupted()
    folder, seen = watched
    assert not toys.differing(small.content(folder / 'epoch_2.pth'), small.content(expected / 'epoch_2.pth'))
    assert (seen.values, seen.rates) == (notes.values, notes.rates)


@pytest.mark.soak
def test_watched_run_resumes_at_the_bits_of_the_unwatched_one(watched: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = watched
    runs.train(runs.config(tmp_path, resume=True, load_from=str(folder / 'epoch_1.pth'), custom_hooks=[HOOK]))
    expected = small.content(runs.uninterrupted()[0] / 'epoch_2.pth')
    assert not toys.differing(small.content(tmp_path / 'epoch_2.pth'), expected)
    assert [entry['step'] for entry in curve(tmp_path, 'monitor/pcd.positive')] == [6]
    both = [[e['monitor/pcd.positive'] for e in curve(one, 'monitor/pcd.positive')] for one in (folder, tmp_path)]
    assert both[0][1:] == both[1]


def curve(folder: Path, name: str) -> list[dict]:
    (path,) = folder.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry for entry in entries if name in entry]


# The hook


class Modes(Hook):
    """Notes whether all of the student is in training mode, and hooks left in it, behind every iteration."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seen: list[tuple[bool, int]] = []

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        hooks = sum(len(module._forward_pre_hooks) for module in runner.model.modules())
        self.seen.append((all(module.training for module in runner.model.modules()), hooks))


def run(cfg: Config) -> tuple[Any, Modes]:
    modes = Modes()
    runner = toys.make_runner(cfg.work_dir, cfg)
    runner.register_hook(modes)
    with toys.unformatted():
        runner.train()
    return runner, modes


@pytest.mark.soak
def test_measures_come_by_epoch_and_probes_at_start_and_end(tmp_path: Path) -> None:
    runner, modes = run(runs.config(tmp_path, epochs=3, custom_hooks=[dict(HOOK, interval=2, probe_interval=2)]))
    assert [entry['step'] for entry in curve(tmp_path, 'monitor/pcd.out_std')] == [1, 11]
    assert [entry['step'] for entry in curve(tmp_path, 'monitor/knn.miou')] == [0, 10, 15]
    assert [entry['step'] for entry in curve(tmp_path, 'monitor/knn.teacher_of_pcd.miou')] == [0]
    assert (
        runner.message_hub.get_scalar('monitor/knn.miou').current()
        == curve(tmp_path, 'monitor/knn.miou')[-1]['monitor/knn.miou']
    )
    assert modes.seen == [(True, 0)] * 15


@pytest.mark.soak
def test_measures_come_by_iteration(tmp_path: Path) -> None:
    probe = dict(PROBE, kind='linear')
    hook = dict(HOOK, by_epoch=False, interval=4, probe_interval=6, probe=probe)
    run(runs.config(tmp_path, custom_hooks=[hook]))
    assert [entry['step'] for entry in curve(tmp_path, 'monitor/pcd.top5')] == [1, 5, 9]
    for name in ('monitor/linear.acc', 'monitor/linear.miou'):
        entries = curve(tmp_path, name)
        assert [entry['step'] for entry in entries] == [0, 6, 10]
        assert all(math.isfinite(entry[name]) and 0 < entry[name] <= 100 for entry in entries)


@pytest.mark.soak
def test_it_watches_a_plug_in_run_of_a_segmentor(tmp_path: Path) -> None:
    pcd = dict(type='PCD', queue_size=5, num_pixels=30)
    distillers = dict(pcd=pcd, pkd=dict(type='PKD', student_tap='backbone[3]'), kd=dict(type='LogitKD'))
    model = toys.model_config(teacher=toys.seg_teacher(), distillers=distillers)
    cfg = toys.run_config(tmp_path, model)
    iterations = cfg.train_cfg.max_iters
    cfg.custom_hooks = [dict(HOOK, by_epoch=False, probe_interval=iterations)]
    run(cfg)
    entries = curve(tmp_path, 'monitor/pcd.positive')
    assert len(entries) == iterations
    assert 'monitor/pcd.negative' not in entries[0] and 'monitor/pcd.negative' in entries[1]
    assert len(curve(tmp_path, 'monitor/knn.miou')) == 2
    assert len(curve(tmp_path, 'monitor/pkd.out_std')) == iterations
    assert not curve(tmp_path, 'monitor/kd.out_std')


def test_pictures_without_labels_have_figures_of_their_own() -> None:
    """Named as MonitorHook names its values; those of the labelled pictures stay."""
    distillers = dict(pkd=dict(type='PKD', student_tap='backbone[3]'))
    found = []
    for unlabelled in (None, dict(data_root='more')):
        model = toys.distilled(teacher=toys.seg_teacher(), distillers=distillers, unlabelled=unlabelled)
        if unlabelled is not None:
            unlabelled_of(model).batch = toys.bare(toys.seg_batch(3, seed=3))
        hook = DenseMonitor(by_epoch=False)
        hook.before_train_iter(mock.Mock(model=model, iter=0), 0)
        toys.losses_of(model)
        found.append(hook._found)
    alone, both = found
    assert {name: both[name] for name in alone} == alone
    assert set(both) == {*alone, *(name.replace('pkd.', 'pkd.unlabelled.') for name in alone)}
    assert both['pkd.unlabelled.map_std'] != both['pkd.map_std']


def test_collapse_is_warned_of() -> None:
    hook = DenseMonitor()
    runner = mock.Mock(iter=1)
    for value, warned in ((0.5, False), (1e-3, True)):
        hook._found = {'pcd.out_std': value, 'pcd.map_std': 0.0}
        hook.after_train_iter(runner, 0)
        assert runner.logger.warning.called == warned
    assert 'pcd.out_std is 1.0e-03' in runner.logger.warning.call_args.args[0]


def test_a_control_without_pcd_runs_and_says_so(tmp_path: Path) -> None:
    cfg = toys.run_config(tmp_path, toys.model_config())
    cfg.custom_hooks = [dict(type='mmdistill_dense.DenseMonitor', by_epoch=False)]
    cfg.log_level = 'INFO'
    run(cfg)
    assert 'nothing is watched' in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(interval=0), 'interval must be a whole number >= 1, got 0'),
        (dict(probe_interval=-1), 'probe_interval must be a whole number >= 1, got -1'),
        (dict(probe=dict(PROBE, kind='svm')), "probe.kind must be one of 'knn', 'linear', got 'svm'"),
        (dict(probe=dict(PROBE, images=0)), 'probe.images must be a whole number >= 1, got 0'),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseMonitor(**options)


def test_epochs_of_an_iteration_based_run_are_refused(tmp_path: Path) -> None:
    cfg = toys.run_config(tmp_path, toys.model_config())
    cfg.custom_hooks = [dict(type='mmdistill_dense.DenseMonitor')]
    with pytest.raises(ValueError, match='set by_epoch=False'):
        run(cfg)


# The probe


def clusters(count: int, seed: int) -> Pixels:
    """Three classes whose directions differ, at unequal lengths."""
    labels = torch.arange(count) % 3
    features = 3 * F.one_hot(labels, 4).double() + 0.3 * maps(count, 4, seed=seed)
    return Pixels(features * torch.linspace(0.5, 2, count)[:, None], labels)


@pytest.mark.parametrize('classify', [lambda *a: nearest(*a, 5), linear], ids=['knn', 'linear'])
def test_separable_classes_are_told_and_shuffled_ones_are_not(classify: Any) -> None:
    train, test = clusters(90, 0), clusters(60, 1)
    assert scores(classify(train, test.features, 3), test.labels, 3) == dict(miou=100.0, acc=100.0)
    shuffled = Pixels(train.features, train.labels[torch.randperm(90, generator=torch.Generator().manual_seed(0))])
    assert scores(classify(shuffled, test.features, 3), test.labels, 3)['acc'] < 70


def test_the_linear_probe_has_a_bias_and_standardised_features() -> None:
    labels = (torch.arange(60) % 5 == 0).long()
    features = torch.stack([1e-4 * (labels - 0.3), torch.ones(60)], 1).double() + 1e-6 * maps(60, 2)
    assert (linear(Pixels(features, labels), features, 2) == labels).all()
    assert (linear(Pixels(features[:50], labels[:50] * 0 + 1), features, 2) == 1).all()


def test_neighbours_vote_by_similarity() -> None:
    bank = Pixels(torch.tensor([[1.0, 0], [0.1, 1], [0.1, 1]]), torch.tensor([0, 1, 1]))
    query = torch.tensor([[1.0, 0.05]])
    assert nearest(bank, query, 2, 3).tolist() == [0], 'one near neighbour outweighs two far ones'
    assert nearest(bank, query, 2, 3, temperature=10.0).tolist() == [1]


def test_scores_are_means_over_classes_that_occur() -> None:
    found = scores(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 4)
    assert found == pytest.approx(dict(miou=100 * (1 / 2 + 2 / 3) / 2, acc=75.0))


def test_cells_have_the_label_at_their_centre_and_none_in_the_padding() -> None:
    label = torch.arange(6).repeat_interleave(2).expand(4, 12)  # at twice the resolution of the image
    cells = cell_labels(label, torch.Size((2, 6)), torch.Size((2, 8)), torch.Size((1, 8)))
    assert cells.tolist() == [0, 1, 2, 3, 4, 5, 255, 255]
    coarse = cell_labels(label, torch.Size((2, 6)), torch.Size((2, 8)), torch.Size((1, 4)))
    assert coarse.tolist() == [1, 3, 5, 255]


def test_a_set_without_labels_is_refused(tmp_path: Path) -> None:
    unlabelled = dict(SHAPES, pipeline=[dict(type='mmdistill_dense.LoadShapes'), dict(type='PackSegInputs')][:1])
    unlabelled['pipeline'] += [
        dict(type='mmdistill_dense.MultiView', views=[[]]),
        dict(type='mmdistill_dense.PackViews'),
    ]
    cfg = runs.config(tmp_path, custom_hooks=[dict(HOOK, probe=dict(PROBE, train=unlabelled))])
    with pytest.raises(ValueError, match=r'probe\.train: its pipeline must load and pack labels'):
        runs.train(cfg)


def test_a_probe_whose_pictures_are_missing_says_how_to_train_without_it(tmp_path: Path) -> None:
    missing = dict(type='mmdistill_dense.CamVidDataset', data_root=str(tmp_path / 'camvid'), pipeline=[])
    cfg = runs.config(tmp_path, custom_hooks=[dict(HOOK, probe=dict(PROBE, train=missing))])
    with pytest.raises(FileNotFoundError, match=r'probe\.train among the custom_hooks: .*without: custom_hooks'):
        runs.train(cfg)
