"""From two names and a folder of pictures to a distilled student: ``mmdistill new`` and ``run``."""

from collections.abc import Iterator
from pathlib import Path

from mmdistill_dense.utils.files import walk

SUITE = 'suite.yaml'  # of the files of a project, the one that `run` reads
STUDENT = 'student.pth'  # the student that `run` exports and `predict` takes
DRAWN, LABELS, BOXES = 'drawn', 'labels', 'predictions.json'  # what `predict` writes into its folder
MARK = '.predicted'  # and inside of these folders, to tell them from folders of the user's
DEFAULTS = {'seg': 'kd', 'det': 'fgd'}  # methods that `new` takes without --method: docs/results.md
UNLABELLED_DETECTOR = 'pkd'  # FGD compares nothing where no boxes are
MASKS_DEFAULT = 'kd'  # of two Mask R-CNNs, where the neck alone lost: docs/results.md, nuclei_masks
FOUNDATION_DEFAULT = 'featurematch'


def walk_data(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the user's folders and names of files as :func:`walk` does, without what ``predict`` wrote."""
    for folder, names in walk(root):
        path = folder.resolve()
        if not any((parent / MARK).exists() for parent in (path, *path.parents) if parent.name in (DRAWN, LABELS)):
            yield folder, [name for name in names if name != BOXES or not (folder / DRAWN / MARK).exists()]
