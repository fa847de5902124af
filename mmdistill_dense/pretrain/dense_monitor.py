"""DenseMonitor measures a network's pixel features during pre-training, by a classifier trained on them frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Distiller, Recorded
from mmdistill_dense.distillers.feature import FeatureDistiller
from mmdistill_dense.distillers.pcd.parts import Views
from mmdistill_dense.distillers.pcd.pcd import PCD
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.networks.modes import evaluating, untouched
from mmdistill_dense.networks.recording import Recorder, run_parts
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.registry import DATASETS, HOOKS
from mmdistill_dense.utils.distributed import means_over_ranks, unwrap
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.measuring_hook import MeasuringHook
from mmdistill_dense.utils.runner_internals import IGNORED, Network, Sample, Samples
from mmdistill_dense.utils.validate import check_count, check_option

Features = Callable[[Tensor], Tensor]

MAX_PIXELS = 20_000  # of the training images, evenly spaced
_BLOCK = 1024  # pixels classified at a time
_ROWS = 512  # pixels for which the hardest negative is searched
_QUEUE_BLOCK = 4096  # queue rows compared at a time


class Pixels(NamedTuple):
    """Feature vectors (N, C) and their classes (N,)."""

    features: Tensor
    labels: Tensor


class DenseProbe:
    """Classify feature pixels of test images by those of training images; the network itself is not trained.

    Each cell of the feature map has the label at its centre, void cells are left out, so figures of
    networks with different strides cannot be compared. Nothing is random: the same weights give the same figures.

    Args:
        train: Config of a mmseg data set with a test pipeline (no random crop), whose pixels are the examples.
        test: Config of the one to be classified.
        kind: ``'knn'``: vote of the nearest neighbours by cosine, weighted by ``exp(cosine / 0.07)``; ``'linear'``:
            multinomial logistic regression on standardised features, fitted by L-BFGS.
        images: Images of each set, evenly spaced. Defaults to 100.
        tap: Tap that is probed in the student. Defaults to the last map of the backbone.
        neighbours: Of ``'knn'``.
    """

    def __init__(
        self,
        train: Mapping[str, Any],
        test: Mapping[str, Any],
        kind: str = 'knn',
        images: int = 100,
        tap: str = 'backbone[-1]',
        neighbours: int = 20,
    ) -> None:
        check_option('probe.kind', kind, ('knn', 'linear'))
        check_count('probe.images', images, 1)
        check_count('probe.neighbours', neighbours, 1)
        self.options = {'train': dict(train), 'test': dict(test)}
        self.sets: dict[str, Any] = {}
        self.kind, self.images, self.neighbours = kind, images, neighbours
        self.tap = Tap.parse(tap)

    def student(self, model: Network) -> dict[str, float]:
        """Return ``miou`` and ``acc`` in percent of a model's own features; it is left as it was."""

        def features(inputs: Tensor) -> Tensor:
            recorder = Recorder(model, [self.tap], 'probe.tap')
            with recorder.recording() as tensors:
                run_parts(model, [self.tap], inputs)
            recorder.check_complete()
            return tensors[str(self.tap)][-1]

        return self._figures(model, features)

    def teacher(self, model: Network, distiller: Distiller) -> dict[str, float]:
        """Return the same for a distiller's teacher, at the last teacher tap."""
        frozen = distiller.teacher
        assert frozen is not None, 'a distiller inside a model has a teacher'
        return self._figures(model, lambda inputs: frozen(inputs)[str(distiller.teacher_taps[-1])][-1])

    @torch.no_grad()
    def _figures(self, model: Network, features: Features) -> dict[str, float]:
        with evaluating(model):
            train, test = (self._pixels(name, model, features) for name in ('train', 'test'))
            classes = len(self._set('test').metainfo['classes'])
            kept = -(-len(train.labels) // MAX_PIXELS)
            train = Pixels(train.features[::kept], train.labels[::kept])
            if self.kind == 'knn':
                predicted = nearest(train, test.features, classes, self.neighbours)
            else:
                predicted = linear(train, test.features, classes)
        return scores(predicted, test.labels, classes)

    def _set(self, name: str) -> Any:
        if name not in self.sets:
            try:
                self.sets[name] = DATASETS.build(self.options[name])
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f'the probe of DenseMonitor, probe.{name} among the custom_hooks: {error} To train without: '
                    "custom_hooks = [dict(type='mmdistill_dense.DenseMonitor')]."
                ) from error
            if not (self.sets[name].metainfo or {}).get('classes'):
                raise ValueError(f'probe.{name}: {type(self.sets[name]).__name__} names no classes.')
        return self.sets[name]

    def _pixels(self, name: str, model: Network, features: Features) -> Pixels:
        dataset = self._set(name)
        indices = evenly_spaced(len(dataset), self.images)
        found = [self._cells(name, model, features, dataset[index]) for index in indices]
        pixels = Pixels(*(torch.cat(part) for part in zip(*found, strict=True)))
        if not len(pixels.labels):
            raise ValueError(f'probe.{name}: none of its {len(indices)} images has a labelled pixel.')
        return pixels

    def _cells(self, name: str, model: Network, features: Features, item: dict[str, Any]) -> Pixels:
        sample: Sample = item['data_samples']
        if 'gt_sem_seg' not in sample:
            raise ValueError(f'probe.{name}: its pipeline must load and pack labels (LoadAnnotations, PackSegInputs).')
        batch = dict(inputs=[item['inputs']], data_samples=[sample])
        inputs = model.data_preprocessor(batch, False)['inputs']
        x = features(inputs)[0].float()
        labels = cell_labels(sample.gt_sem_seg.data[0], item['inputs'].shape[1:], inputs.shape[2:], x.shape[1:])
        kept = labels < len(self._set('test').metainfo['classes'])  # without void
        return Pixels(x.flatten(1).t()[kept.to(x.device)], labels[kept].to(x.device))


def cell_labels(label: Tensor, image: torch.Size, padded: torch.Size, grid: torch.Size) -> Tensor:
    """Return the flat labels at the centres of a feature map's cells, 255 outside of the image."""
    places = []
    for size, whole, cells, length in zip(image, padded, grid, label.shape, strict=True):
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * whole / cells
        places.append(torch.where(centres < size, (centres * length / size).long(), length))
    framed = F.pad(label.long().cpu(), (0, 1, 0, 1), value=IGNORED)
    return framed[places[0][:, None], places[1]].flatten()


def nearest(train: Pixels, features: Tensor, classes: int, neighbours: int, temperature: float = 0.07) -> Tensor:
    """Return the classes (N,) that the nearest training pixels vote for."""
    bank = F.normalize(train.features, dim=1)
    count = min(neighbours, len(bank))
    predicted = []
    for block in F.normalize(features, dim=1).split(_BLOCK):
        similarity, index = (block @ bank.t()).topk(count, dim=1)
        votes = similarity.new_zeros(len(block), classes)
        votes.scatter_add_(1, train.labels[index], (similarity / temperature).exp())
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def linear(train: Pixels, features: Tensor, classes: int, decay: float = 1e-4, iterations: int = 100) -> Tensor:
    """Return the classes (N,) by logistic regression on the training pixels."""
    mean, std = train.features.mean(0), train.features.std(0, correction=0).clamp_min(1e-6)
    x = (train.features - mean) / std
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn='strong_wolfe')

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.t() + bias, train.labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        optimizer.step(closure)  # type: ignore[arg-type,unused-ignore]
    return ((features - mean) / std @ weight.detach().t() + bias.detach()).argmax(1)


def scores(predicted: Tensor, labels: Tensor, classes: int) -> dict[str, float]:
    """Return ``miou``, the mean over the classes that occur, and ``acc``, both in percent."""
    table = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    table = table.cpu().double()
    hits = table.diagonal()
    union = table.sum(0) + table.sum(1) - hits
    return {'miou': float(100 * (hits / union)[union > 0].mean()), 'acc': float(100 * hits.sum() / table.sum())}


@torch.no_grad()
def measure_step(
    distiller: PCD | FeatureDistiller, student: Recorded, teacher: Recorded, data_samples: Samples
) -> dict[str, float]:
    """Measure the tensors that a step is about to compare; called with the arguments of the distiller's ``forward``.

    The student's outputs are computed once more, as the step computes them; batch statistics, random streams, the queue
    and autocast's cache of weights stay as they were.

    Returns:
        Means over the levels, and over the processes:

        - ``positive``: cosine of a student pixel and its teacher pixel;
        - ``negative``: its cosine with the nearest key of the queue (of 512 pixels at most);
        - ``top1``, ``top5``: percentage of pooled student vectors of the first view with no, or fewer than five,
          queue keys nearer than their own;
        - ``out_std``, ``map_std``, ``teacher_std``: spread of the unit pixels of the student's output, of its tapped
          map, and of the teacher's map, see :func:`spread`; 1 at best, 0 collapsed;
        - ``out_within``, ``map_within``, ``teacher_within``: share of it that lies between pixels of one picture.

        While the queue is empty, ``negative`` and ranks are left out. Other methods have the spreads alone: ``out`` is
        then the student's map behind the alignment, ``teacher`` the map that it is compared with. Nothing is returned
        for taps that give no maps (B, C, H, W).
    """
    if isinstance(distiller, PCD):
        found = measure_levels(distiller, student, teacher, data_samples)
    else:
        found = _spreads(distiller, student, teacher)
    names = [name for name in found[0] if all(name in one for one in found)]
    return means_over_ranks({name: torch.stack([one[name] for one in found]).mean() for name in names})


@torch.no_grad()
def measure_levels(
    distiller: PCD, student: Recorded, teacher: Recorded, data_samples: Samples
) -> list[dict[str, Tensor]]:
    """Return the figures of :func:`measure_step` for each level, of this process alone."""
    levels = enumerate(distiller.levels(student, teacher))
    return [_measure_level(distiller, level, views, data_samples) for level, views in levels]


def _measure_level(distiller: PCD, level: int, views: Views, data_samples: Samples) -> dict[str, Tensor]:
    parts = (distiller._part(name, level) for name in ('attention', 'projector', 'predictor'))
    with untouched(*parts):
        seen = distiller.compare(level, views, data_samples)
    with torch.autocast(seen.own.device.type, enabled=False):
        pixels, targets, weight = (torch.cat([row[k] for row in seen.rows]) for k in range(3))
        found = {'positive': ((pixels * targets).sum(1) * weight).sum() / weight.sum().clamp_min(1)}
        negatives = distiller._queue(level).negatives()
        if len(negatives):
            found['negative'] = hardest(pixels[weight > 0], negatives)
            ranks = losses.key_ranks(seen.pooled(), seen.key(), negatives)
            found |= {f'top{n}': 100 * (ranks < n).to(seen.own.dtype).mean() for n in (1, 5)}
        places = {
            'out': (seen.heads[0], seen.valid),
            'map': (seen.maps[0], seen.mask),
            'teacher': (seen.own, seen.mask),
        }
        for name, (x, inside) in places.items():
            found[f'{name}_std'], found[f'{name}_within'] = spread(x, inside)
    return found


def _spreads(distiller: FeatureDistiller, student: Recorded, teacher: Recorded) -> list[dict[str, Tensor]]:
    found = []
    students, teachers = distiller.views(student, teacher)[0]
    for level, (tapped, taught) in enumerate(zip(students, teachers, strict=True)):
        with untouched(distiller.aligns[level]):
            own, target = distiller.matched(tapped, taught, level)
        figures = {}
        with torch.autocast(tapped.device.type, enabled=False):
            for name, x in {'out': own, 'map': tapped, 'teacher': target}.items():
                if x.ndim == 4:
                    figures[f'{name}_std'], figures[f'{name}_within'] = spread(x.float())
        found.append(figures)
    return found


def hardest(rows: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean over unit rows (N, C), 512 evenly spaced ones at most, of the cosine with the nearest negative.

    Args:
        rows: Unit rows; none give 0.
        negatives: (K, C) unit rows, at least one.
    """
    if not len(rows):
        return rows.new_zeros(())
    rows = rows[:: -(-len(rows) // _ROWS)]
    blocks = [(rows @ block.to(rows.dtype).t()).amax(1) for block in negatives.split(_QUEUE_BLOCK)]
    return torch.stack(blocks).amax(0).mean()


def spread(x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return how far the directions of a map's pixels lie apart, and the share of it inside pictures.

    With unit pixels ``u``: ``std = sqrt(mean |u - mean u|^2)``, which is the standard deviation per channel times the
    root of the number of channels: 1 for directions that cancel out, 0 where all pixels are alike (collapse).
    ``within`` is the part of ``std^2`` that is left when each picture's own mean is taken away: 0 where each picture
    has one vector, so that nothing dense is left.

    Args:
        x: (B, C, H, W) map.
        valid: (B, H, W) bool, the pixels that count. Defaults to all.
    """
    rows, weight = losses.normalize_pixels(x, valid)  # pixels that do not count are zero
    images = len(x)
    counts = weight.view(images, -1).sum(1)
    means = rows.view(images, -1, rows.shape[1]).sum(1) / counts.clamp_min(1)[:, None]
    shares = counts / counts.sum().clamp_min(1)
    total = (1 - (means * shares[:, None]).sum(0).square().sum()).clamp_min(0)
    within = (1 - (means.square().sum(1) * shares).sum()).clamp_min(0)
    return total.sqrt(), (within / total.clamp_min(torch.finfo(total.dtype).eps)).clamp(0, 1)


_COLLAPSED = 0.01


# The hook


@HOOKS.register_module()
class DenseMonitor(MeasuringHook):
    """Measure at intervals the features in a step of each distiller, and probe the backbone on labelled images.

    Distillers that compare feature maps are watched: ``PCD`` and every ``FeatureDistiller`` without class scores.

    The training is not affected: no weight, buffer, mode, gradient or random stream changes; a run with it resumes to
    the same bits. What is measured: :func:`measure_step`. The values go to the log, to the
    visualizer (``vis_data/scalars.json``, TensorBoard) and to the message hub, as ``monitor/<distiller>.<name>`` and
    ``monitor/<kind>.<name>``, e.g. ``monitor/pcd.positive``, ``monitor/knn.miou``. If all student outputs are alike,
    a warning is logged. Figures of pictures without labels are ``monitor/<distiller>.unlabelled.<name>``.

    Example::

        custom_hooks = [dict(type='mmdistill_dense.DenseMonitor', probe=dict(train=dict(…), test=dict(…)))]

    Args:
        interval: Measure the first step of every n-th epoch, or every n-th iteration. Defaults to 1.
        by_epoch: Count epochs (the default) or iterations.
        probe: Options of :class:`DenseProbe`. It runs before the first iteration, with the teachers beside the student,
            and then on the student.
        probe_interval: Probe after every n-th epoch or iteration, and after the last. Defaults to 10.

    Raises:
        ValueError: For an interval below 1; at start for ``by_epoch=True`` in iteration-based training.
    """

    def __init__(
        self, interval: int = 1, by_epoch: bool = True, probe: Mapping[str, Any] | None = None, probe_interval: int = 10
    ) -> None:
        super().__init__()
        check_count('DenseMonitor: interval', interval, 1)
        check_count('DenseMonitor: probe_interval', probe_interval, 1)
        check_option('by_epoch', by_epoch, (True, False))
        self.interval, self.by_epoch, self.probe_interval = interval, by_epoch, probe_interval
        self.probe = None if probe is None else DenseProbe(**probe)

    def before_train(self, runner: Runner) -> None:
        """Probe the student before training, and the teachers."""
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                'DenseMonitor counts epochs, but this run counts iterations: set by_epoch=False and intervals in '
                'iterations.'
            )
        model = unwrap(runner.model)
        if not _watched(model) and self.probe is None:
            runner.logger.info(
                'DenseMonitor: no distiller compares feature maps, and no probe is given: nothing is watched.'
            )
        if self.probe is not None and runner.iter == 0:
            self._probe(runner, model)
            self._probe_teachers(runner, model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Register a measuring hook on each watched distiller if this step is due."""
        due = batch_idx == 0 and runner.epoch % self.interval == 0 if self.by_epoch else not runner.iter % self.interval
        if due:
            for name, distiller in _watched(unwrap(runner.model)).items():
                self._handles.append(distiller.register_forward_pre_hook(self._measuring(name)))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write the measured values; probe after every n-th iteration."""
        for name, value in self._end_step(runner).items():
            if name.endswith('.out_std') and value < _COLLAPSED:
                runner.logger.warning(
                    f'DenseMonitor: {name} is {value:.1e}: all pixels of the student have almost the same output, it '
                    'has collapsed. Try a smaller learning rate or a longer warm-up.'
                )
        if self.probe is not None and not self.by_epoch:
            self._probe_every(runner, runner.iter + 1, runner.max_iters, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Probe after every n-th epoch."""
        if self.probe is not None and self.by_epoch:
            self._probe_every(runner, runner.epoch + 1, runner.max_epochs, runner.iter)

    def _measuring(self, name: str) -> Callable[..., None]:
        def measure(distiller: PCD | FeatureDistiller, recorded: tuple[Any, ...]) -> None:
            place = f'{name}.{distiller.state.part}' if distiller.state.part else name
            self._found |= {f'{place}.{key}': value for key, value in measure_step(distiller, *recorded).items()}

        return measure

    def _probe_every(self, runner: Runner, done: int, end: int, step: int) -> None:
        if done % self.probe_interval == 0 or done == end:
            self._probe(runner, unwrap(runner.model), step)

    def _probe(self, runner: Runner, model: Network, step: int = 0) -> None:
        if self.probe is not None and is_main_process():
            found = self.probe.student(model)
            self._write(runner, {f'{self.probe.kind}.{name}': value for name, value in found.items()}, step)

    def _probe_teachers(self, runner: Runner, model: Network) -> None:
        if self.probe is None or not is_main_process():
            return
        for name, distiller in _watched(model).items():
            found = self.probe.teacher(model, distiller)
            values = {f'{self.probe.kind}.teacher_of_{name}.{key}': value for key, value in found.items()}
            self._write(runner, values, 0)


def _watched(model: Network) -> dict[str, PCD | FeatureDistiller]:
    return {
        name: distiller
        for name, distiller in distillers_of(model).items()
        if isinstance(distiller, (PCD, FeatureDistiller)) and not distiller.needs_scores
    }
