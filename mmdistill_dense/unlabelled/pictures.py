"""Pictures without labels as a training set: their folder, their pipeline, and which are in other sets too."""

import copy
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from PIL import Image

from mmdistill_dense.config.values import chain, mappings, type_name
from mmdistill_dense.datasets.folders import require
from mmdistill_dense.datasets.wrapped import source_datasets
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.files import walk
from mmdistill_dense.utils.reproducible import fork_rng
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.strict_load import sha256


def picture_paths(dataset: Any, key: str = 'img_path') -> list[str]:
    """Return the path of each picture of a data set, also of one that wraps others; empty if it does not tell.

    The ``key`` ``seg_map_path`` gives the label images.
    """
    sources = [part for part in source_datasets(dataset) if hasattr(part, 'get_data_info') and hasattr(part, '__len__')]
    entries = [part.get_data_info(number) for part in sources for number in range(len(part))]
    return list(dict.fromkeys(str(entry[key]) for entry in entries if entry.get(key)))


def same_pictures(paths: Sequence[str], candidates: Iterable[str]) -> dict[str, str]:
    """Return the pictures that are among others too: ``{path: the other path}``.

    Two are the same if they are one file (links are followed) or have the same content. Only files of equal length are
    read. Names alone say nothing. Paths that are no files of this machine are not compared.
    """
    local_paths = [path for path in candidates if os.path.isfile(path)]
    files = {os.path.realpath(path): path for path in local_paths}
    lengths: dict[int, list[str]] = defaultdict(list)
    for path in local_paths:
        lengths[os.path.getsize(path)].append(path)
    contents: dict[int, dict[str, str]] = {}
    matches = {}
    for path in filter(os.path.isfile, paths):
        length = os.path.getsize(path)
        if same := files.get(os.path.realpath(path)):
            matches[path] = same
        elif length in lengths:
            if length not in contents:
                contents[length] = {sha256(Path(other)): other for other in lengths[length]}
            if same := contents[length].get(sha256(Path(path))):
                matches[path] = same
    return matches


Step = dict[str, Any]
_READS_ANOTHER = re.compile('Load(?!.*(Annotation|Proposal|NDArray|Webcam|Shapes|Mask|Label|Seg|Depth|Box))')
# Steps that read labels or other pictures; which they are in the zoo was found by running every step of its pipelines.
_LABELS = re.compile(
    'Load(?!ImageFrom)|Annotations|CopyPaste|InstaBoost|Mosaic|MixUp|MinIoURandomCrop|RandomCenterCropPad|RandomAffine|'
    'RandomShift|RandomSamplingNegPos|Albu|GenerateEdge|Proposal'
)


def training_steps(dataset: Mapping[str, Any]) -> list[Step]:
    """Return the pipeline of a training set's config, with those of its wrappers; of several sets, the first one's."""
    steps = (step for option in chain(dataset) for step in option.get('pipeline') or [])
    return [dict(step) for step in steps if isinstance(step, Mapping)]


def without_labels(steps: Sequence[Step]) -> tuple[list[Step], list[str]]:
    """Return the steps that work without labels, and the types of those that were left out, by their names.

    A crop no longer looks for other classes (``cat_max_ratio``).
    """
    readers = [step for step in steps if type_name(step).endswith('LoadImageFromFile')]
    readers = readers or [step for step in steps if _READS_ANOTHER.search(type_name(step))][:1]
    transforms = [step for step in steps if step not in readers]
    dropped = [step for step in transforms if any(_LABELS.search(type_name(mapping)) for mapping in mappings(step))]
    usable = [_without_classes(step) for step in transforms if step not in dropped]
    readers = [dict(step) for step in readers[:1]] or [{'type': 'LoadImageFromFile'}]
    return [*readers, *usable], [type_name(step) for step in dropped]


def try_steps(steps: Sequence[Any], pictures: Iterable[str], key: str) -> None:
    """Refuse a pipeline of which a step fails on the first picture that can be read; no random stream changes."""
    reader, *transforms = Compose(copy.deepcopy(list(steps))).transforms
    results, failures = None, []
    with fork_rng():
        for path in pictures:
            try:
                results = reader({'img_path': path, 'sample_idx': 0})
                break
            except Exception as error:  # a decoder may raise anything
                failures.append(f'{path}: {error!r}')
        else:
            raise ValueError(f'{key}: none of the pictures can be read: {some(failures)}.')
        for step in transforms:
            try:
                results = step(results)
            except Exception as error:  # a transform may run any code
                problem = f'{key}.pipeline: {type(step).__name__} fails on a picture without labels ({error!r})'
                remedy = f'Give {key}.pipeline as a list without it and without what reads labels (LoadAnnotations)'
                raise ValueError(f'{problem}. {remedy}.') from error
            if results is None:
                return
    if 'inputs' not in results:
        raise ValueError(f'{key}.pipeline gives no inputs ({", ".join(results)}): let its last step pack them.')


def _without_classes(step: Any) -> Any:
    if isinstance(step, Mapping):
        return {name: 1.0 if name == 'cat_max_ratio' else _without_classes(value) for name, value in step.items()}
    if isinstance(step, (list, tuple)):
        return type(step)(_without_classes(member) for member in step)
    return step


EXTENSIONS = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff')


@DATASETS.register_module()
class UnlabeledImages(BaseDataset):
    """Every picture under a folder, or of a list, in the order of its name.

    Class folders, such as ImageNet's, are ordinary folders; hidden files and folders are skipped.
    Files that cannot be opened or are tiny are left out at start, with one line in the log. A file that proves damaged
    when it is read is replaced by a random other one, from the seeded stream; the log says so at the 1st, the 10th, the
    100th … such file.

    The first step of ``pipeline`` must be the one that reads the file: only its failures count as damaged files.

    Args:
        data_root: Folder of the pictures.
        data_prefix: Folder below it, or several. Defaults to the root itself.
        extensions: Endings of picture files, whatever their case.
        ann_file: List of the files to use, one path a line below ``data_prefix`` (a single one); in its order. Itself a
            path below ``data_root`` or absolute. Defaults to None: every file of the folder.
        min_size: Least length of the shorter side in pixels; smaller pictures are tiny. Defaults to 32.
        check: Open each file's header at start. Without it, a set of millions starts at once and tiny pictures stay.
            Defaults to True.
        **kwargs: Of mmengine's ``BaseDataset``: ``pipeline``, ``indices``, ``max_refetch``, ``lazy_init`` ...

    A folder or list that does not exist, or without a picture that can be used, is a ``FileNotFoundError``.
    """

    def __init__(
        self,
        data_root: str = '',
        data_prefix: str | Sequence[str] = '',
        extensions: Sequence[str] = EXTENSIONS,
        ann_file: str | None = None,
        min_size: int = 32,
        check: bool = True,
        **kwargs: Any,
    ) -> None:
        prefixes = [data_prefix] if isinstance(data_prefix, str) else list(data_prefix)
        if ann_file and len(prefixes) != 1:
            raise ValueError(f'UnlabeledImages: ann_file goes with one data_prefix, got {prefixes}.')
        endings = [extensions] if isinstance(extensions, str) else extensions
        self.extensions = tuple(extension.lower() for extension in endings)
        self.min_size = min_size
        self.check = check
        self.damaged = torch.zeros(1, dtype=torch.long).share_memory_()  # counted by every worker
        folders = {f'img_path{number or ""}': prefix for number, prefix in enumerate(prefixes)}
        super().__init__(ann_file=ann_file or '', data_root=data_root, data_prefix=folders, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the files without those that cannot be used, and log their number."""
        folders = {key: prefix or '.' for key, prefix in self.data_prefix.items()}
        prefixes = {f'data_prefix[{number}]': folder for number, folder in enumerate(folders.values())}
        require({'data_root': self.data_root, **prefixes, 'ann_file': self.ann_file}, type(self).__name__)
        if self.ann_file:
            lines = Path(self.ann_file).read_text(encoding='utf-8').splitlines()
            paths = [os.path.join(folders['img_path'], line.strip()) for line in lines if line.strip()]
        else:
            paths = [path for folder in folders.values() for path in self._below(folder)]
        count = len(paths)
        if self.check:
            paths = self._usable(paths)
        where = ', '.join(folders.values())
        if not paths:
            raise FileNotFoundError(
                f'UnlabeledImages: no picture to use in {self.ann_file or where} (data_root={self.data_root!r}): '
                f'{count} files of extensions {", ".join(self.extensions)} found, none of them readable and at least '
                f'{self.min_size} pixels high and wide. Set data_root, data_prefix, extensions or min_size.'
            )
        print_log(f'UnlabeledImages: {len(paths)} pictures of {self.data_root or where}', 'current')
        return [dict(img_path=path) for path in paths]

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline; return ``None`` if the file cannot be read, so that the base class takes another."""
        entry = self.get_data_info(idx)
        reader, *transforms = self.pipeline.transforms
        try:
            results = reader(entry)
        except Exception as error:  # a decoder may raise anything
            self.damaged += 1
            count, path = int(self.damaged), entry['img_path']
            if str(count).strip('0') == '1':
                problem = f'{count} damaged files read so far, others taken instead; now {path}: {error!r}'
                print_log(f'UnlabeledImages: {problem}', 'current', logging.WARNING)
            return None
        return None if results is None else Compose(transforms)(results)

    def _below(self, folder: str) -> list[str]:
        """Return the files that are not hidden, in the order of their paths in the folder, with forward slashes."""
        files = ((parent.relative_to(folder) / name).as_posix() for parent, names in walk(folder) for name in names)
        return [os.path.join(folder, path) for path in sorted(files) if path.lower().endswith(self.extensions)]

    def _usable(self, paths: Sequence[str]) -> list[str]:
        dropped: dict[str, list[str]] = defaultdict(list)
        usable: list[str] = []
        for path in paths:
            problem = self._problem(path)
            (dropped[problem] if problem else usable).append(path)
        if dropped:
            reasons = '; '.join(f'{len(names)} {reason}, e.g. {names[0]}' for reason, names in dropped.items())
            message = f'UnlabeledImages: left out {len(paths) - len(usable)} of {len(paths)} files: {reasons}'
            print_log(message, 'current', logging.WARNING)
        return usable

    def _problem(self, path: str) -> str:
        try:
            with Image.open(path) as image:  # reads the header only
                tiny = min(image.size) < self.min_size
        except Image.DecompressionBombError:  # too large for Pillow alone
            return ''
        except Exception:
            return 'unreadable'
        return f'smaller than {self.min_size} pixels' if tiny else ''
