"""Draw the predictions of networks for a picture, and where they differ."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer

from mmdistill_dense.report.scenes import Scene, Scenes
from mmdistill_dense.report.section import SIDE, Missing, Panel, panel
from mmdistill_dense.utils.protocols import Sample

OPACITY = 0.65
CONFIDENT = 0.3  # smallest score of a drawn box
IGNORED = 255
TEACHER_RIGHT, TEACHER_WRONG = (213, 94, 0), (0, 114, 178)  # distinct for colour-blind people
_NAMED = 3  # classes in the description of a picture


def prediction_panel(scenes: Scenes, scene: Scene, sample: Sample, title: str) -> Panel:
    """Return a picture with its predicted classes or boxes."""
    if 'pred_sem_seg' in sample:
        predicted = labels_of(sample)
        right = share_right(predicted, truth_of(sample, predicted.shape))
        said = '' if right is None else f': {right:.1%} of the labelled pixels right'
        return panel(
            _painted(scene.image, predicted, scenes.palette), title + said, _alt(title, predicted, scenes, scene)
        )
    if 'pred_instances' not in sample:
        raise Missing(f'No predictions of {title}: it predicts neither classes of pixels nor boxes.')
    found = sample.pred_instances
    found = found[found.scores > CONFIDENT]
    caption = f'{title}: {len(found)} boxes with a score above {CONFIDENT}'
    return _boxes_panel(scenes, scene, found, caption, f'Boxes of {title} in {scene.name}')


def truth_panel(scenes: Scenes, scene: Scene) -> Panel | None:
    """Return a picture with its true classes or boxes; ``None`` if the pipeline loads none."""
    sample = scene.item['data_samples']
    truth = truth_of(sample, scene.image.shape[:2])
    if truth is not None:
        return panel(_painted(scene.image, truth, scenes.palette), 'truth', _alt('truth', truth, scenes, scene))
    if len(getattr(sample, 'gt_instances', ())):
        found = sample.gt_instances
        return _boxes_panel(scenes, scene, found, f'truth: {len(found)} boxes', f'True boxes in {scene.name}')
    return None


def disagreement_panel(
    scene: Scene, own: np.ndarray, teacher: np.ndarray, truth: np.ndarray | None, title: str
) -> Panel:
    """Return the picture in grey, with the pixels in colour where student and teacher differ."""
    differs = own != teacher
    right = differs & (teacher == truth) if truth is not None else np.zeros_like(differs)
    grey = cv2.cvtColor(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = grey // 2 + 64
    canvas[differs] = TEACHER_WRONG
    canvas[right] = TEACHER_RIGHT
    caption = f'{title}: {differs.mean():.1%} differ'
    said = f', the teacher being right at {right.mean():.1%}' if truth is not None else ''
    return panel(canvas, caption, f'Where {title} and the teacher differ in {scene.name}: {differs.mean():.1%}{said}')


def labels_of(sample: Sample) -> np.ndarray:
    """Return the predicted class of each pixel (H, W)."""
    return sample.pred_sem_seg.data.squeeze(0).cpu().numpy()


def truth_of(sample: Sample, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the true class of each pixel at a size (H, W); ``None`` if a sample has none."""
    if 'gt_sem_seg' not in sample:
        return None
    labels = sample.gt_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int64)
    if labels.shape != tuple(shape[:2]):
        size = (shape[1], shape[0])
        labels = cv2.resize(labels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
    return labels


def share_right(predicted: np.ndarray, truth: np.ndarray | None) -> float | None:
    """Return the share of the labelled pixels with the right class."""
    if truth is None or not (truth != IGNORED).any():
        return None
    return float((predicted == truth)[truth != IGNORED].mean())


def _painted(image: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    colours = np.zeros((256, 3), np.uint8)
    colours[: min(len(palette), 255)] = palette[:255]
    return (OPACITY * colours[labels.clip(0, 255)] + (1 - OPACITY) * image).astype(np.uint8)


def _alt(title: str, labels: np.ndarray, scenes: Scenes, scene: Scene) -> str:
    known = labels[labels < len(scenes.classes)]
    shares = Counter(
        {name: float((known == place).mean()) for place, name in enumerate(scenes.classes)} if known.size else {}
    )
    named = ', '.join(f'{name} {share:.0%}' for name, share in shares.most_common(_NAMED))
    return f'Classes of {title} in {scene.name}: {named}'


def _boxes_panel(scenes: Scenes, scene: Scene, found: InstanceData, caption: str, alt: str) -> Panel:
    boxes = getattr(found.bboxes, 'tensor', found.bboxes).cpu()
    labels = found.labels.cpu().tolist()
    scale = min(1.0, SIDE / max(scene.image.shape[:2]))  # thin lines of a large picture would vanish
    size = (round(scene.image.shape[1] * scale), round(scene.image.shape[0] * scale))
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA) if scale < 1 else scene.image
    if len(boxes):
        visualizer = Visualizer(image=image)
        colours = [tuple(scenes.palette[label % len(scenes.palette)].tolist()) for label in labels]
        corner = boxes.new_tensor([size[0] - 1, size[1] - 1] * 2)
        visualizer.draw_bboxes((boxes * scale).clamp(min=0).minimum(corner), edge_colors=colours, line_widths=2)
        image = visualizer.get_image()
    names = Counter(scenes.classes[label] if label < len(scenes.classes) else f'class {label}' for label in labels)
    counted = ', '.join(f'{count} {name}' for name, count in names.most_common(_NAMED))
    return panel(image, caption, f'{alt}: {counted or "none"}')
