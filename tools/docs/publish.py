"""``results.py publish``: write the repository's results anew from the folders of finished suites."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.registry import init_default_scope

from mmdistill_dense.apps.suite import configs
from mmdistill_dense.apps.suite.definition import Definition
from mmdistill_dense.apps.suite.rows import collect
from mmdistill_dense.apps.suite.table import gains_png, scores_as_csv
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.files import write_whole
from tools.docs import inline_results, markers
from tools.docs.readme_table import choice_of, readme_table
from tools.docs.records import records_text
from tools.docs.results_section import section
from tools.docs.scores import FOLDER, PAGE, PICTURES, README, Lines, parse_scores, read_scores

_NEW = '# Results\n'


@dataclass(frozen=True)
class Part:
    """The published parts of one suite."""

    stem: str
    section: str
    scores: str
    records: str
    picture: bytes


def main(definitions: Sequence[Definition], root: Path) -> None:
    """Write ``docs/results.md``, the README's table, the scores and the pictures of suites.

    Everything is computed before the first file is written, and each file is replaced as a whole. The same folders give
    the same bytes. The parts of other suites stay as they are.

    Raises:
        FileNotFoundError: If ``root`` has no README.md, or a part of another suite has no scores.
        KeyError: If the README has no markers for the table.
        ValueError: For two definitions of one name, markers that are not closed or name an unknown row, and a suite
            that has no result, a result of another config, or lacks published runs.
    """
    if not (root / README).is_file():
        raise FileNotFoundError(f'{root / README}: no such file; run this in the repository, or name it with --root')
    stems = [definition.path.stem for definition in definitions]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f'{", ".join(twice)}: given twice; each part of {PAGE} belongs to one definition')
    files = contents([part_of(definition, root) for definition in definitions], root)
    for path, content in files.items():
        write_whole(root / path, content)
    print(f'Written: {", ".join(map(str, files))}')


def part_of(definition: Definition, root: Path) -> Part:
    """Return the published parts of a suite.

    Raises:
        ValueError: If no student has finished, a result belongs to another config, or published runs are missing in the
            suite's folder.
    """
    table = collect(definition)
    if not any(row.results for row in table.rows[1:]):
        raise ValueError(f'{definition.path}: no student has finished in {definition.out}; `suite.py run` trains them')
    text = section(table, root, train_pictures(definition))
    records = records_text(definition, root)
    return Part(definition.path.stem, text, scores_as_csv(table), records, gains_png(table))


def train_pictures(definition: Definition) -> int | None:
    """Return the number of training pictures; print a note and return ``None`` if the data are missing."""
    config = configs.control_config(definition)
    init_default_scope(config.get('default_scope', 'mmengine'))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            dataset = DATASETS.build(config.train_dataloader.dataset)
    except FileNotFoundError as error:
        print(f'{definition.path}: the number of training pictures is left out, because the data are missing: {error}')
        return None
    while hasattr(dataset, 'dataset'):  # wrappers that repeat, balance or mix
        dataset = dataset.dataset
    return len(dataset)


def contents(parts: Sequence[Part], root: Path) -> dict[Path, bytes]:
    """Return the files that change, by their path in the repository."""
    page = (root / PAGE).read_text(encoding='utf-8') if (root / PAGE).is_file() else _NEW
    there = markers.suites(page, root / PAGE)
    for part in parts:
        name = markers.suite_marker(part.stem)
        if part.stem in there:
            page = markers.replaced(page, name, part.section, root / PAGE)
        else:
            page = markers.appended(page, name, part.section)
    sections = markers.suites(page, root / PAGE)
    scores = _scores(sections, parts, root)
    readme = (root / README).read_text(encoding='utf-8')
    table = readme_table(sections, scores, choice_of(readme, root / README))
    readme = markers.replaced(readme, markers.RESULTS, table, root / README)
    files = {}
    for part in parts:
        files[FOLDER / f'{part.stem}.csv'] = part.scores.encode('utf-8')
        files[FOLDER / f'{part.stem}.jsonl'] = part.records.encode('utf-8')
        files[PICTURES / f'{part.stem}.png'] = part.picture
    for path in inline_results.pages(root):
        files[path] = inline_results.filled((root / path).read_text(encoding='utf-8'), scores, path).encode('utf-8')
    return {**files, PAGE: page.encode('utf-8'), README: readme.encode('utf-8')}


def _scores(stems: Sequence[str] | dict[str, str], parts: Sequence[Part], root: Path) -> dict[str, Lines]:
    new = {part.stem: part.scores for part in parts}
    files = {stem: root / FOLDER / f'{stem}.csv' for stem in stems}
    return {stem: parse_scores(new[stem], file) if stem in new else read_scores(file) for stem, file in files.items()}
