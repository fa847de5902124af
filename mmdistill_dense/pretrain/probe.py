"""Measure how well a frozen backbone's pixel features predict the classes of a segmentation set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdistill_dense.distillers.base import Distiller
from mmdistill_dense.networks.modes import evaluating
from mmdistill_dense.networks.recording import Recorder, run_parts
from mmdistill_dense.networks.taps import Tap
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.evenly import evenly_spaced
from mmdistill_dense.utils.runner_internals import Network, Sample
from mmdistill_dense.utils.validate import check_count, check_option

IGNORED = 255
MAX_PIXELS = 20_000  # of the training images, evenly spaced
_BLOCK = 1024

Features = Callable[[Tensor], Tensor]


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
