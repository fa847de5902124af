"""Generate the table of methods, the metafiles and their index from the cards, configs and published numbers.

A card is ``docs/methods/<name>.md``: ``# <class>``, one sentence, and a table with the rows of :data:`ROWS`. The
numbers come from ``configs/<method>/published.yml``. Metafiles list config files only, because mim knows no others.
``python tools/catalogue.py`` writes everything anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from mmdistill_dense.apps.recipes.compose import configs, methods, option_files, owners, parts_of
from mmdistill_dense.apps.recipes.named import combinations
from mmdistill_dense.config.resolve import bases_of
from tools.docs.targets import Target, read_targets
from tools.wheel import source_address, with_badges

ROWS = ('tasks', 'compares', 'needs', 'paper')
DATA = {
    'ade20k': 'ADE20K',
    'bccd': 'BCCD',
    'camvid': 'CamVid',
    'cityscapes': 'Cityscapes',
    'coco': 'COCO',
    'coco_mini': 'COCO, 128 images',
    'cocostuff': 'COCO-Stuff 164k',
    'imagenet': 'ImageNet-1k',
    'nuclei': 'nuclei',
    'shapes': 'generated shapes',
    'voc12': 'Pascal VOC 2012',
    'voc12aug': 'Pascal VOC 2012 + Aug',
}
TASKS = {  # name of a metric here, name and task in a metafile
    'mIoU': ('mIoU', 'Semantic Segmentation'),
    'coco/bbox_mAP': ('box AP', 'Object Detection'),
    'coco/segm_mAP': ('mask AP', 'Instance Segmentation'),
}
_WRITTEN = '# Written by `make docs` from the card, the configs and published.yml. No weights are published here.\n'


@dataclass(frozen=True)
class Card:
    """A method's card: its class, one sentence, and the rows of its table."""

    file: Path
    name: str
    sentence: str
    rows: dict[str, str]

    @property
    def paper(self) -> dict[str, str] | None:
        """Title and address of the paper; ``None`` without one."""
        title = re.search(r'"(.+?)"', self.rows['paper'])
        url = re.search(r'https?://\S+', self.rows['paper'])
        return {'Title': title[1], 'URL': url[0].rstrip('.,;)')} if title and url else None


def read_card(file: Path) -> Card:
    """Read a card.

    Raises:
        ValueError: If it has another form.
    """
    title, sentence, table = [*file.read_text(encoding='utf-8').split('\n\n', 3), '', ''][:3]
    rows = dict(re.findall(r'^\| (\w+) \| (.+) \|$', table, re.MULTILINE))
    if not title.startswith('# ') or set(rows) != set(ROWS):
        raise ValueError(
            f"{file}: a card begins with '# <class>', an empty line, one sentence, an empty line and a table with the "
            f'rows {", ".join(ROWS)}; this one has the rows {", ".join(rows) or "none"}.'
        )
    return Card(file, title.removeprefix('# ').strip(), ' '.join(sentence.split()), rows)


def cards() -> list[Card]:
    """Return all cards, by name of the class."""
    files = (configs().parent / 'docs' / 'methods').glob('*.md')
    return sorted((read_card(file) for file in files if file.stem != 'README'), key=lambda card: card.name.lower())


def card_of(method: str) -> Card:
    """Return the card of a method's class, which its options name.

    Raises:
        ValueError: If there is none.
    """
    name = _class_of(option_files(method)[0])
    found = [card for card in cards() if card.name == name]
    if not found:
        raise ValueError(f'docs/methods holds no card of {name}, which configs/_base_/distillers/{method}*.py use.')
    return found[0]


@cache
def _class_of(options: Path) -> str:
    return str(Config.fromfile(options).distillers[options.stem.split('_')[0]].type)


def configs_of(method: str) -> list[Path]:
    """Return the config files in a method's folder."""
    return sorted((configs() / method).glob('*.py'))


def table() -> str:
    """Return the text of ``docs/methods/README.md``."""
    folders = {card_of(method).name: method for method in methods()}
    lines = [
        '# Methods',
        '',
        'All take the [options of every method](../options.md#options-of-every-method) and [combine](../combining.md).',
        '',
        '| method | what it does | tasks | needs | configs |',
        '|---|---|---|---|---|',
    ]
    for card in cards():
        needs = card.rows['needs'].removeprefix('nothing else').removeprefix('; ')
        cells = [f'[{card.name}]({card.file.name})', card.sentence, card.rows['tasks'], needs]
        method = folders.get(card.name)
        lines.append(f'| {" | ".join([*cells, _number(method) if method else "part of others"])} |')
    return '\n'.join([*lines, ''])


def _number(method: str) -> str:
    pairs = {one.pair for one in combinations(method)}
    folder = f'{len(pairs)} pairs, {len(configs_of(method))} files in `{method}`'
    readme = configs() / method / 'README.md'
    return f'[{folder}](../../configs/{method}/README.md)' if readme.is_file() else folder


def metafile(method: str) -> str:
    """Return the text of ``configs/<method>/metafile.yml``: one model for each file, its published results."""
    card = card_of(method)
    published = configs() / method / 'published.yml'
    targets = read_targets(published) if published.is_file() else []
    models = [_model(file, method, card.name, targets) for file in configs_of(method)]
    collection: dict[str, Any] = {
        'Name': card.name,
        'Metadata': {'Training Data': sorted({model['Metadata']['Training Data'] for model in models})},
        'README': f'configs/{method}/README.md',
        'Frameworks': ['PyTorch'],
    }
    if not (configs() / method / 'README.md').is_file():
        collection['README'] = f'docs/methods/{card.file.name}'
    if card.paper:
        collection['Paper'] = card.paper
    content = {'Collections': [collection], 'Models': models}
    return _WRITTEN + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _model(file: Path, method: str, collection: str, targets: list[Target]) -> dict[str, Any]:
    """Return an entry. mim knows a model by its name alone, so the name starts with the method."""
    parts = dict(_parts(file))
    name = parts['datasets'].stem
    data = DATA.get(name) or DATA.get(name.split('_')[0], name)
    metadata = {'Training Data': data, **_length(parts['schedules']), 'Batch Size': _batch(**parts)}
    if 'recipes' in parts:
        metadata['Pair'] = parts_of(parts['recipes']).pair
    model = {
        'Name': f'{method}_{file.stem}',
        'In Collection': collection,
        'Config': file.relative_to(configs().parent).as_posix(),
        'Metadata': metadata,
    }
    results = [_result(target, data) for target in targets if stem_of(target, method) == file.stem]
    return {**model, 'Results': results} if results else model


def stem_of(target: Target, method: str) -> str:
    """Return the name of the config that a published result belongs to, whether it is a file or not."""
    recipe = configs() / '_base_/recipes' / f'{target.recipe}.py'
    pair = parts_of(recipe).pair if recipe.is_file() and method in owners(recipe) else target.recipe
    return f'{pair}_{target.variant}' if target.variant else pair


def _result(target: Target, data: str) -> dict[str, Any]:
    metric, task = TASKS.get(target.metric, (target.metric, 'Dense Prediction'))
    metrics = {f'published {metric}': target.value}
    return {'Task': task, 'Dataset': data, 'Metrics': metrics, 'Source': f'{target.source} ({target.date})'}


def _parts(file: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files under ``_base_`` that a config is made of, by folder. Later ones of a folder win."""
    for base in bases_of(file):
        if base.parent.parent.name != '_base_' or base.parent.name == 'recipes':
            yield from _parts(base)
            if base.parent.parent.name == '_base_':
                yield 'recipes', base
        elif base.parent.name in ('datasets', 'schedules'):
            yield base.parent.name, base


@cache
def _length(schedule: Path) -> dict[str, int]:
    length = Config.fromfile(schedule).train_cfg
    return {'Epochs': length.max_epochs} if 'max_epochs' in length else {'Iterations': length.max_iters}


@cache
def _batch(datasets: Path, schedules: Path, recipes: Path | None = None, **_: Path) -> int:
    scaling = Config.fromfile(recipes or schedules).get('auto_scale_lr') or {}
    return int(scaling.get('base_batch_size') or Config.fromfile(datasets).train_dataloader.batch_size)


def texts() -> dict[Path, str]:
    """Return every generated file with its text."""
    there = [method for method in methods() if configs_of(method)]
    files = {configs() / method / 'metafile.yml': metafile(method) for method in there}
    index = yaml.safe_dump({'Import': [f'configs/{method}/metafile.yml' for method in there]}, indent=2)
    root = configs().parent
    readme = with_badges((root / 'README.md').read_text(encoding='utf-8'), source_address(root))
    files |= {root / 'model-index.yml': index, root / 'docs/methods/README.md': table(), root / 'README.md': readme}
    return files


def stale() -> dict[Path, str]:
    """Return the generated files that are missing or out of date, with their new text."""
    return {
        file: text for file, text in texts().items() if not file.is_file() or file.read_text(encoding='utf-8') != text
    }


def write() -> list[Path]:
    """Write the stale files, and return them."""
    files = stale()
    for file, text in files.items():
        file.write_text(text, encoding='utf-8')
    return list(files)
