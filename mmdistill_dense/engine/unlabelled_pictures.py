"""Open the pictures of ``model.unlabelled``: without the labelled ones, and none of those that a run is tested on."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmdistill_dense.datasets.overlap import not_on_disk, picture_paths, same_pictures
from mmdistill_dense.datasets.unlabeled import UnlabeledImages
from mmdistill_dense.datasets.without_labels import marking_steps, training_steps, without_labels
from mmdistill_dense.model.unlabelled import KEY, UnlabelledOption
from mmdistill_dense.utils.messages import some

_READS_FIRST = [{'type': 'LoadImageFromFile'}]
_LABEL = 'seg_map_path'
TRIED = 8  # pictures, if the first ones are damaged


@dataclass(frozen=True)
class Pictures:
    """Pictures without labels.

    Attributes:
        dataset: With their pipeline.
        labelled: How many labelled pictures were taken out.
        left_out: Types of the steps of the labelled pipeline that do not work without labels.
    """

    dataset: UnlabeledImages
    labelled: int
    left_out: Sequence[str]

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed: the number of pictures, and a hash of their names."""
        paths = picture_paths(self.dataset)
        absolute = not self.dataset.data_root and all(map(os.path.isabs, paths))
        root = os.path.commonpath(map(os.path.dirname, paths)) if absolute else self.dataset.data_root or '.'
        names = [os.path.relpath(path, root) for path in paths]
        return {'pictures': len(names), 'names': hashlib.sha256('\n'.join(names).encode()).hexdigest()}


def open_pictures(option: UnlabelledOption, config: Mapping[str, Any], labelled: Any) -> Pictures:
    """List the pictures, take the labelled ones out, refuse those of validation and test, and make the pipeline.

    A file that is listed twice, also by a link, counts once.

    Args:
        option: The options.
        config: The config of the run, with its loaders.
        labelled: The training set.

    Raises:
        FileNotFoundError: If there is no picture.
        ValueError: If all are labelled ones, if some are validation's or test's or label images, or if the labelled
            pipeline does not work without labels; for a runner that was built without a config.
    """
    if 'train_dataloader' not in config:
        raise ValueError(
            f'{KEY} needs the config of the run, whose loaders name the pictures of validation and test: build the '
            'runner with Runner.from_cfg(config).'
        )
    dataset = UnlabeledImages(**option.pictures, pipeline=_READS_FIRST)
    listed = [dataset.get_data_info(number)['img_path'] for number in range(len(dataset))]
    first: dict[str, int] = {}
    for number, path in enumerate(listed):
        first.setdefault(os.path.realpath(path), number)
    paths = [listed[number] for number in first.values()]
    known = same_pictures(paths, _comparable(picture_paths(labelled), 'train_dataloader'))
    left = [number for number in first.values() if listed[number] not in known]
    if not left:
        raise ValueError(
            f'{KEY}: all {len(paths)} pictures are those of train_dataloader, which the distillers see already: name '
            f'other pictures, or remove {KEY}.'
        )
    if len(left) < len(listed):
        dataset.get_subset_(left)
    paths = [listed[number] for number in left]
    tested = _tested(config)
    _refuse_tested(paths, {name: pictures for name, (pictures, _) in tested.items()})
    labels = {name: images for name, (_, images) in tested.items()}
    _refuse_labels(paths, {'train_dataloader': picture_paths(labelled, _LABEL), **labels})
    steps, left_out = option.pipeline, list[str]()
    if steps == 'auto':
        labelled_steps = training_steps(config['train_dataloader']['dataset'])
        steps, left_out = without_labels(labelled_steps, itertools.islice(paths, TRIED), KEY)
    if option.pseudo is not None:
        steps = marking_steps(steps)
    dataset.pipeline = Compose(copy.deepcopy(list(steps)))
    return Pictures(dataset, len(known), left_out)


def tested_pictures(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the paths of the pictures of validation and test, by the name of the loader.

    A data set that cannot be opened, and pictures that are no files here, are warned of.
    """
    return {name: pictures for name, (pictures, _) in _tested(config).items()}


def _tested(config: Mapping[str, Any]) -> dict[str, tuple[list[str], list[str]]]:
    """Return the paths of the pictures and of the label images of validation and test."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    done: list[Any] = []
    for name in ('val_dataloader', 'test_dataloader'):
        option = (config.get(name) or {}).get('dataset')
        if option is None or option in done:
            continue
        done.append(option)
        try:
            dataset = DATASETS.build(copy.deepcopy(option))
            found[name] = _comparable(picture_paths(dataset), name), picture_paths(dataset, _LABEL)
        except Exception as error:  # a data set may run any code, and test data need not be there
            _warn(name, f'the data set cannot be opened ({str(error).splitlines()[0] if str(error) else error!r})')
    return found


def _comparable(paths: list[str], name: str) -> list[str]:
    """Return the pictures of a loader; warn if it does not tell them, or if some are no files here."""
    elsewhere = not_on_disk(paths)
    if elsewhere or not paths:
        shown = f'{len(elsewhere)} of its {len(paths)} pictures are no files here, e.g. {elsewhere[0]}' if paths else ''
        _warn(name, shown or 'its data set does not tell the paths of its pictures')
    return paths


def _refuse_tested(paths: Sequence[str], by_loader: Mapping[str, Sequence[str]]) -> None:
    """Refuse pictures of validation or test: a model that has seen them cannot be tested on them.

    Raises:
        ValueError: Names three of them.
    """
    for name, tested in by_loader.items():
        if same := same_pictures(paths, tested):
            pairs = [path if path == other else f'{path} (= {other})' for path, other in same.items()]
            raise ValueError(
                f'{KEY}: {len(same)} of {len(paths)} pictures are also in {name}, so its results would tell nothing '
                f'about new pictures: {some(pairs, 3)}. Take them out of the folder, or list the others in '
                f'{KEY}.ann_file.'
            )


def _refuse_labels(paths: Sequence[str], by_loader: Mapping[str, Sequence[str]]) -> None:
    """Refuse label images, which a folder of pictures and labels has beside the pictures.

    Raises:
        ValueError: Names three of them.
    """
    for name, images in by_loader.items():
        labels = {os.path.realpath(path) for path in images}
        if found := [path for path in paths if os.path.realpath(path) in labels]:
            raise ValueError(
                f'{KEY}: {len(found)} of {len(paths)} pictures are label images of {name}: {some(found, 3)}. Name the '
                f'folders of pictures alone, in {KEY}.data_prefix (a list), or the pictures in {KEY}.ann_file.'
            )


def _warn(name: str, reason: str) -> None:
    message = f'{KEY}: could not be compared with the pictures of {name}: {reason}'
    print_log(message, 'current', logging.WARNING)
