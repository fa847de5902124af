"""The command ``tools/learn_tokens.py``, which learns the tokens of a config and stops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdistill_dense.distillers.maskd.maskd import MasKD
from mmdistill_dense.distillers.maskd.prepare_tokens import places_of
from mmdistill_dense.distillers.maskd.token_files import write_tokens
from mmdistill_dense.engine.commands import build_runner, common_parser, load_config
from mmdistill_dense.model.distillation import distillers_of
from mmdistill_dense.utils.distributed import unwrap


class StopBeforeTraining(Hook):
    """Ends training before its first iteration, when all distillers are prepared."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        runner.train_loop.stop_training = True


def main_learn_tokens(argv: Sequence[str] | None = None) -> None:
    """Learn the tokens of MasKD that a config needs, and write them where its training finds them.

    Args:
        argv: The command line without the program's name. Default: that of this process.
    """
    parser = common_parser('Learn the tokens of MasKD on the teacher of a config, and stop')
    parser.add_argument('--out', metavar='FILE', help='also write the tokens here, for tokens= of other configs')
    args = parser.parse_args(argv)
    runner = build_runner(load_config(args))
    distillers = learning_distillers(runner.model)
    if args.out and len(distillers) > 1:
        parser.error(f'--out is one file, but the config has {len(distillers)} MasKD distillers')
    runner.register_hook(StopBeforeTraining())
    runner.train()
    for distiller in distillers:
        report(distiller, runner, args.out)


def learning_distillers(model: nn.Module) -> list[MasKD]:
    """Return the distillers of a model that learn tokens.

    Raises:
        ValueError: When there are none.
    """
    found = [one for one in distillers_of(unwrap(model)).values() if isinstance(one, MasKD) and one.tokens is None]
    if not found:
        raise ValueError(
            "model.distillers of this config holds no dict(type='MasKD') without tokens: nothing to learn."
        )
    return found


def report(distiller: MasKD, runner: Runner, out: str | None) -> None:
    """Write the tokens to ``out`` as well, and log where they are."""
    places = places_of(distiller, runner)
    if out and is_main_process():
        write_tokens(Path(out), distiller.mask_modules.state_dict(), places.meta)
    runner.logger.info(f'{distiller.name}: tokens are in {places.final}' + (f' and {out}' if out else ''))
