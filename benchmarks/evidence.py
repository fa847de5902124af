"""Is a student that `new` lets a teacher teach better than the student alone, on pairs that nobody tuned?

    python benchmarks/evidence.py data SOURCE DIR    # small copies of the data; MMDISTILL_DATA=DIR afterwards
    python benchmarks/evidence.py run benchmarks/pairs/evidence_seg.yaml DIR    # seed by seed; goes on after a stop
    python benchmarks/evidence.py curves OUT.svg ROW FILE ...    # gains against labels, and the lead of the teacher
    python benchmarks/evidence.py table FILE ...    # scores.csv of each project: gains, and their mean over pairs

A pair counts only if its teacher is 5 points better than the student alone on val, by the first seed; else its
substitute takes its place before any method trains. A pair counts once: the interval of the mean is Student's t over
the pairs' gains, which is that of a random-effects model whose pairs are known equally well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as rle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tools/, which is no installed package

from mmdistill_dense.__main__ import main as command
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER
from mmdistill_dense.apps.suite.verdict import Gain, paired_gain
from tools.docs.check_results import read_scores, rows_of

SIZES = {'camvid': (96, 128), 'nuclei': (128, 128), 'bccd': (120, 160)}  # height and width of the small copies
LEAST_LEAD = 5.0  # points of a teacher above the student alone, on val
METRICS = {'mIoU': 1, 'coco/segm_mAP': 100, 'coco/bbox_mAP': 100}  # by which a pair is told, the first that it has
Runs = Mapping[int, tuple[float, float]]  # val and test of each seed, in percent


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and print."""
    parser = argparse.ArgumentParser(prog='evidence.py', description=str(__doc__).split('\n')[0])
    modes = parser.add_subparsers(required=True)
    data = modes.add_parser('data', help='write small copies of CamVid, the nuclei and BCCD')
    data.add_argument('source', type=Path)
    data.add_argument('out', type=Path)
    data.set_defaults(run=lambda args: write_data(args.source, args.out))
    run = modes.add_parser('run', help='let `new` write the projects, and train them')
    run.add_argument('file', type=Path, help='evidence_….yaml')
    run.add_argument('out', type=Path, help='folder of the projects')
    run.set_defaults(run=lambda args: run_pairs(args.file, args.out))
    table = modes.add_parser('table', help='the gain of each row on each pair, and the mean of each row')
    table.add_argument('file', type=Path, nargs='+', help='scores.csv of a project, or PAIR.csv')
    table.set_defaults(run=lambda args: print(as_markdown(args.file)))
    curves = modes.add_parser('curves', help='draw gains against the labels, and against the lead of the teacher')
    curves.add_argument('out', type=Path, help='the picture, .svg')
    curves.add_argument('row', help='whose gains, of each task one, as pcd,fgd')
    curves.add_argument('file', type=Path, nargs='+', help='DATA_labels<n>[_teacher<steps>].csv')
    curves.set_defaults(run=lambda args: draw_curves(args.out, args.row.split(','), args.file))
    null = modes.add_parser('null', help='the same procedure on copies of the student alone')
    null.add_argument('file', type=Path, nargs='+', help='scores.csv, whose spreads over seeds are drawn')
    for name, default in (('pairs', 6), ('rows', 3), ('seeds', 3), ('rounds', 2000)):
        null.add_argument(f'--{name}', type=int, default=default)
    null.set_defaults(run=lambda args: print(chance(args.file, args.pairs, args.rows, args.seeds, args.rounds)))
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')


def write_data(source: Path, out: Path) -> None:
    """Copy the data sets at small sizes; of the nuclei, which a detector of stride 8 then misses, the middles too."""
    for name, size in SIZES.items():
        shrink(source / name, out / name, size)
    shrink(source / 'nuclei', out / 'nuclei_middle', SIZES['nuclei'], crops=True)


def shrink(source: Path, out: Path, size: tuple[int, int], crops: bool = False) -> None:
    """Copy a data set with pictures, label images, boxes and outlines of ``(height, width)``, resized or cropped."""
    for path in sorted(source.rglob('*')):
        place = out / path.relative_to(source)
        if path.suffix in ('.jpg', '.png'):
            place.parent.mkdir(parents=True, exist_ok=True)
            how = Image.Resampling.NEAREST if 'annotations' in path.parts else Image.Resampling.LANCZOS
            picture = resized(Image.open(path), size, how, crops)
            picture.save(place, **({} if path.suffix == '.png' else {'quality': 95, 'subsampling': 0}))
        elif path.suffix == '.json' and path.parent.name == 'annotations':
            content = json.loads(path.read_text(encoding='utf-8'))
            sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
            scaled = (scale_object(item, sizes[item['image_id']], size, crops) for item in content['annotations'])
            content['annotations'] = [item for item in scaled if item]
            content['images'] = [dict(image, height=size[0], width=size[1]) for image in content['images']]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(content), encoding='utf-8')


def resized(picture: Image.Image, size: tuple[int, int], how: Image.Resampling, crops: bool) -> Image.Image:
    """Return a picture at another size, or the middle of it at its own scale."""
    top, left = ((old - new) // 2 for old, new in zip(picture.size[::-1], size, strict=True))
    return picture.crop((left, top, left + size[1], top + size[0])) if crops else picture.resize(size[::-1], how)


def scale_object(
    item: Mapping[str, Any], old: tuple[int, int], new: tuple[int, int], crops: bool = False
) -> dict[str, Any]:
    """Return an annotation of COCO at another size of its picture; empty where its mask has no pixel left."""
    scale_y, scale_x = new[0] / old[0], new[1] / old[1]
    x, y, width, height = item['bbox']
    box = [x * scale_x, y * scale_y, width * scale_x, height * scale_y]
    if not isinstance(item.get('segmentation'), Mapping):
        return {**item, 'bbox': box, 'area': box[2] * box[3]}
    outline = item['segmentation']
    outline = rle.frPyObjects(outline, *outline['size']) if isinstance(outline['counts'], list) else outline
    whole = Image.fromarray(rle.decode(outline))
    mask = np.asfortranarray(resized(whole, new, Image.Resampling.NEAREST, crops))
    small = rle.encode(mask)
    text = {'size': list(small['size']), 'counts': small['counts'].decode()}
    kept = {**item, 'bbox': rle.toBbox(small).tolist(), 'area': int(mask.sum()), 'segmentation': text}
    return kept if mask.any() else {}


def write_project(definition: Mapping[str, Any], name: str, out: Path) -> None:
    """Let ``new`` write the project of a pair."""
    pair = {**definition['all'], **definition['pairs'][name]}
    data, small = Path(os.environ['MMDISTILL_DATA'], pair['data']), out / 'data' / name
    for part, pictures in pair['parts'].items():
        write_part(data, part, pictures, small)
    write_unlabelled(data, pair['parts'], small, out / 'unlabelled' / name)
    words = ['new', '--data', str(small), '--out', str(out / name)]
    for key in ('student', 'teacher', 'size', 'classes', 'iters', 'method'):
        values = pair.get(key, [])
        texts = [str(value) for value in (values if isinstance(values, list) else [values])]
        words += [f'--{key}', *texts] if texts else []
    if command(words):
        raise ValueError(f'{name}: `new` refuses it, see above')


def write_suite(definition: Mapping[str, Any], name: str, out: Path) -> None:
    """Write the rows and seeds of the definition into the suite of ``new``. Finished runs stay."""
    pair = {**definition['all'], **definition['pairs'][name]}
    file = out / name / 'suite.yaml'
    suite = yaml.safe_load(file.read_text(encoding='utf-8'))
    suite['methods'] = {
        row: {'config': f'{method}.py', **suite_keys(keys, out / 'unlabelled' / name)}
        for method in pair['method']
        for row, keys in definition['rows'][method].items()
        if row in pair['rows']
    }
    suite |= {'seeds': definition['seeds'], 'jobs': 1, 'threads': 1, 'workers': 0, **pair.get('suite', {})}
    file.write_text(yaml.safe_dump(suite, sort_keys=False), encoding='utf-8')


def suite_keys(keys: Mapping[str, Any], unlabelled: Path) -> dict[str, Any]:
    """Return the keys of a suite's row: the options of its distillers, and the pictures without labels."""
    options = {key: value for key, value in keys.items() if key != 'unlabelled'}
    more = {'unlabelled': {'data_root': str(unlabelled.resolve()), 'ratio': 1}} if keys.get('unlabelled') else {}
    return {**({'options': options} if options else {}), **more}


def choose(data: Path, source: str, first: int, last: int) -> tuple[set[str], Any]:
    """Return the names of some pictures, counted in a shuffled order, and the content of their json file."""
    content = json.loads((data / source).read_text(encoding='utf-8')) if source.endswith('.json') else None
    names = sorted([image['file_name'] for image in content['images']] if content else os.listdir(data / source))
    return set(random.Random(0).sample(names, len(names))[first:last]), content


def write_part(data: Path, part: str, pictures: Sequence[Any], folder: Path) -> None:
    """Link a part into a folder: ``[COCO file or folder of pictures, first, last]`` of the shuffled names."""
    source = pictures[0]
    names, content = choose(data, *pictures)
    links = {f'images/{part}/{path.name}': path for path in data.rglob('*') if path.name in names}
    if content:
        images = [image for image in content['images'] if image['file_name'] in names]
        numbers = {image['id'] for image in images}
        objects = [item for item in content['annotations'] if item['image_id'] in numbers]
        (folder / 'annotations').mkdir(parents=True, exist_ok=True)
        text = json.dumps({**content, 'images': images, 'annotations': objects})
        (folder / 'annotations' / f'instances_{part}.json').write_text(text, encoding='utf-8')
    else:
        labels = data / source.replace('images', 'annotations')
        links |= {f'annotations/{part}/{Path(name).stem}.png': labels / f'{Path(name).stem}.png' for name in names}
        links = {place: path for place, path in links.items() if 'images' not in place or source in str(path)}
    for place, path in links.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / place).is_symlink():
            (folder / place).symlink_to(path.resolve())


def write_unlabelled(data: Path, parts: Mapping[str, Sequence[Any]], small: Path, folder: Path) -> None:
    """Link the pictures of the training data that are in no part."""
    source = parts['train'][0]
    names, _ = choose(data, source, 0, 10**6)
    linked = {path.name for path in small.rglob('images/*/*')}
    folder.mkdir(parents=True, exist_ok=True)
    for path in data.rglob('images/*/*'):
        is_of_source = source.endswith('.json') or source in str(path)
        if path.name in names - linked and is_of_source and not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path.resolve())


def run_pairs(file: Path, out: Path) -> None:
    """Train seed by seed, teachers and students alone first; a pair without a good teacher gets its substitute."""
    definition = yaml.safe_load(file.read_text(encoding='utf-8'))
    pairs, first = definition['pairs'], definition['seeds'][0]
    counted = []
    for name, pair in pairs.items():
        if 'substitute_of' not in pair:
            names = [name, *(other for other in pairs if pairs[other].get('substitute_of') == name)]
            counted += next(([other] for other in names if has_teacher(definition, other, out, first)), [])
    for seed in definition['seeds']:
        for name in counted:
            suite(out, name, ['--seeds', str(seed)])


def has_teacher(definition: Mapping[str, Any], name: str, out: Path, seed: int) -> bool:
    """Train teacher and student alone, and tell whether the teacher is good enough for a pair."""
    if not (out / name / 'suite.yaml').is_file():
        write_project(definition, name, out)
    write_suite(definition, name, out)
    scores = out / name / 'work/scores.csv'
    rows = scores_of(scores) if scores.is_file() else {}
    if TEACHER not in rows or seed not in rows.get(CONTROL, {}):
        suite(out, name, ['--seeds', str(seed), '--only', TEACHER, CONTROL])
        rows = scores_of(scores)
    (teacher,), alone = rows[TEACHER].values(), rows[CONTROL][seed]
    counts = teacher[0] - alone[0] >= (least := definition.get('least_lead', LEAST_LEAD))
    verdict = 'counts' if counts else f'is replaced: its teacher leads by less than {least:g}'
    print(f'{name}: teacher {teacher[0]:.2f}, student alone {alone[0]:.2f} on val: {verdict}', flush=True)
    return counts


def suite(out: Path, name: str, words: Sequence[str]) -> None:
    """Train what is missing of a pair, and write its table."""
    path = str(out / name / 'suite.yaml')
    if command(['suite', 'run', path, *words]) or command(['suite', 'table', path]):
        raise ValueError(f'{path}: a run failed, see above')


def scores_of(file: Path) -> dict[str, Runs]:
    """Return val and test of each row of a ``scores.csv``, by seed."""
    rows: dict[str, Runs] = {}
    for name, runs in read_scores(file).items():
        val = {seed: run['metrics']['val'] for seed, run in runs.items()}
        metric = next(key for key in METRICS if key in next(iter(val.values())))
        rows[name] = {seed: (METRICS[metric] * val[seed][metric], run['score']) for seed, run in runs.items()}
    return rows


def pair_name(file: Path) -> str:
    """Return the name of the pair whose scores a file holds."""
    return file.parents[1].name if file.stem == 'scores' else file.stem


def mean_of(gains: Sequence[float]) -> Gain:
    """Return the mean over pairs with its interval."""
    gain = paired_gain(dict(enumerate(gains)), dict.fromkeys(range(len(gains)), 0.0))
    assert gain is not None
    return gain


def as_markdown(files: Sequence[Path]) -> str:
    """Return the table of the pairs, with the mean of each row below."""
    pairs = {pair_name(file): rows_of(read_scores(file)) for file in files}
    gains = {name: {row.name: row.gain for row in rows.values() if row.gain} for name, rows in pairs.items()}
    gains = {name: pair for name, pair in gains.items() if pair}  # others were replaced, or no method has trained yet
    titles = list(dict.fromkeys(row for pair in gains.values() for row in pair))
    lines = [
        f'| pair | teacher | student alone | seeds | {" | ".join(titles)} |',
        f'|---|--:|--:|--:|{"--:|" * len(titles)}',
    ]
    for name, pair in gains.items():
        teacher, alone = pairs[name][TEACHER], pairs[name][CONTROL]
        cells = [as_text(pair.get(title)) for title in titles]
        lines.append(f'| {name} | {teacher.mean:.2f} | {alone.mean:.2f} | {len(alone.scores)} | {" | ".join(cells)} |')
    means = [[pair[title].mean for pair in gains.values() if title in pair] for title in titles]
    cells = [f'{as_text(mean_of(values))} ({len(values)})' for values in means]
    return '\n'.join([*lines, f'| **mean (pairs)** | | | | {" | ".join(cells)} |'])


def as_text(gain: Gain | None) -> str:
    """Return a gain with its interval."""
    return '' if gain is None else f'{gain.mean:+.2f}{gain.bounds()}'


def draw_curves(out: Path, titles: Sequence[str], files: Sequence[Path]) -> None:
    """Draw gains on test with their intervals: against the labels, and against the lead of teachers stopped early.

    The teacher of ``DATA_labels<n>`` trained to its end, that of ``DATA_labels<n>_teacher<steps>`` stopped early.
    """
    import matplotlib.pyplot as plt

    plt.rcParams |= {'svg.hashsalt': '0', 'font.size': 9}
    pairs = {pair_name(file): rows_of(read_scores(file)) for file in files}
    stopped = {name.partition('_teacher')[0] for name in pairs if '_teacher' in name}
    by_labels: dict[str, dict[float, Gain | None]] = {}
    by_lead: dict[str, dict[float, Gain | None]] = {}
    for name, rows in pairs.items():
        trained, _, steps = name.partition('_teacher')
        data, _, labels = trained.partition('_labels')
        gain = next(row.gain for row in rows.values() if row.name in titles)
        if not steps:
            by_labels.setdefault(data, {})[float(labels)] = gain
        if trained in stopped:
            by_lead.setdefault(f'{data}, {labels} labels', {})[rows[TEACHER].mean - rows[CONTROL].mean] = gain
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout='constrained')
    for axis, curves in zip(axes, (by_labels, by_lead), strict=True):
        for label, curve in curves.items():
            points = sorted((x, gain) for x, gain in curve.items() if gain)
            halves = [0.0 if gain.high is None else gain.high - gain.mean for _, gain in points]
            means = [gain.mean for _, gain in points]
            axis.errorbar([x for x, _ in points], means, halves, marker='o', capsize=3, label=label)
        axis.axhline(0, color='grey', linewidth=0.8)
        axis.legend(frameon=False)
    labels = sorted({x for curve in by_labels.values() for x in curve})
    axes[0].set(xscale='log', xlabel='labelled pictures', ylabel='gain over the student alone, points')
    near = {number for last, number in itertools.pairwise(labels) if number < 1.2 * last}  # no room for both
    axes[0].set_xticks(labels, ['' if number in near else f'{number:g}' for number in labels])
    axes[0].minorticks_off()
    axes[1].set(xlabel='lead of the teacher over the student alone, points')
    figure.savefig(out, metadata={'Date': None})


def chance(files: Sequence[Path], pairs: int, rows: int, seeds: int, rounds: int) -> str:
    """Simulate rows that are copies of the control; return how often some row's mean over pairs leaves 0 out."""
    rng, spreads = np.random.default_rng(0), list[np.ndarray]()
    for table in map(scores_of, files):
        runs = [np.array([test for _, test in row.values()]) for row in table.values() if len(row) > 1]
        spreads.append(np.concatenate([(row - row.mean()) * (len(row) / (len(row) - 1)) ** 0.5 for row in runs]))
    better = worse = 0
    for _ in range(rounds):
        gains = np.empty((rows, pairs))
        for pair in range(pairs):
            draws = rng.choice(spreads[rng.integers(len(spreads))], (rows + 1, seeds)).mean(1)
            gains[:, pair] = draws[1:] - draws[0]
        means = [mean_of(row.tolist()) for row in gains]
        better += any((mean.low or 0) > 0 for mean in means)
        worse += any((mean.high or 0) < 0 for mean in means)
    return (
        f'{rounds} times {pairs} pairs of {seeds} seeds without any effect: some row of {rows} says yes in '
        f'{better / rounds:.1%}, no in {worse / rounds:.1%}'
    )


if __name__ == '__main__':
    main()
