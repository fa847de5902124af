"""Make the pipeline for pictures without labels out of that for labelled ones."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmdistill_dense.config.data_sets import chain
from mmdistill_dense.registry import TRANSFORMS
from mmdistill_dense.utils.messages import some
from mmdistill_dense.utils.random_streams import fork_rng, seed_everything

Step = dict[str, Any]

_TRIES = 5  # of a step that draws whether it does something
_READS_A_FILE = re.compile('LoadImageFromFile$')
# mmdet's loader does not fail without labels, it gives none; the others keep pictures before they fail.
_LABELS = re.compile('Annotations|CopyPaste|Mosaic|MixUp')


@TRANSFORMS.register_module()
class EmptyLabelMap(BaseTransform):
    """Gives a picture a label map of one class, in which later steps mark the pixels that they add."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``gt_seg_map``."""
        results['gt_seg_map'] = np.zeros(results['img'].shape[:2], np.uint8)
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results


def marking_steps(steps: Sequence[Step]) -> list[Step]:
    """Return the steps of segmentation with an empty label map after the one that reads a file; others as they are."""
    if not any(_name(step) == 'PackSegInputs' for step in steps):
        return list(steps)
    return [steps[0], {'type': 'mmdistill_dense.EmptyLabelMap'}, *steps[1:]]


def training_steps(dataset: Mapping[str, Any]) -> list[Step]:
    """Return the pipeline of a training set's config, with those of its wrappers; of several sets, the first one's."""
    steps = (step for one in chain(dataset) for step in one.get('pipeline') or [])
    return [dict(step) for step in steps if isinstance(step, Mapping)]


def without_labels(steps: Sequence[Step], pictures: Iterable[str], key: str) -> tuple[list[Step], list[str]]:
    """Return the steps that work without labels, and the types of those that were left out.

    What reads labels is left out by name; any other step is left out if it fails on a picture without labels. A crop
    no longer looks for other classes (``cat_max_ratio``). No global random stream changes.

    Args:
        steps: The labelled pipeline.
        pictures: Files; the steps are tried on the first one that can be read.
        key: The config key to name in an error.
    """
    first = next((dict(step) for step in steps if _READS_A_FILE.search(_name(step))), {'type': 'LoadImageFromFile'})
    results = _read(first, pictures, key)
    kept, dropped = [first], []
    with fork_rng():
        for step in steps:
            if _READS_A_FILE.search(_name(step)):
                continue
            if 'inputs' in results:  # packed
                break
            plain = _without_classes(step)
            tried = None if _LABELS.search(_name(step)) else _try(plain, results)
            if tried is None:
                dropped.append(_name(step))
            else:
                results = tried
                kept.append(plain)
    if 'inputs' not in results or 'data_samples' not in results:
        raise ValueError(
            f"{key}.pipeline='auto': without labels, train_dataloader's pipeline gives no packed picture; it ran "
            f'{", ".join(map(_name, kept))}, and {", ".join(dropped) or "nothing"} was left out. Give {key}.pipeline '
            'as a list that reads a file first and ends with PackSegInputs or PackDetInputs.'
        )
    return kept, dropped


def _read(step: Step, pictures: Iterable[str], key: str) -> dict[str, Any]:
    read, tried = TRANSFORMS.build(dict(step)), []
    for path in pictures:
        try:
            return read({'img_path': path})
        except Exception as error:  # a decoder may raise anything
            tried.append(f'{path}: {error!r}')
    raise ValueError(f'{key}: none of the pictures can be read: {some(tried)}.')


def _try(step: Step, results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a step makes of a picture, ``None`` if it fails or gives nothing."""
    try:
        for form in _forms(step):
            transform = TRANSFORMS.build(copy.deepcopy(form))
            for seed in range(_TRIES):
                seed_everything(seed)
                found = transform(copy.deepcopy(dict(results)))
                if not isinstance(found, dict):
                    return None
    except Exception:  # a transform may run any code
        return None
    return found


def _forms(step: Step) -> Iterator[Step]:
    """Yield a step that draws whether or which of its parts it runs in forms that run each of them; last as it is."""
    if _name(step) == 'RandomApply':
        yield {**step, 'prob': 1.0}
    elif _name(step) == 'RandomChoice':
        yield from ({'type': step['type'], 'transforms': [one]} for one in step.get('transforms') or [])
    yield step


def _without_classes(step: Any) -> Any:
    if isinstance(step, Mapping):
        return {name: 1.0 if name == 'cat_max_ratio' else _without_classes(value) for name, value in step.items()}
    if isinstance(step, (list, tuple)):
        return type(step)(_without_classes(one) for one in step)
    return step


def _name(step: Mapping[str, Any]) -> str:
    kind = step.get('type')
    return str(getattr(kind, '__name__', kind)).rsplit('.', 1)[-1]
