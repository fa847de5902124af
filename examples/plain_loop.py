"""Distil in a plain PyTorch loop, without a runner: teacher, student alone and distilled student on generated pictures.

    python examples/plain_loop.py --steps 300 --out work_dirs/plain_loop

Called again with the same seed and steps, it goes on from its checkpoints. ``out/kd.pth`` then holds the plain student
and, apart, the distillers.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch.utils.data import DataLoader

from mmdistill_dense import DistillModel, base
from mmdistill_dense.registry import DATASETS

Batch = dict[str, Any]


def loader(option: Config, batch_size: int, count: int, seed: int | None = None) -> DataLoader:
    """Return ``count`` batches of a data set, drawn by a seed; without one, in its own order."""
    pictures = DATASETS.build(option)
    order: Sequence[int] = range(count * batch_size)
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        order = torch.randint(len(pictures), (count * batch_size,), generator=draw).tolist()
    return DataLoader(pictures, batch_size, sampler=order, collate_fn=pseudo_collate)


def later(batches: DataLoader, first: int) -> Iterator[tuple[int, Batch]]:
    """Yield the batches from one on, with their numbers."""
    yield from ((step, batch) for step, batch in enumerate(batches) if step >= first)


def train(model: Any, option: Config, file: Path, steps: int, seed: int, save_every: int = 100) -> Any:
    """Train a model, or go on from its file; a plain network of mmseg has no ``distillation`` and no ``distillers``."""
    set_random_seed(seed)
    model.init_weights()  # also loads the teacher
    distils = hasattr(model, 'distillation')
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.01)  # the distillers' among them
    rate = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    parts = {'state_dict': model, 'optimizer': optimizer, 'rate': rate}
    if distils:
        parts['distillers'] = model.distillers  # which the student's state_dict leaves out
    first = 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        if saved.get('run') != [steps, seed]:
            raise SystemExit(
                f'{file} is of [steps, seed] = {saved.get("run")}, not {[steps, seed]}: give another --out.'
            )
        first = saved['step']
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    if distils:
        model.distillation.start(max_iters=steps, seed=seed, iteration=first)
    model.train()
    for step, batch in later(loader(option, 8, steps, seed), first):
        if distils:
            model.distillation.state.iteration = step  # schedules and random masks follow it
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        total, logged = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        rate.step()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            print(f'{file.stem}: step {step + 1},', ', '.join(f'{key} {value:.3f}' for key, value in logged.items()))
            torch.save(
                {'run': [steps, seed], 'step': step + 1} | {name: part.state_dict() for name, part in parts.items()},
                file,
            )
    return model


@torch.no_grad()
def mean_iou(model: Any, option: Config, classes: int) -> float:
    """Return the mIoU over a data set, in percent."""
    model.eval()
    counts = torch.zeros(classes * classes, dtype=torch.long)
    for batch in loader(option, 1, len(DATASETS.build(option))):
        for sample in model.test_step(batch):
            truth, found = sample.gt_sem_seg.data.cpu(), sample.pred_sem_seg.data.cpu()
            known = truth < classes
            counts += torch.bincount((truth * classes + found)[known].flatten(), minlength=classes * classes)
    table = counts.view(classes, classes).double()
    both = table.diagonal()
    return 100 * float((both / (table.sum(0) + table.sum(1) - both).clamp(min=1)).mean())


def main() -> None:
    """Train the three networks and print their scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=300, help='steps of each network')
    parser.add_argument('--pictures', type=int, default=100, help='pictures of the test')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/plain_loop'))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    init_default_scope('mmseg')
    MMLogger.get_instance('plain_loop', log_level='WARNING')
    config = Config.fromfile(base('mmdistill_dense::kd/toy_seg.py'))  # options of networks and of data
    pictures, test = config.train_dataloader.dataset, config.val_dataloader.dataset
    test.num_images = args.pictures
    teacher = dict(config.model.teacher, checkpoint=str(args.out / 'teacher.pth'))
    plans: dict[str, Any] = {
        'teacher': dict(student=dict(cfg=teacher['cfg'])),
        'alone': dict(student=config.model.student),
        'kd': dict(student=config.model.student, teacher=teacher, distillers=config.model.distillers),
    }
    for name, plan in plans.items():
        model = train(DistillModel(**plan), pictures, args.out / f'{name}.pth', args.steps, args.seed)
        print(f'{name}: {mean_iou(model, test, 7):.1f} mIoU')


if __name__ == '__main__':
    main()
