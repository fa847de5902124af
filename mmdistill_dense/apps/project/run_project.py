"""``mmdistill run``: check, train and test with the suite, write the report, export the students."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from shlex import quote

from mmdistill_dense.apps.export import export_student
from mmdistill_dense.apps.project import STUDENT, SUITE
from mmdistill_dense.apps.report.page import make_report
from mmdistill_dense.apps.report.scores import MIN_TEACHER_LEAD
from mmdistill_dense.apps.suite import configs, plan
from mmdistill_dense.apps.suite.actions import train_all
from mmdistill_dense.apps.suite.definition import CONTROL, TEACHER, Definition, is_alone, load_suite
from mmdistill_dense.apps.suite.plan import Run
from mmdistill_dense.apps.suite.table import SuiteTable, collect, gain_cell
from mmdistill_dense.config.resolve import read_file, reading_once
from mmdistill_dense.utils.files import read_json, write_json
from mmdistill_dense.utils.process import heartbeat, quiet
from mmdistill_dense.utils.validate import some

# errors of the report that must not stop a run
_REPORT_ERRORS = (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def open_project(folder: Path) -> Definition:
    if folder.is_file():
        raise FileNotFoundError(f'{folder}: a file. Give the folder: mmdistill run {quote(str(folder.parent))}')
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder (looked in {Path.cwd()}). `new` writes it, and names it.')
    if not (folder / SUITE).is_file():
        raise FileNotFoundError(f'{folder}: no {SUITE} in it, so `new` did not write this folder. Give its own.')
    if missing := [name for name in ('data.py', 'pair.py', 'control.py') if not (folder / name).is_file()]:
        advice = 'The same `new` command, with the --batch that the other files have, writes it again'
        raise FileNotFoundError(f'{folder}: {", ".join(missing)} is missing. {advice}.')
    config = read_file(folder / 'control.py')
    if 'max_iters' not in (config.get('train_cfg') or {}):
        raise ValueError(f'{folder / "control.py"}: train_cfg has no max_iters, the number of steps. Write it there.')
    root = config.train_dataloader.dataset.get('data_root')
    if root and not Path(root).is_dir():
        advice = 'If the data were moved, write their new folder there: all results stay.'
        raise FileNotFoundError(f'{folder / "data.py"}: folder.data_root = {root!r}: no such folder. {advice}')
    return load_suite(folder / SUITE)


def run_project(folder: Path, exported: Sequence[str] = ()) -> int:
    """Finish a project, export its best student and the students of further rows, and return the exit code."""
    with reading_once():
        with quiet():
            definition = open_project(folder)
            if unknown := [name for name in exported if name not in (CONTROL, *definition.methods)]:
                names = ', '.join((CONTROL, *definition.methods))
                raise ValueError(f'--export {unknown[0]}: no row of {definition.path}, which has {names}.')
            lines = list(screen(definition))
        print('\n'.join(lines), flush=True)
        _warn(definition)
        code = train_all(definition, on_run_end=partial(_after_run, folder, definition))
    if code:
        return code
    cost_and_advice = _report(folder, definition)
    table = collect(definition)
    sentences = dict.fromkeys([*table.sentences(), *cost_and_advice])
    print('\n'.join([*score_lines(table), *(f'         {sentence}' for sentence in sentences)]))
    best = export_best(folder, table)
    for name in exported:
        export_row(table, name, weights := folder / f'student_{name}.pth')
        print(f'export   {weights} with its config {weights.with_suffix(".py").name}')
    print(best)
    return 0


def screen(definition: Definition) -> Iterator[str]:
    """Yield what will be done: networks, methods, data, steps, and where the results go."""
    config = configs.control_config(definition)
    teacher = config.model.teacher
    origin = 'trained here by teacher.py' if plan.trains_teacher(definition) else f'weights {teacher.get("checkpoint")}'
    dataset = config.train_dataloader.dataset
    yield f'student  {config.model.student.get("cfg")}'
    yield f'teacher  {teacher.get("cfg") or teacher.get("model")}, {origin}'
    methods = ', '.join(name for name in definition.methods if not is_alone(name))
    yield f'methods  {methods}, beside the student alone; seeds {", ".join(map(str, definition.seeds))}'
    yield f'data     {dataset.get("data_root")}, {len(dataset.metainfo["classes"])} classes'
    yield f'steps    {config.train_cfg.max_iters} of {configs.batch_of(config)} pictures, each training'
    yield f'results  {definition.out}; the log of each training is log.txt in its folder'


def _after_run(folder: Path, definition: Definition) -> None:
    """After each run: warn, and write the page without pictures, so that it can be opened; a run goes on without."""
    page = folder / 'report.html'
    _warn(definition)
    with suppress(*_REPORT_ERRORS), quiet():
        make_report([definition.out], page, pictures=0)
        os.utime(page, (0, 0))  # older than any result: the end writes it whole


def _warn(definition: Definition) -> None:
    with suppress(*_REPORT_ERRORS):
        if warning := close_teacher(definition):
            print(warning, flush=True)


def close_teacher(definition: Definition) -> str:
    """Warn of a teacher that is hardly better than the student alone, once both are known and before methods train."""
    with quiet():
        results = plan.results(definition)
    if [name for name in results if results[name]] != [TEACHER, CONTROL] or len(results[CONTROL]) > 1:
        return ''
    teacher, control = (next(iter(results[name].values()))['score'] for name in (TEACHER, CONTROL))
    if not (teacher - control < MIN_TEACHER_LEAD and teacher > 1):  # not a number, or a fraction
        return ''
    problem = f'The teacher scores {teacher:.2f}, the student alone {control:.2f}: from a teacher as close as that'
    advice = 'Stop here (Ctrl-C), and train it longer or take a better one.'
    return f'WARNING  {problem} our students mostly learned nothing. {advice}'


def _report(folder: Path, definition: Definition) -> list[str]:
    """Write the page if it is older than a result or the list of runs, and return its sentences."""
    page = folder / 'report.html'
    if newer(page, definition.out):
        return []
    try:
        with heartbeat('writing the report'), quiet():
            _, sections = make_report([definition.out], page, data=configs.control_config(definition))
    except _REPORT_ERRORS as error:
        print(f'report   left out: {error}')
        return []
    reasons = (f'left out, {section.title.lower()}: {reason}' for section in sections for reason in section.reasons)
    print(*(f'report   {text}' for text in (page, *reasons)), sep='\n')
    return sections[0].lead


def newer(file: Path, out: Path) -> bool:
    """Tell whether a file is there, and was written after all results and after the list of the runs."""
    times = [path.stat().st_mtime for path in (*out.rglob('result.json'), *out.glob(plan.RUNS_FILE))]
    return file.is_file() and file.stat().st_mtime >= max(times, default=0.0)


def export_row(table: SuiteTable, name: str, out: Path) -> tuple[Run, Path]:
    """Export the best checkpoint of a row's seed that is best on val; return this run and that checkpoint.

    A file that holds it already stays: ``exported.json`` beside the results says what each file holds.
    """
    definition, row = table.definition, table.verdict.row(name)
    if not row.results:
        names = some(row.name for row in table.verdict.rows if row.results and row.name != TEACHER)
        raise FileNotFoundError(f'{name} cannot be exported: no finished run has this name; there are {names}.')
    seed = max(row.results, key=lambda seed: row.on_val.get(seed, -math.inf))
    run = next(run for run in plan.runs(definition) if (run.name, run.seed) == (name, seed))
    last = run.folder / row.results[seed]['checkpoint']  # where the one of the best validation was not kept
    checkpoint = max(run.folder.glob('best_*.pth'), key=number_in, default=last)
    record, config = definition.out / 'exported.json', out.with_suffix('.py')
    digest = configs.options_hash(row.results[seed], str)  # a repeated run has the config of the earlier one
    origins, origin = read_json(record) or {}, f'{run.title} {checkpoint.name} {digest}'
    if origins.get(out.name) != origin or not (out.is_file() and config.is_file()):
        if not checkpoint.is_file():
            raise FileNotFoundError(f'{name} cannot be exported: its weights are gone: {checkpoint}.')
        with heartbeat('exporting'), quiet():
            export_student(plan.config_of(definition, run), checkpoint, out)
        write_json(record, {**origins, out.name: origin})
    return run, checkpoint


def number_in(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint, after which it was saved."""
    return int(checkpoint.stem.rpartition('_')[2])


def export_best(folder: Path, table: SuiteTable) -> str:
    """Export the student that the verdict names as ``student.pth``, and return a line that says which it is."""
    name, weights, methods = table.verdict.student, folder / STUDENT, table.definition.methods
    try:
        run, checkpoint = export_row(table, name, weights)
    except OSError as error:
        return f'student  not written: {error} `mmdistill run {quote(str(folder))} --export NAME` exports another row.'
    distils = name in methods and methods[name].distils
    training = f'distilled by {name}' if distils else 'trained alone' + (f', as {name}' if name != CONTROL else '')
    chosen = f'seed {run.seed}, best on val, at its best validation: step {number_in(checkpoint)}'
    return f'student  {weights} with its config {weights.with_suffix(".py").name}: {training} ({chosen})'


def score_lines(table: SuiteTable) -> Iterator[str]:
    """Yield the scores of teacher, student alone and methods with their gains."""
    for row in table.verdict.rows:
        if row.scores:
            title = 'the student alone' if row.name == CONTROL else row.name
            gain = f' ({gain_cell(row, mark="")})' if row.gain else ''
            yield f'{table.definition.metric:<8} {row.mean:6.2f}  {title}{gain}'
