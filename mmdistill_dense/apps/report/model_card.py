"""``mmdistill export``, and with ``--push`` the model card of the student beside it, both sent to a hub."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmdistill_dense.apps.export.write_student import export_command
from mmdistill_dense.apps.report.runs import compare, find_runs, is_run
from mmdistill_dense.apps.report.scores import Answer
from mmdistill_dense.apps.report.section import Missing, Numbers
from mmdistill_dense.apps.suite.table import head_lines, line
from mmdistill_dense.config.resolve import TASKS
from mmdistill_dense.utils.files import write_text
from mmdistill_dense.weights.strict_load import local_file, push, read_checkpoint

_ORIGIN = '<!-- written by mmdistill_dense; the next export with --push replaces it -->'
# the hub's word for the task, ours, and how a student is loaded and asked
_TASKS = {
    'seg': ('image-segmentation', 'semantic segmentation', 'mmseg', 'init_model', 'inference_model'),
    'det': ('object-detection', 'detection', 'mmdet', 'init_detector', 'inference_detector'),
}
_USE = """```python
from huggingface_hub import snapshot_download
from {package}.apis import {ask}, {load}

folder = snapshot_download('{repository}')
model = {load}(f'{{folder}}/{config}', f'{{folder}}/{weights}', device='cpu')
found = {ask}(model, 'photo.jpg')
```"""


def export(args: argparse.Namespace) -> None:
    card = Path(args.out).with_name('README.md')
    if args.push and card.is_file() and _ORIGIN not in card.read_text(encoding='utf-8'):
        raise FileExistsError(f'--push: the card is written as {card}, a file of yours. Give OUT a folder of its own.')
    written = export_command(args)
    if args.push:
        weights, plain = written
        checkpoint = local_file(args.checkpoint, None, 'checkpoint')
        write_text(card, '\n'.join(model_card(args.push, args.licence, weights, plain, checkpoint)) + '\n')
        print(f'card    {card}\npushed  {push(args.push, card.parent, [weights.name, plain.name, card.name])}')


def model_card(repository: str, licence: str, weights: Path, plain: Path, checkpoint: Path) -> Iterator[str]:
    """Yield the lines of the card of an exported student, whose weights came from this checkpoint of its training."""
    model, content = Config.fromfile(plain), read_checkpoint(checkpoint)
    meta: Mapping[str, Any] = content.get('meta') or {}
    kind, task, package, load, ask = _TASKS[TASKS[model.default_scope]]
    yield from ('---', f'license: {licence}', f'pipeline_tag: {kind}', f'tags: [{package}, knowledge-distillation]')
    yield from ('---', _ORIGIN, '', f'# {repository.rpartition("/")[2]}', '')
    network = f'{model.model.type} with {(model.model.get("backbone") or {}).get("type", "a network of its own")}'
    classes = (meta.get('dataset_meta') or {}).get('classes') or ()
    told = meta.get('distill') or {}
    methods = [str(one['type']) for one in (told.get('distillers') or {}).values()]
    yield f'A student for {task}: {network}, trained with {" and ".join(methods) or "labels alone"} by mmdistill_dense.'
    yield from ('', *head_lines(['', ''], words=2), line(['classes', ', '.join(classes) or 'not named']))
    for name, one in (told.get('teachers') or {}).items():
        file = f'{one["file"]}, SHA-256 {one["sha256"]}' if one['file'] else 'random weights'
        yield line([name, f'{one["config"]}, {file}'])
    yield line(['licence', f'{licence}; the data and the weights of the teacher have licences of their own'])
    yield from ('', '## Scores', '', *_scores(checkpoint.parent))
    names = {'config': plain.name, 'weights': weights.name, 'repository': repository}
    yield from ('', '## Use', '', _USE.format(package=package, load=load, ask=ask, **names))


def _scores(folder: Path) -> Iterator[str]:
    """Yield the report's table of scores, for a checkpoint in the folder of its run."""
    if not is_run(folder):
        yield 'Not known: the checkpoint was not in the folder of its training.'
        return
    run = find_runs(folder)[0]
    try:
        table = Answer(Numbers(compare([run.suite or folder]))).table()
    except Missing as reason:
        yield str(reason)
        return
    yield f'{table.caption}. Gain: over the student alone at the same seeds. This is {run.title}.'
    yield ''
    yield from (*head_lines([*table.head]), *(line([*row]) for row in table.rows))
