"""What the command ``tokens`` does."""

import argparse
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdistill_dense.apps.inspect.token_masks import write_mask_sheets
from mmdistill_dense.apps.training import build_runner, load_config
from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller, token_store_of
from mmdistill_dense.distillers.maskd.token_files import write_tokens
from mmdistill_dense.model.distill_model import distillers_of
from mmdistill_dense.utils.distributed import unwrap


class StopBeforeTraining(Hook):
    """Ends training before its first iteration, when all distillers are prepared."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        runner.train_loop.stop_training = True


def learn_tokens(args: argparse.Namespace) -> None:
    """Learn the tokens that a config needs, write them where its training finds them, and draw their masks."""
    runner = build_runner(load_config(args))
    model = unwrap(runner.model)
    distillers = {name: method for name, method in distillers_of(model).items() if isinstance(method, TokenDistiller)}
    to_learn = [method for method in distillers.values() if method.tokens is None]
    if not to_learn and not (args.draw and distillers):
        raise ValueError('model.distillers of this config has no MasKD or FreeKD without tokens: nothing to learn.')
    if args.out and len(to_learn) != 1:
        raise ValueError(f'--out is one file, but {len(to_learn)} distillers of the config learn tokens.')
    runner.register_hook(StopBeforeTraining())
    runner.train()
    for distiller in to_learn:
        store = token_store_of(distiller, runner)
        if args.out and is_main_process():
            write_tokens(Path(args.out), distiller.mask_modules.state_dict(), store.meta)
        runner.logger.info(f'{distiller.name}: tokens are in {store.final}' + (f' and {args.out}' if args.out else ''))
    if args.draw and is_main_process():
        dataset = (runner.train_loop.dataloader if runner.val_loop is None else runner.val_loop.dataloader).dataset
        write_mask_sheets(model, distillers, dataset, args.draw, args.pictures)
