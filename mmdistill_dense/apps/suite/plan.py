"""The runs of a suite, their dependencies, configs and results."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from mmdistill_dense.apps.recipes.compose import header_remark, unknown
from mmdistill_dense.apps.suite import configs
from mmdistill_dense.apps.suite.configs import Portable
from mmdistill_dense.apps.suite.definition import CONTROL, PRETRAINING, TEACHER, Definition, is_alone
from mmdistill_dense.config.local_code import changed_files, local_code
from mmdistill_dense.config.resolve import load_model, read_file, student_option, teachers_of
from mmdistill_dense.config.values import chain
from mmdistill_dense.engine.work_folder import latest_checkpoint
from mmdistill_dense.guards.config import batch_problem
from mmdistill_dense.utils.files import read_json, read_progress, write_json, write_text
from mmdistill_dense.utils.literals import assignments
from mmdistill_dense.utils.validate import some

SEED = re.compile(r'seed\d+')  # the folder of one seed of a row
_OLD_ENTRY = re.compile(r'teacher|runs/(?P<name>[^/]+)/seed(?P<seed>\d+)')
RUNS_FILE = 'runs.json'  # what the runs of a suite are at its newest start, which a report reads


@dataclass(frozen=True)
class Run:
    name: str  # ``'teacher'``, ``'control'`` or the name of a row
    seed: int  # the seed of the run
    folder: Path  # the work folder
    teacher: Path | None = None  # the folder of the teacher, if it waits for that
    pretraining: Path | None = None  # that of the pre-training that it starts from, if there is one

    @property
    def after(self) -> tuple[Path, ...]:
        """The folders of the runs whose results it needs."""
        return tuple(filter(None, (self.teacher, self.pretraining)))

    @property
    def is_teacher(self) -> bool:
        return self.name == TEACHER

    @property
    def is_pretraining(self) -> bool:
        """Whether it trains the backbone of a row's student, and has no score."""
        return self.name.startswith(f'{PRETRAINING}:')

    @property
    def file(self) -> Path:
        """Its config, written before it begins."""
        return self.folder / 'run.py'

    @property
    def title(self) -> str:
        return self.name if self.is_teacher or self.is_pretraining else f'{self.name} seed {self.seed}'

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of the finished run; else ``None``."""
        return read_json(self.folder / 'result.json')

    @property
    def missing(self) -> list[Path]:
        """The folders of runs that it needs and that have no result yet."""
        return [folder for folder in self.after if read_json(folder / 'result.json') is None]

    @property
    def state(self) -> dict[str, Any]:
        """The last report of the training; empty before the first one."""
        return read_progress(self.folder / 'state.json')


Resolved = Mapping[Run, tuple[Config, str]]


def runs(definition: Definition) -> list[Run]:
    """Return all runs in order: the teacher, pre-trainings, for each seed the student alone and the other rows."""
    seed = definition.teacher.seed if definition.teacher is not None else 0
    trained, folder = trains_teacher(definition), definition.out / TEACHER
    teachers = [Run(TEACHER, seed, folder)] if trained or definition.test_teacher else []
    pretrainings, students = dict[str, Run](), list[Run]()
    for name, method in definition.methods.items():
        if method.pretraining is not None:
            # called after the first row that it trains, or after one that began when rows stood in another order
            rows = [row for row, other in definition.methods.items() if other.pretraining == method.pretraining]
            home = definition.out / PRETRAINING
            first = next((row for row in rows if (home / row / 'state.json').is_file()), rows[0])
            pretrainings[name] = Run(f'{PRETRAINING}:{first}', 0, home / first)
    all_wait = trained and configs.reads_teacher(configs.control_config(definition))
    for seed, name in itertools.product(definition.seeds, (CONTROL, *definition.methods)):
        distils = name in definition.methods and definition.methods[name].distils
        teacher, training = folder if all_wait or (trained and distils) else None, pretrainings.get(name)
        row = definition.out / 'runs' / name
        students.append(Run(name, seed, row / f'seed{seed}', teacher, training.folder if training else None))
    return [*teachers, *dict.fromkeys(pretrainings.values()), *students]


def trains_teacher(definition: Definition) -> bool:
    """Tell whether the suite trains the teacher: it has begun to, or has its config and no checkpoint."""
    has_row = definition.teacher is not None or definition.test_teacher
    if has_row and len(teachers := teachers_of(read_file(definition.control).model)) != 1:
        problem = f'teacher and test_teacher need a pair with one teacher, this one has {len(teachers)}'
        raise ValueError(f'{definition.path}: {problem}: train them with mmdistill train, and remove both keys.')
    if definition.teacher is None:
        return False
    (option,) = teachers.values()
    file = Path(option.get('checkpoint') or '')
    # a teacher that this suite trained for an earlier `out` may have had other settings or other data
    older = file.is_relative_to(definition.path.absolute().parent) and (file.parent / 'state.json').is_file()
    rows = {path.parent.parent.name for path in definition.out.glob('runs/*/seed*/run.py')}
    retrain = not file.is_file() or (older and all(map(is_alone, rows)))
    return (definition.out / TEACHER / 'state.json').is_file() or retrain


def select(definition: Definition, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Run]:
    """Return the runs of some rows and seeds with what they need."""
    all_runs = runs(definition)
    names = {run.name for run in all_runs}
    if unknown_names := [name for name in only if name not in names]:
        raise ValueError(f'--only: {unknown("row", unknown_names[0], names)}')
    if not set(seeds) <= set(definition.seeds) and (not only or set(only) - {TEACHER}):
        raise ValueError(f'--seeds {list(seeds)}: the definition has {list(definition.seeds)}')
    folders = set[Path]()
    for run in reversed(all_runs):  # what is needed stands before
        has_seed = not seeds or run.seed in seeds or (only and (run.is_teacher or run.is_pretraining))
        if run.folder in folders or (has_seed and (not only or run.name in only)):
            folders.update((run.folder, *run.after))
    return [run for run in all_runs if run.folder in folders]


def unfinished(definition: Definition, chosen: Sequence[Run], processes: int = 1) -> list[Run]:
    """Return the runs without a result, with a teacher whose weights they need and whose file is gone."""
    check_unchanged(definition, chosen)
    todo = [run for run in chosen if run.result is None]
    all_runs = runs(definition)
    for run in all_runs if todo else ():
        check_processes(run, processes)
    write_list(definition.out, [run for run in all_runs if not run.is_pretraining])
    needed = {folder for run in todo for folder in run.after}
    for run in chosen:  # results without weights were restored or tidied up
        name = (run.result or {}).get('checkpoint')
        if run.folder in needed and name is not None and not (run.folder / name).is_file():
            (run.folder / 'result.json').replace(run.folder / 'result_without_weights.json')
    return [run for run in chosen if run.result is None]


def write_list(out: Path, all_runs: Sequence[Run]) -> None:
    """Write name, seed and folder of each run, whether it is the control, and the folder of its teacher."""
    listing: dict[str, Any] = {'runs': []}
    for run in all_runs:
        teacher = str(run.teacher.relative_to(out)) if run.teacher else None
        facts = {'name': run.name, 'seed': run.seed, 'is_control': run.name == CONTROL, 'teacher': teacher}
        listing['runs'].append({'folder': str(run.folder.relative_to(out)), **facts})
    if read_json(out / RUNS_FILE) != listing:
        write_json(out / RUNS_FILE, listing)


def read_list(out: Path) -> list[Run]:
    """Return the runs of a suite at its newest start. Lists of before 0.3 hold folders alone, or are missing."""
    listed_runs = list[Run]()
    for entry in (read_json(out / RUNS_FILE) or {}).get('runs', [TEACHER, *out.glob('runs/*/seed*')]):
        if isinstance(entry, Mapping):
            teacher = out / entry['teacher'] if entry['teacher'] else None
            listed_runs.append(Run(entry['name'], entry['seed'], out / entry['folder'], teacher))
        elif match := _OLD_ENTRY.fullmatch(str(entry).removeprefix(f'{out}/')):
            listed_runs.append(Run(match['name'] or TEACHER, int(match['seed'] or 0), out / match[0]))
    return listed_runs


def config_of(definition: Definition, run: Run) -> Config:
    """Return the config of a run, with its seed, folder and teacher, and without the settings of a resumption."""
    if run.is_teacher and definition.teacher is not None and trains_teacher(definition):
        config = configs.teacher_config(definition, definition.teacher)
    elif run.is_pretraining:
        config = configs.pretraining_config(definition, run.folder.name)
    elif (method := definition.methods.get(run.name)) is None:
        config = configs.control_config(definition)
    else:
        config = configs.method_config(definition, method)
    config.merge_from_dict({'randomness.seed': run.seed})
    config.work_dir = str(run.folder)
    name_files(run, config)
    return config


def resolved(definition: Definition, todo: Iterable[Run]) -> Resolved:
    """Return the config of each run, and its hash."""
    run_configs = {run: config_of(definition, run) for run in todo}
    return {run: (config, hash_of(definition, run, config)) for run, config in run_configs.items()}


def name_files(run: Run, config: Config) -> None:
    """Let a student read what the suite trains before it. Until that has ended, the name of a file is a guess."""
    results = {folder: read_json(folder / 'result.json') or {'checkpoint': 'missing.pth'} for folder in run.after}
    files = {folder: str(folder / result['checkpoint']) for folder, result in results.items()}
    if run.teacher and configs.reads_teacher(config):
        config.model.teacher.checkpoint = files[run.teacher]
    if run.pretraining:
        student, file = config.model.student, files[run.pretraining]
        first_weights = ConfigDict(type='Pretrained', checkpoint=file, prefix='backbone.')
        student.setdefault('backbone', ConfigDict()).init_cfg = first_weights
        if load_model(student_option(config.model), 'model.student').model.get('pretrained'):
            student.pretrained = None


def portable_in(definition: Definition) -> Portable:
    """Return what makes texts of a suite's configs equal on all machines."""
    dataset = chain(configs.control_config(definition).train_dataloader.dataset)[0]
    return configs.make_portable(definition.path.parent, str(dataset.get('data_root') or '').rstrip('/'))


def hash_of(definition: Definition, run: Run, config: Config | None = None, portable: Portable | None = None) -> str:
    """Return the hash of a run's config. It covers how its teacher and its first weights are made."""
    portable, config = portable or portable_in(definition), config or config_of(definition, run)
    teacher_text = start_text = ''
    if run.teacher and definition.teacher is not None:
        teacher = configs.teacher_config(definition, definition.teacher)
        teacher_text = f'{configs.config_hash(teacher, portable=portable)} seed {definition.teacher.seed}'
    if run.pretraining:
        pretraining = configs.pretraining_config(definition, run.pretraining.name)
        start_text = f'{configs.config_hash(pretraining, portable=portable)} seed 0'
    digest = configs.config_hash(config, teacher_text, portable, start_text)
    # a teacher that is tested alone has the control's config, whose hash leaves out what no distiller reads
    tested = run.is_teacher and not trains_teacher(definition)
    return configs.options_hash([digest, config.model.teacher], portable) if tested else digest


def write_config(run: Run, config: Config, config_hash: str) -> None:
    """Write the whole config of a run with its hash; its training reads this file, and ``mim train`` takes it too."""
    name_files(run, config)
    values = {key: value for key, value in config.to_dict().items() if key != 'distillers'}
    header: dict[str, str | None] = {'config_hash': config_hash, 'networks': configs.networks_hash(config)}
    header['code'] = json.dumps(code) if (code := local_code(config)) else None
    lines = [f'# {name}: {value}\n' for name, value in header.items() if value not in (None, '')]
    write_text(run.file, f'{"".join(lines)}{assignments(values)}')


def check_unchanged(definition: Definition, chosen: Iterable[Run]) -> None:
    """Refuse runs that were begun with another config, other networks or other code than the definition gives now."""
    for run in chosen:
        result, state = run.result or {}, run.state if latest_checkpoint(run.folder) else {}
        if not (state or result):
            continue
        config, by_folder = config_of(definition, run), configs.make_portable(definition.path.parent)
        # that of today, that before projects could be moved, and that before the weights of a tested teacher counted
        hashes = {hash_of(definition, run, config), hash_of(definition, run, config, by_folder)}
        hashes |= {configs.config_hash(config, portable=by_folder)} if run.is_teacher else set()
        for old_hash in {str(facts['config_hash']) for facts in (result, state) if 'config_hash' in facts} - hashes:
            keys = configs.changed_keys(run.folder, config)
            if keys or len(old_hash) >= configs.DIGITS:
                made = f'with another config than the definition gives now ({some(keys) or "its teacher"})'
                raise _refusal(run, made, 'Undo the change, set another `out`')
        if run.file.is_file():
            networks = header_remark(run.file, 'networks')
            if networks and networks != configs.networks_hash(config):
                raise _refusal(run, 'with other networks: a file that the pair names by `cfg` has changed')
            check_code(run, config)


def check_code(run: Run, config: Config) -> None:
    """Refuse a run whose local code has changed since its config was written; older files do not hold the code."""
    if files := changed_files(json.loads(header_remark(run.file, 'code') or 'null'), local_code(config)):
        remedy = f'If it trains as before, remove the line `# code:` of {run.file}; else undo the change'
        raise _refusal(run, f'with other code: {some(files)} changed since', remedy)


def check_processes(run: Run, processes: int) -> None:
    """Refuse a folder made by another number of processes, so with another batch, unless it is a finished teacher."""
    old_processes = (run.result or (run.state if latest_checkpoint(run.folder) else {})).get('processes')
    if old_processes in (None, processes) or ((run.is_teacher or run.is_pretraining) and run.result):
        return
    made = f'by {old_processes} process(es), this would be {processes}: another batch'
    remedy = 'Go on as it was begun (`mmdistill suite run` starts one, `suite job --launcher` several)'
    raise _refusal(run, made, f'{remedy}, set another `out`')


def _refusal(run: Run, made: str, remedy: str = 'Undo the change') -> ValueError:
    return ValueError(f'{run.title}: {run.folder} was made {made}. {remedy}, or remove that folder to repeat the run.')


def check_batch(definition: Definition, todo: Resolved, processes: int) -> None:
    """Refuse a batch that does not match the recipe's learning rate."""
    trained = trains_teacher(definition)
    for run, (config, _) in todo.items():
        group = 'teacher.options' if run.is_teacher else 'options'
        group = f'methods.{run.folder.name}.pretrain.options' if run.is_pretraining else group
        if (trained or not run.is_teacher) and (problem := batch_problem(config, processes)):
            raise ValueError(f'{definition.path}: {group}: {problem}')


def score_of(definition: Definition, metrics: Mapping[str, Mapping[str, float]], split: str = 'test') -> float:
    """Return the score of a run in percent."""
    if not (scores := metrics[split]):  # mmdet returns no metric for a detector without a single detection
        return 0.0
    if definition.metric not in scores:
        problem = f'metric={definition.metric!r} is not in the result of the test: {", ".join(scores)}'
        raise KeyError(f'{definition.path}: {problem}')
    return scores[definition.metric] * (100.0 if definition.percent else 1.0)


def scored(definition: Definition, run: Run) -> dict[str, Any] | None:
    """Return the result of a finished run with today's score: ``metric`` or ``percent`` may have been others then."""
    if (result := run.result) is not None:
        today = {'score': score_of(definition, result['metrics']), 'metric': definition.metric}
        if any(repr(result.get(key, value)) != repr(value) for key, value in today.items()):
            result |= today
            write_json(run.folder / 'result.json', result)
    return result


def results(definition: Definition) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results of the teacher, the control and the rows, by name and seed."""
    row_results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in (TEACHER, CONTROL, *definition.methods)}
    for run in runs(definition):
        if not run.is_pretraining and (result := scored(definition, run)) is not None:
            row_results[run.name][run.seed] = result
    return row_results
