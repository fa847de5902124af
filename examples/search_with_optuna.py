"""Search method and learning rate of a pair by Optuna; judge the winner on fresh seeds against the best student alone.

    pip install optuna
    python examples/search_with_optuna.py my_pair_control.py --methods PCD CWD FitNet --trials 30 --processes 2

A trial trains one method, or the student alone, at one rate with the first seed, and is scored on the validation set.
Bad ones are stopped early; failed ones count, and are left out. What won is a guess: the best of many scores is high by
luck too. So the best method and the best student alone are trained again with seeds that no trial had, and scored on
the test set; only these numbers are shown. Called again, the search goes on where the journal ends; on other machines
with the same folder it takes part.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy import stats

ALONE = 'alone'
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Report(Hook):
    """Keeps the last score on the validation set, and tells a trial, which may stop the run."""

    score = math.nan

    def __init__(self, metric: str, trial: optuna.Trial | None = None) -> None:
        self.metric, self.trial = metric, trial

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.score = (metrics or {})[self.metric]
        if self.trial is not None:
            self.trial.report(self.score, runner.iter)
            if self.trial.should_prune():
                raise optuna.TrialPruned


def trained(args: argparse.Namespace, method: str, rate: float, seed: int, trial: Any = None) -> tuple[float, Runner]:
    """Train a method or the student alone, at a multiple of the config's rate; return its last score and the runner."""
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    config.model.distillers = {} if method == ALONE else dict(searched=dict(type=method, settings='auto'))
    config.optim_wrapper.optimizer.lr *= rate
    schedules = config.get('param_scheduler') or []
    for schedule in schedules if isinstance(schedules, list) else [schedules]:
        if 'eta_min' in schedule:  # the last rate, which follows the first
            schedule.eta_min *= rate
    config.randomness = dict(seed=seed)
    length = config.train_cfg.get('max_iters') or config.train_cfg.max_epochs
    config.train_cfg.val_interval = max(length // args.looks, 1) if trial else length
    name = f'trial_{trial.number}' if trial else f'{method}_seed_{seed}'
    config.work_dir, config.experiment_name = str(args.out / name), name
    config.visualizer = dict(config.get('visualizer') or {}, name=name)  # mmengine keeps one for each name
    runner = Runner.from_cfg(config)
    report = Report(args.metric, trial)
    runner.register_hook(report, priority='VERY_LOW')
    runner.train()
    return report.score, runner


def open_study(args: argparse.Namespace, worker: int = 0) -> optuna.Study:
    """Open the journal, which several processes write."""
    args.out.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(args.out / 'journal.log'))),
        study_name='search',
        load_if_exists=True,
        direction='maximize',
        sampler=optuna.samplers.TPESampler(seed=worker, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )


def search(args: argparse.Namespace) -> None:
    """Run trials until the journal holds as many as were asked for."""

    def objective(trial: optuna.Trial) -> float:
        method = trial.suggest_categorical('method', [ALONE, *args.methods])
        rate = trial.suggest_float('rate', 0.5, 4.0, log=True)
        return trained(args, method, rate, args.seed, trial)[0]

    study = open_study(args, args.worker)
    while max(len(study.get_trials(states=states)) for states in (DONE, (TrialState.FAIL,))) < args.trials:
        worked = study.get_trials(states=(TrialState.COMPLETE,))
        # a mistake in the config ends the search; where trials have worked, one that diverged is a failed one
        study.optimize(objective, n_trials=1, catch=Exception if worked else ())


def best(study: optuna.Study, methods: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of the best whole trial of some methods."""
    whole = [trial for trial in study.get_trials(states=(TrialState.COMPLETE,)) if trial.params['method'] in methods]
    if not whole:
        raise SystemExit(f'no whole trial of {", ".join(methods)}: raise --trials')
    return max(whole, key=lambda trial: trial.value or -math.inf).params


def judge(args: argparse.Namespace) -> None:
    """Train the best method and the best student alone with fresh seeds; print their scores on the test set."""
    study = open_study(args)
    pair = best(study, args.methods), best(study, [ALONE])
    seeds = range(args.seed + 1, args.seed + 1 + args.judge_seeds)
    scores = [[trained(args, seed=seed, **chosen)[1].test()[args.metric] for seed in seeds] for chosen in pair]
    for chosen, values in zip(pair, scores, strict=True):
        print(f'{chosen["method"]} at {chosen["rate"]:.2f} x the rate: ' + ' '.join(f'{score:.2f}' for score in values))
    gains = [distilled - alone for distilled, alone in zip(*scores, strict=True)]
    mean = sum(gains) / len(gains)
    error = stats.sem(gains) * stats.t.ppf(0.975, len(gains) - 1)
    verdict = 'more' if mean > error else 'less' if mean < -error else 'no difference that these seeds show'
    print(f'gain {mean:+.2f} [{mean - error:+.2f}, {mean + error:+.2f}] (95 %, {len(gains)} pairs of runs): {verdict}')


def main() -> None:
    """Search in several processes, then judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the pair with its teacher, the student alone, such as my_pair_control.py')
    parser.add_argument('--methods', nargs='+', default=['PCD', 'CWD', 'FitNet'], help='classes of distillers')
    parser.add_argument('--trials', type=int, default=30, help='of all processes together')
    parser.add_argument('--processes', type=int, default=1)
    parser.add_argument('--looks', type=int, default=4, help='validations in a trial, at which it may be stopped')
    parser.add_argument('--metric', default='mIoU', help='of both sets; coco/bbox_mAP for boxes')
    parser.add_argument('--seed', type=int, default=0, help='of all trials; the next ones judge')
    parser.add_argument('--judge-seeds', type=int, default=5, help='2 or more')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/search'))
    parser.add_argument('--worker', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    if args.worker is not None:
        search(args)
        return
    study = open_study(args)
    for method in [] if study.trials else [ALONE, *args.methods]:
        study.enqueue_trial({'method': method, 'rate': 1.0})  # each once at the config's own rate
    commands = [[sys.executable, *sys.argv, '--worker', str(number)] for number in range(args.processes)]
    workers = [subprocess.Popen(command) for command in commands]
    if sum(abs(worker.wait()) for worker in workers):  # waits for all
        raise SystemExit('a process of the search failed; its error is above')
    judge(args)


if __name__ == '__main__':
    main()
