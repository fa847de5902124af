"""Does `new`'s recipe train a student as well, in the same CPU time, as the tools that people would take instead?

    python benchmarks/beside_others.py yolo DATA OUT [--epochs 60] [--size 192]  # in an environment with ultralytics
    python benchmarks/beside_others.py smp DATA OUT --size 96 128               # … with segmentation_models_pytorch
    python benchmarks/beside_others.py ours PROJECT --seconds 600               # control.py of a project of `new`

DATA: `images/PART` with `annotations/instances_PART.json`, or with label images `annotations/PART`. Each prints the CPU
seconds of training, the parameters, and box AP by pycocotools or mIoU on val and test. Nothing is downloaded: all begin
from random weights. Ultralytics is AGPL: it is measured in its own environment, and nothing here imports it otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ('train', 'val', 'test')


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, train, and print a line of JSON."""
    parser = argparse.ArgumentParser(prog='beside_others.py', description=str(__doc__).split('\n')[0])
    modes = parser.add_subparsers(required=True)
    for name, action in (('yolo', train_yolo), ('smp', train_smp), ('ours', train_ours)):
        mode = modes.add_parser(name)
        mode.add_argument('data', type=Path)
        if name != 'ours':
            mode.add_argument('out', type=Path)
        mode.add_argument('--size', type=int, nargs='+', default=[192])
        mode.add_argument('--epochs', type=int, default=60)
        mode.add_argument('--seconds', type=float, default=600, help='of smp and ours; yolo counts epochs')
        mode.add_argument('--model', default='yolo26n.yaml')
        mode.add_argument('--encoder', default='mobilenet_v2')
        mode.set_defaults(action=action)
    args = parser.parse_args(argv)
    print(json.dumps(args.action(args)))


def train_yolo(args: argparse.Namespace) -> dict[str, Any]:
    """Train by Ultralytics' own recipe."""
    import torch
    from ultralytics import YOLO

    settings = write_yolo(args.data, args.out)
    model = YOLO(args.model)
    model.add_callback('on_train_start', lambda trainer: torch.set_num_threads(1))
    start = time.process_time()
    model.train(
        data=str(settings), epochs=args.epochs, imgsz=args.size[0], device='cpu', workers=0, pretrained=False, seed=0,
        val=False, plots=False, project=str(args.out), name='run', exist_ok=True,
    )  # fmt: skip
    seconds = time.process_time() - start
    last = YOLO(args.out / 'run/weights/last.pt')
    scores = {}
    for part in PARTS[1:]:
        last.val(data=str(settings), split=part, imgsz=args.size[0], device='cpu', workers=0, save_json=True,
                 plots=False, project=str(args.out), name=part, exist_ok=True)  # fmt: skip
        scores[part] = average_precision(args.data, part, args.out / part / 'predictions.json')
    parameters = sum(tensor.numel() for tensor in model.model.parameters())
    return dict(tool=args.model, seconds=round(seconds), parameters=parameters, **scores)


def write_yolo(data: Path, out: Path) -> Path:
    """Write the labels of COCO files as YOLO has them, with links to the pictures; return its settings file."""
    names: list[str] = []
    for part in PARTS:
        content = json.loads((data / f'annotations/instances_{part}.json').read_text(encoding='utf-8'))
        numbers = {item['id']: place for place, item in enumerate(content['categories'])}
        names = [item['name'] for item in content['categories']]
        labels = out / 'labels' / part
        labels.mkdir(parents=True, exist_ok=True)
        (out / 'images' / part).mkdir(parents=True, exist_ok=True)
        for image in content['images']:
            lines = []
            for item in content['annotations']:
                if item['image_id'] == image['id']:
                    x, y, width, height = item['bbox']
                    box = (x + width / 2) / image['width'], (y + height / 2) / image['height']
                    box += width / image['width'], height / image['height']
                    lines.append(' '.join(map(str, (numbers[item['category_id']], *box))))
            (labels / f'{Path(image["file_name"]).stem}.txt').write_text('\n'.join(lines), encoding='utf-8')
            link = out / 'images' / part / Path(image['file_name']).name
            if not link.is_symlink():
                link.symlink_to((data / 'images' / part / image['file_name']).resolve())
    content = {
        'path': str(out.resolve()),
        **{part: f'images/{part}' for part in PARTS},
        'names': dict(enumerate(names)),
    }
    settings = out / 'data.yaml'  # JSON is YAML
    settings.write_text(json.dumps(content), encoding='utf-8')
    return settings


def average_precision(data: Path, part: str, predictions: Path) -> float:
    """Return box AP in percent, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(data / f'annotations/instances_{part}.json'))
    by_stem = {Path(image['file_name']).stem: image['id'] for image in truth.dataset['images']}
    categories = sorted(truth.cats)
    boxes = json.loads(predictions.read_text(encoding='utf-8'))
    for box in boxes:
        box['image_id'] = by_stem[Path(str(box.get('file_name', box['image_id']))).stem]
        box['category_id'] = categories[box['category_id'] - 1]
    evaluation = COCOeval(truth, truth.loadRes(boxes), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return round(100 * float(evaluation.stats[0]), 1)


def train_smp(args: argparse.Namespace) -> dict[str, Any]:
    """Train a U-Net by the recipe of the examples of segmentation_models_pytorch: Adam at 2e-4, a cosine, Dice loss."""
    import cv2
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    height, width = args.size
    classes = 11
    rng = np.random.default_rng(0)

    def read(part: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        picture = cv2.imread(str(args.data / 'images' / part / f'{name}.jpg'))[..., ::-1]
        label = cv2.imread(str(args.data / 'annotations' / part / f'{name}.png'), cv2.IMREAD_GRAYSCALE)
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
        return torch.from_numpy(np.ascontiguousarray(picture)), torch.from_numpy(label)

    def vary(picture: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mirror, scale, shift, and change brightness and contrast, as the example's albumentations do."""
        image, mask = picture.numpy().astype(np.float32), label.numpy()
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if rng.random() < 0.5:
            scale, dx, dy = rng.uniform(0.5, 1.5), rng.uniform(-0.1, 0.1) * width, rng.uniform(-0.1, 0.1) * height
            centre = (1 - scale) * width / 2 + dx, (1 - scale) * height / 2 + dy
            matrix = np.float32([[scale, 0, centre[0]], [0, scale, centre[1]]])
            image = cv2.warpAffine(np.ascontiguousarray(image), matrix, (width, height))
            mask = cv2.warpAffine(
                np.ascontiguousarray(mask), matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=255
            )
        image = image * rng.uniform(0.8, 1.2) + rng.uniform(-25, 25)
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(mask))

    items = {
        part: [read(part, path.stem) for path in sorted((args.data / 'images' / part).iterdir())] for part in PARTS
    }
    model = smp.Unet(args.encoder, encoder_weights=None, classes=classes)
    loss = smp.losses.DiceLoss('multiclass', from_logits=True, ignore_index=255)
    mean, std = torch.tensor([123.7, 116.3, 103.5]), torch.tensor([58.4, 57.1, 57.4])

    def tensors(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = torch.stack([(picture.float() - mean) / std for picture, _ in pairs]).permute(0, 3, 1, 2)
        labels = torch.stack([label.long() for _, label in pairs])
        return pictures, torch.where(labels < classes, labels, 255)

    def score(part: str) -> float:
        model.eval()
        confusion = torch.zeros(classes, classes)
        with torch.no_grad():
            for pair in items[part]:
                pictures, labels = tensors([pair])
                guess, known = model(pictures).argmax(1), labels < classes
                confusion += torch.bincount(labels[known] * classes + guess[known], minlength=classes**2).view(
                    classes, -1
                )
        union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
        return round(100 * float((confusion.diag() / union)[confusion.sum(1) > 0].mean()), 1)

    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    start, steps, share = time.process_time(), 0, 0.0
    while share < 1:
        model.train()
        chosen = rng.choice(len(items['train']), 16)
        pictures, labels = tensors([vary(*items['train'][place]) for place in chosen])
        optimizer.zero_grad()
        loss(model(pictures), labels).backward()
        share = (time.process_time() - start) / args.seconds
        for group in optimizer.param_groups:
            group['lr'] = 1e-5 + (2e-4 - 1e-5) * (1 + np.cos(np.pi * min(share, 1.0))) / 2
        optimizer.step()
        steps += 1
    parameters = sum(tensor.numel() for tensor in model.parameters())
    scores = {part: score(part) for part in PARTS[1:]}
    return dict(
        tool=f'smp Unet {args.encoder}', seconds=round(args.seconds), steps=steps, parameters=parameters, **scores
    )


def train_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Train the student alone of a project, for as many steps as the CPU seconds allow."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the sibling script
    from benchmarks.rates import alone_config, one_thread_runner, score_of
    from mmdistill_dense.apps.project.training_plan import schedule

    def run(steps: int) -> tuple[float, Any]:
        config = alone_config(args.data, f'beside {steps}', seed=0)
        config.train_cfg.update(max_iters=steps, val_interval=steps + 1)
        config.param_scheduler = schedule(steps)
        runner = one_thread_runner(config)
        start = time.process_time()
        runner.train()
        return time.process_time() - start, runner

    short, longer = run(20)[0], run(60)[0]
    step = (longer - short) / 40
    seconds, runner = run(round((args.seconds - short) / step) + 20)
    scores = {part: round(score_of(metrics), 1) for part, metrics in (('val', runner.val()), ('test', runner.test()))}
    parameters = sum(tensor.numel() for tensor in runner.model.parameters())
    return dict(tool='mmdistill', seconds=round(seconds), steps=runner.max_iters, parameters=parameters, **scores)


if __name__ == '__main__':
    main()
