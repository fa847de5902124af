"""``probe``: how well a pre-trained backbone tells the classes of whole pictures apart, as on ImageNet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.guards.config import below
from mmdistill_dense.networks.modes import evaluating
from mmdistill_dense.pretrain.dense_monitor import Pixels, linear, nearest
from mmdistill_dense.unlabelled.pictures import EXTENSIONS
from mmdistill_dense.utils.devices import device_of
from mmdistill_dense.utils.evenly import evenly
from mmdistill_dense.utils.process import quiet
from mmdistill_dense.weights.strict_load import load_strictly, plain_config, read_checkpoint, state_dict_of

CLASSIFIERS = {'knn': lambda train, x, classes: nearest(train, x, classes, 20), 'linear': linear}
_RESIZED = 256 / 224  # of the shorter side, before the crop


def probe_command(args: argparse.Namespace) -> None:
    device = device_of(args.device)
    found = probe(read_config(args.config), args.checkpoint, args.data, args.images, args.size, args.batch, device)
    for name, accuracy in found.items():
        print(f'{name:<7} {accuracy:.2f}')


def probe(
    config: Config,
    checkpoint: str | Path,
    data: Path,
    images: int | None = None,
    size: int = 224,
    batch: int = 64,
    device: str = 'cpu',
) -> dict[str, float]:
    """Return the accuracy in percent of each of :data:`CLASSIFIERS` on the mean of the backbone's last map."""
    # unlike a published linear probe, without augmentation: L-BFGS on all standardised vectors; nothing is random
    classes, parts = list_pictures(data, images)
    network = _network(config, checkpoint).to(device)
    with torch.no_grad(), evaluating(network):
        train, val = (_features(network, parts[part], size, batch, device, part) for part in ('train', 'val'))
        found = {name: classify(train, val.features, classes) for name, classify in CLASSIFIERS.items()}
    return {name: float(100 * (one == val.labels).float().mean()) for name, one in found.items()}


def list_pictures(data: Path, images: int | None = None) -> tuple[int, dict[str, list[tuple[Path, int]]]]:
    """Return the number of classes, and the files of each part with their classes; see :func:`probe`."""
    parts: dict[str, list[tuple[Path, int]]] = {}
    names: list[str] = []
    for part in ('train', 'val'):
        folder = data / part
        own = sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []
        names = names or own
        if other := sorted(set(own) - set(names)):
            raise ValueError(f'{folder} has classes that {data / "train"} lacks: {", ".join(other[:5])}.')
        files = [
            (file, names.index(name))
            for name in own
            for file in sorted((folder / name).rglob('*'))
            if file.suffix.lower() in EXTENSIONS
        ]
        if not files:
            said = f'{folder}: no picture in it. DATA must hold train/CLASS/… and val/CLASS/…'
            raise FileNotFoundError(f'{said}, a folder for each class.')
        parts[part] = evenly(files, images or len(files))
    return len(names), parts


def _network(config: Config, checkpoint: str | Path) -> Any:
    plain = plain_config(config)
    state = state_dict_of(read_checkpoint(checkpoint), checkpoint)
    init_default_scope(plain.get('default_scope', 'mmengine'))
    with quiet():
        network = MODELS.build(plain.model)
    load_strictly(network.backbone, below(state, 'backbone') or state, None, f'checkpoint={str(checkpoint)!r}')
    return network


def _features(network: Any, files: Sequence[tuple[Path, int]], size: int, batch: int, device: str, part: str) -> Pixels:
    found = []
    for start in track(range(0, len(files), batch), part, transient=True, console=Console(stderr=True)):
        pictures = [read_picture(path, size) for path, _ in files[start : start + batch]]
        inputs = network.data_preprocessor(dict(inputs=pictures, data_samples=None), False)['inputs']
        maps = network.backbone(inputs)
        last = maps[-1] if isinstance(maps, (tuple, list)) else maps
        found.append(last.float().mean((2, 3)))
    return Pixels(torch.cat(found), torch.tensor([label for _, label in files], device=device))


def read_picture(path: Path, size: int) -> Tensor:
    """Return the centre of a picture, (3, size, size) of bytes in the order BGR, as mmcv reads pictures."""
    read = mmcv.imread(path)  # of 16 bits 8 are left, and EXIF turns it, as in training
    if read is None:
        raise ValueError(f'{path}: not a picture that OpenCV reads.')
    picture = Image.fromarray(read)
    factor = size * _RESIZED / min(picture.size)
    picture = picture.resize([max(size, round(side * factor)) for side in picture.size], Image.Resampling.BILINEAR)
    left, top = ((side - size) // 2 for side in picture.size)
    cut = np.asarray(picture.crop((left, top, left + size, top + size)))
    return torch.from_numpy(cut.copy()).permute(2, 0, 1)
