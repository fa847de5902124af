"""Train the networks of README's first picture where that is not done, and draw it: python -m tools.docs.first_picture.

It needs the data BCCD and a start weight (docs/datasets.md). The pictures are evenly spaced ones of val; the scores
above them are those on test.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from mmdistill_dense.apps.inspect.inference import predict_items
from mmdistill_dense.apps.report.predictions import scenes_of, student_of, teacher_of
from mmdistill_dense.apps.report.runs import TrainedRun, compare
from tools.demo.pictures import boxed, draw_grid

SUITE, METHOD, SEED = 'bccd_51_detectors', 'fgd', 13  # the first seed of the suite
PICTURES = 3
CONFIDENT = 0.5  # least score of a drawn box
OUT = Path('docs/images/cells.jpg')


def main() -> None:
    """Train, then draw."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    train = [sys.executable, '-m', 'mmdistill_dense', 'suite', 'run', f'benchmarks/{SUITE}.yaml', '--seeds', str(SEED)]
    subprocess.run([*train, '--only', 'control', METHOD], check=True)
    draw(Path('work_dirs/suites', SUITE, 'runs', METHOD), OUT)


def draw(folder: Path, out: Path) -> None:
    """Draw input, truth, and what teacher, student alone and distilled student of a method's folder detect."""
    comparison = compare([folder])
    (distilled,), (alone,), teacher = comparison.runs, comparison.controls, comparison.teacher
    scenes, meta = scenes_of(alone.config, PICTURES)
    networks = {
        _title('teacher', teacher): teacher_of(distilled, 'teacher'),
        _title('student alone', alone): student_of(alone),
        _title('student distilled', distilled): student_of(distilled),
    }
    palette = np.asarray(meta['palette'], np.uint8)
    rows = [[scene.image, boxed(scene.image, scene.item['data_samples'], palette)] for scene in scenes]
    for network in networks.values():
        assert network is not None  # the checkpoints of the suite are there
        network.eval()
        for scene, row in zip(scenes, rows, strict=True):
            (sample,), _ = predict_items(network, [scene.item])
            row.append(boxed(scene.image, sample, palette, confident=CONFIDENT))
    draw_grid(rows, ['input', 'truth', *networks], out)


def _title(name: str, run: TrainedRun | None) -> str:
    return f'{name}\nbox AP {run.result["score"]:.1f}' if run and run.result else name


if __name__ == '__main__':
    main()
