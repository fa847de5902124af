"""What the commands ``train``, ``test`` and ``tokens`` do."""

import argparse
import os
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.config.values import listed
from mmdistill_dense.engine.work_folder import folder_of, resume_the_latest
from mmdistill_dense.utils.distributed import unwrap
from mmdistill_dense.utils.validate import text_of
from mmdistill_dense.weights.mmengine_loader import install_reader

DUMP_SUFFIXES = ('.pkl', '.pickle')


def train(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        _use_auto_scale_lr(cfg)
    if args.resume:
        cfg.resume = True
    if args.resume not in (None, 'auto'):
        cfg.load_from = args.resume
    runner = build_runner(cfg)
    if args.resume == 'auto':
        resume_the_latest(runner, cfg.get('load_from'))
    runner.train()


def test(args: argparse.Namespace) -> None:
    checkpoint = args.checkpoint or args.checkpoint_option
    if not checkpoint:
        raise FileNotFoundError('the checkpoint is missing: mmdistill test CONFIG CHECKPOINT')
    cfg = load_config(args)
    if missing := [name for name in ('test_dataloader', 'test_cfg', 'test_evaluator') if cfg.get(name) is None]:
        remedy = "test_dataloader and test_evaluator as those of val, test_cfg=dict(type='TestLoop')"
        problem = f'The config does not set {", ".join(missing)}, so nothing can be tested'
        raise ValueError(f'{problem}. Set what is missing: {remedy}.')
    cfg.load_from = checkpoint
    if args.show or args.show_dir:
        _use_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        _use_tta(cfg)
    if args.out:
        _keep_predictions(cfg, args.out)
    build_runner(cfg).test()


def learn_tokens(args: argparse.Namespace) -> None:
    """Learn the tokens that a config needs, write them where its training finds them, and draw their masks."""
    from mmdistill_dense.apps.inspect.token_masks import write_mask_sheets  # draws; no other command loads it
    from mmdistill_dense.distillers.maskd.token_distiller import TokenDistiller, token_store_of
    from mmdistill_dense.distillers.maskd.token_files import write_tokens
    from mmdistill_dense.model.distill_model import distillers_of

    runner = build_runner(load_config(args))
    model = unwrap(runner.model)
    distillers = {name: method for name, method in distillers_of(model).items() if isinstance(method, TokenDistiller)}
    to_learn = [method for method in distillers.values() if method.tokens is None]
    if not to_learn and not (args.draw and distillers):
        raise ValueError('model.distillers of this config has no MasKD or FreeKD without tokens: nothing to learn.')
    if args.out and len(to_learn) != 1:
        raise ValueError(f'--out is one file, but {len(to_learn)} distillers of the config learn tokens.')
    if (loop := runner.train_loop) is not None:
        loop.stop_training = True  # before its first iteration, when all distillers are prepared
    runner.train()
    for distiller in to_learn:
        store = token_store_of(distiller, runner)
        if args.out and is_main_process():
            write_tokens(Path(args.out), distiller.mask_modules.state_dict(), store.meta)
        runner.logger.info(f'{distiller.name}: tokens are in {store.final}' + (f' and {args.out}' if args.out else ''))
    if args.draw and is_main_process():
        dataset = (runner.train_loop.dataloader if runner.val_loop is None else runner.val_loop.dataloader).dataset
        write_mask_sheets(model, distillers, dataset, args.draw, args.pictures)


def load_config(args: argparse.Namespace) -> Config:
    """Return the config that the arguments name, with their overrides."""
    install_reader()  # a plain config would not install it
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = read_config(args.config, args.cfg_options)
    except KeyError as error:  # a name that stands for no config
        raise FileNotFoundError(text_of(error)) from error
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or (args.cfg_options or {}).get('work_dir') or folder_of(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _use_amp(cfg: Config) -> None:
    wrapper = cfg.get('optim_wrapper') or ConfigDict(type=None)
    kind = wrapper.get('type', 'OptimWrapper')
    if 'constructor' in wrapper and not {'type', 'optimizer'} & wrapper.keys():
        builder = wrapper.constructor
        raise ValueError(f'--amp needs optim_wrapper.type; {builder} builds the optimizers itself: set the type there.')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp needs optim_wrapper.type OptimWrapper, this config has {kind!r}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def _use_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise KeyError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config')
    cfg.auto_scale_lr.enable = True


def _use_visualization(cfg: Config, show: bool, folder: str | None, wait_time: float) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise KeyError("--show and --show-dir need default_hooks.visualization, as dict(type='SegVisualizationHook')")
    hook.draw = True
    if show:
        hook.update(show=True, wait_time=wait_time)
    if folder and cfg.get('default_scope') == 'mmdet':
        hook.test_out_dir = folder
    elif folder:
        cfg.visualizer.save_dir = folder


def _use_tta(cfg: Config) -> None:
    if 'tta_model' not in cfg:
        raise KeyError('--tta needs tta_model in the config, as in _base_/runtime_seg.py and _base_/runtime_det.py')
    if 'tta_pipeline' not in cfg and cfg.get('default_scope') == 'mmseg':
        raise KeyError('--tta needs tta_pipeline in the config of a segmentation run, as in _base_/datasets/_paper.py')
    dataset = cfg.test_dataloader.dataset
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    flips = [ConfigDict(type='RandomFlip', prob=probability) for probability in (1.0, 0.0)]  # as mmdet's script
    augmented = ConfigDict(type='TestTimeAug', transforms=[flips, [ConfigDict(type='PackDetInputs', meta_keys=keys)]])
    dataset.pipeline = cfg.get('tta_pipeline') or [*deepcopy(dataset.pipeline[:-1]), augmented]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _keep_predictions(cfg: Config, out: str) -> None:
    detection = cfg.get('default_scope') == 'mmdet'
    evaluators = listed(cfg.test_evaluator)
    if out.endswith(DUMP_SUFFIXES):
        dump = ConfigDict(type='DumpDetResults' if detection else 'DumpResults', out_file_path=out)
        cfg.test_evaluator = [*evaluators, dump]
    elif detection:
        raise ValueError(f'--out of a detector must be a file ending with {" or ".join(DUMP_SUFFIXES)}, got {out!r}')
    else:
        evaluators[0].output_dir = out
