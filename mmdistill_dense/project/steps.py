"""``python -m mmdistill_dense run``: check, train and test with the suite, write the report, export the students."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from rich.console import Console

from mmdistill_dense.check.context import Options
from mmdistill_dense.check.findings import ERROR, NOTE
from mmdistill_dense.check.render import show
from mmdistill_dense.check.run import Report, check_config
from mmdistill_dense.export import export_student
from mmdistill_dense.project.config_files import SUITE
from mmdistill_dense.project.open_project import open_project
from mmdistill_dense.recipes.named import read_config
from mmdistill_dense.report.answer import why_no_gain
from mmdistill_dense.report.page import make_report
from mmdistill_dense.suite.cli import main as suite_main
from mmdistill_dense.suite.definition.definition import Definition
from mmdistill_dense.suite.plan import configs, plan
from mmdistill_dense.suite.plan.runs import CONTROL, TEACHER
from mmdistill_dense.utils.atomic import read_json, write_json
from mmdistill_dense.utils.heartbeat import alive
from mmdistill_dense.utils.silence import quiet
from mmdistill_dense.utils.version import __version__


def run_project(folder: Path, rerun_changed: bool = False) -> int:
    """Do what is left of a project, and return the exit code."""
    with quiet():
        definition = open_project(folder)
        lines = list(screen(definition))
    print('\n'.join(lines), flush=True)
    if not checked(folder, definition):
        return 2
    code = suite_main(['run', str(folder / SUITE), *(['--rerun-changed'] if rerun_changed else [])])
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
    own = (
        ', trained here by teacher.py' if plan.trains_teacher(definition) else f', weights {teacher.get("checkpoint")}'
    )
    dataset = config.train_dataloader.dataset
    yield f'student  {config.model.student.get("cfg")}'
    yield f'teacher  {teacher.get("cfg") or teacher.get("model")}{own}'
    seeds = ', '.join(map(str, definition.seeds))
    yield f'methods  {", ".join(definition.methods)}, beside the student alone; seeds {seeds}'
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
        with alive(f'checking {name}'):
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
    facts += [
        f'{one.key.removeprefix("model.")} {_millions(one.parameters)}' for one in subject.teachers if one.parameters
    ]
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


def _report(folder: Path, definition: Definition) -> None:
    page = folder / 'report.html'
    if newer(page, definition.out):
        return
    try:
        with alive('writing the report'), quiet():
            make_report([definition.out], page)
    except ImportError as error:
        print(f'report   left out: {error}')
        return
    print(f'report   {page}')


def newer(file: Path, out: Path) -> bool:
    """Tell whether a file is there, and was written after all results."""
    results = [result.stat().st_mtime for result in out.rglob('result.json')]
    return file.is_file() and file.stat().st_mtime >= max(results, default=0.0)


def _export(folder: Path, definition: Definition) -> None:
    """Export the student of the first seed of each method."""
    for run in plan.runs(definition):
        if run.name not in definition.methods or run.seed != definition.seeds[0] or run.result is None:
            continue
        out = folder / f'student_{run.name}.pth'
        if newer(out, run.folder):
            continue
        with alive('exporting'), quiet():
            weights, plain = export_student(
                read_config(str(run.folder / 'run.py')), run.folder / run.result['checkpoint'], out
            )
        print(f'export   {weights} with its config {plain.name}')


def ending(definition: Definition) -> Iterator[str]:
    """Yield the scores (teacher, student alone, each method with its gain), and why they say little."""
    found = plan.results(definition)
    means = {name: fmean(one['score'] for one in seeds.values()) for name, seeds in found.items()}
    for name, mean in means.items():
        gain = f' ({mean - means[CONTROL]:+.2f})' if name in definition.methods and CONTROL in means else ''
        yield f'{definition.metric:<8} {mean:6.2f}  {_title(name)}{gain}'
    distilled = [means[name] for name in definition.methods if name in means]
    if CONTROL in means and distilled and (reason := why_no_gain(means.get(TEACHER), means[CONTROL], max(distilled))):
        yield f'         {reason}'
    if len(definition.seeds) == 1:
        yield f'         One seed says little: write seeds: [0, 1, 2] into {definition.path} and run again.'


def _title(name: str) -> str:
    return 'the student alone' if name == CONTROL else name
