"""``mmdistill run``: check, train and test with the suite, write the report, export the students."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import fmean

from mmengine.config import Config
from rich.console import Console

from mmdistill_dense.apps.check.context import ERROR, NOTE, Options
from mmdistill_dense.apps.check.render import show
from mmdistill_dense.apps.check.run import Report, check_config
from mmdistill_dense.apps.export import export_student
from mmdistill_dense.apps.project import SUITE
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.apps.report.page import make_report
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.actions import train_all
from mmdistill_dense.apps.suite.definition import Definition, is_control, load
from mmdistill_dense.apps.suite.plan import CONTROL, TEACHER
from mmdistill_dense.apps.suite.rows import best_control, changed_data, own_data
from mmdistill_dense.utils.files import read_json, write_json
from mmdistill_dense.utils.process import heartbeat, quiet
from mmdistill_dense.utils.version import __version__

_ALWAYS = ('data.py', 'pair.py', 'control.py')


def open_project(folder: Path) -> Definition:
    if folder.is_file():
        raise FileNotFoundError(f'{folder}: a file. Give the folder: mmdistill run {folder.parent}')
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder (looked in {Path.cwd()}). `new` writes it, and names it.')
    if not (folder / SUITE).is_file():
        told = f'no {SUITE} in it, so `new` did not write this folder. `new` says at its end which one it wrote'
        raise FileNotFoundError(f'{folder}: {told}.')
    if missing := [name for name in _ALWAYS if not (folder / name).is_file()]:
        told = 'The same `new` command, with the --batch that the other files have, writes it again'
        raise FileNotFoundError(f'{folder}: {", ".join(missing)} is missing. {told}.')
    for path in sorted(folder.glob('*.py')):
        try:
            ast.parse(path.read_text(encoding='utf-8'))
        except SyntaxError as error:
            raise ValueError(f'{path}: line {error.lineno} is no Python: {error.msg}.') from error
    _check_control(folder)
    return load(folder / SUITE)


def _check_control(folder: Path) -> None:
    """Check what the first screen of `run` tells: steps and data."""
    config = Config.fromfile(folder / 'control.py')
    if 'max_iters' not in config.get('train_cfg', {}):
        raise ValueError(f'{folder / "control.py"}: train_cfg has no max_iters, the number of steps. Write it there.')
    root = config.train_dataloader.dataset.get('data_root')
    if root and not Path(root).is_dir():
        raise FileNotFoundError(
            f'{folder / "data.py"}: folder.data_root = {root!r}: no such folder. If the data were moved, a link '
            f'keeps all results: ln -s NEW_PLACE {root}. A new path in the file repeats the trainings.'
        )


def run_project(folder: Path, rerun_changed: bool = False) -> int:
    """Do what is left of a project, and return the exit code."""
    with quiet():
        definition = open_project(folder)
        lines = list(screen(definition))
    print('\n'.join(lines), flush=True)
    if not checked(folder, definition):
        return 2
    code = train_all(definition, rerun_changed=rerun_changed, news=partial(_report_so_far, folder, definition))
    if code:
        return code
    _report(folder, definition)
    _export(folder, definition)
    print('\n'.join(ending(definition)))
    return 0


def screen(definition: Definition) -> Iterator[str]:
    """Yield what will be done: networks, methods, data, steps, and where the results go."""
    config = configs.control_config(definition)
    teacher = config.model.teacher
    weights = f'weights {teacher.get("checkpoint")}'
    own = ', trained here by teacher.py' if plan.trains_teacher(definition) else f', {weights}'
    dataset = config.train_dataloader.dataset
    yield f'student  {config.model.student.get("cfg")}'
    yield f'teacher  {teacher.get("cfg") or teacher.get("model")}{own}'
    seeds = ', '.join(map(str, definition.seeds))
    others = [f'{own_data(one).strip(" ,")}' for name, one in definition.methods.items() if is_control(name)]
    alone = f'the student alone{"".join(f", and with {one}" for one in others)}'
    yield f'methods  {", ".join(definition.taught)}, beside {alone}; seeds {seeds}'
    yield f'data     {dataset.get("data_root")}, {len(dataset.metainfo["classes"])} classes'
    yield f'steps    {config.train_cfg.max_iters} of {configs.batch_of(config)} pictures, each training'
    yield f'results  {definition.out}; the log of each training is log.txt in its folder'


def checked(folder: Path, definition: Definition) -> bool:
    """Check the configs that are not known to be good; tell whether all of them are."""
    place = definition.out / 'checked.json'
    known, now = read_json(place) or {}, digest(folder, definition)
    trains = plan.trains_teacher(definition) and not (definition.out / TEACHER / 'result.json').is_file()
    names = [*([f'{TEACHER}.py'] if trains else []), *(f'{name}.py' for name in definition.methods)]
    for name in names:
        weights = not trains or name == f'{TEACHER}.py'
        if known.get(name) == now or not (folder / name).is_file():
            continue
        with heartbeat(f'checking {name}'):
            options = Options(weights=weights, val=0, cost=False, command=False)
            report = check_config(folder / name, options, lambda stage: None)
        for line in _said(name, report):
            print(line, flush=True)
        if report.verdict == ERROR:
            show(report, Console(file=sys.stdout, highlight=False))
            print(f'run      stopped. Mend {folder / name}, or a file that it is made of; the same command goes on.')
            return False
        known = {**known, name: now}
        write_json(place, known)
    return True


def _said(name: str, report: Report) -> Iterator[str]:
    subject = report.subject
    facts = [f'{subject.pictures} pictures'] if subject.pictures else []
    if subject.student is not None:
        facts.append(f'student {_millions(subject.student.parameters)}')
    teachers = [one for one in subject.teachers if one.parameters]
    facts += [f'{one.key.removeprefix("model.")} {_millions(one.parameters)}' for one in teachers]
    yield f'check    {name}: {report.verdict}; {", ".join(facts)}'
    for start in subject.student.starts if subject.student else ():
        yield f'         student: {start.told(", ")}'
    for one in subject.teachers:
        if one.receipt and one.receipt['file']:
            tensors = f'{one.receipt["matched"]} of {one.receipt["total"]} tensors'
            yield f'         teacher from {one.receipt["file"]}, SHA-256 {str(one.receipt["sha256"])[:8]}, {tensors}'
    pairs = [f'{row.distiller} compares {row.student_tap} with {row.teacher_tap}' for row in subject.taps]
    yield from (f'         {pair}' for pair in dict.fromkeys(pairs))
    for finding in report.findings:
        if finding.level != NOTE:
            yield f'         {finding.level}: {finding.message} {finding.advice}'.rstrip()


def _millions(count: int) -> str:
    return f'{count / 1e6:.2f} M'


def digest(folder: Path, definition: Definition) -> str:
    """Return a hash of the configs of a project, of its lists of pictures, and of this version."""
    names = ('data', 'pair', 'control', TEACHER, *definition.methods)
    files = [folder / f'{name}.py' for name in names]
    lists = ('train', 'val', 'test', 'unlabelled')
    files += [folder / f'{name}.{ending}' for name in lists for ending in ('txt', 'json')]
    texts = [file.read_bytes() for file in files if file.is_file()]
    return hashlib.sha256(b'\0'.join([__version__.encode(), *texts])).hexdigest()


def _report_so_far(folder: Path, definition: Definition) -> None:
    """Write the page without pictures, so that it can be opened in the middle; a run goes on without it."""
    page = folder / 'report.html'
    with suppress(ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError), quiet():
        make_report([definition.out], page, pictures=0)
        os.utime(page, (0, 0))  # older than any result: the end writes it whole


def _report(folder: Path, definition: Definition) -> None:
    page = folder / 'report.html'
    if newer(page, definition.out):
        return
    try:
        with heartbeat('writing the report'), quiet():
            _, sections = make_report([definition.out], page)
    except ImportError as error:
        print(f'report   left out: {error}')
        return
    print(f'report   {page}')
    for sentence in sections[0].lead:
        print(f'         {sentence}')


def newer(file: Path, out: Path) -> bool:
    """Tell whether a file is there, and was written after all results."""
    results = [result.stat().st_mtime for result in out.rglob('result.json')]
    return file.is_file() and file.stat().st_mtime >= max(results, default=0.0)


def _export(folder: Path, definition: Definition) -> None:
    """Export the student of the first seed of each method."""
    for run in plan.runs(definition):
        if run.name not in definition.taught or run.seed != definition.seeds[0] or run.result is None:
            continue
        out = folder / f'student_{run.name}.pth'
        if newer(out, run.folder):
            continue
        with heartbeat('exporting'), quiet():
            config, checkpoint = read_config(str(run.folder / 'run.py')), run.folder / run.result['checkpoint']
            weights, plain = export_student(config, checkpoint, out)
        print(f'export   {weights} with its config {plain.name}')
    for name in sorted({place.name for place in definition.out.glob('runs/*')} - {*definition.taught}):
        file = folder / f'student_{name}.pth'
        if file.is_file():
            print(f'         {file} is from before: its row is no method of {SUITE}')


def ending(definition: Definition) -> Iterator[str]:
    """Yield the scores: teacher, student alone, each method with its gain. The report says what they mean."""
    found = plan.results(definition)
    means = {name: fmean(one['score'] for one in seeds.values()) for name, seeds in found.items()}
    best = best_control(found)
    if changed := changed_data(found):
        yield f'WARNING: {changed}'
    several = sum(map(is_control, means)) > 1
    for name, mean in means.items():
        title = 'the student alone' if name == CONTROL else name
        gain = f' ({mean - means[best]:+.2f})' if name in definition.taught and best in means else ''
        compared = ' (better on val: methods are compared with it)' if several and name == best else ''
        yield f'{definition.metric:<8} {mean:6.2f}  {title}{gain}{compared}'
