"""A folder of pictures as a training set without labels."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from PIL import Image

from mmdistill_dense.datasets.roots import require
from mmdistill_dense.registry import DATASETS
from mmdistill_dense.utils.walk import walk

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


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

    Raises:
        FileNotFoundError: For a folder or list that does not exist, or without a picture that can be used.
        ValueError: For a list together with several folders.
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
        given = [extensions] if isinstance(extensions, str) else extensions
        self.extensions = tuple(extension.lower() for extension in given)
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
        found = len(paths)
        if self.check:
            paths = self._usable(paths)
        if not paths:
            where = self.ann_file or ', '.join(folders.values())
            raise FileNotFoundError(
                f'UnlabeledImages: no picture to use in {where} (data_root={self.data_root!r}): {found} files of '
                f'extensions {", ".join(self.extensions)} found, none of them readable and at least '
                f'{self.min_size} pixels high and wide. Set data_root, data_prefix, extensions or min_size.'
            )
        print_log(
            f'UnlabeledImages: {len(paths)} pictures of {self.data_root or ", ".join(folders.values())}', 'current'
        )
        return [dict(img_path=path) for path in paths]

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline; return ``None`` if the file cannot be read, so that the base class takes another."""
        entry = self.get_data_info(idx)
        read: Callable[[dict], Any]
        read, *rest = self.pipeline.transforms
        try:
            results = read(entry)
        except Exception as error:  # a decoder may raise anything
            self._count_damaged(entry['img_path'], error)
            return None
        for transform in rest:
            if results is None:
                break
            results = transform(results)
        return results

    def _below(self, folder: str) -> list[str]:
        files = [path for path in _files(folder) if path.lower().endswith(self.extensions)]
        return [os.path.join(folder, path) for path in sorted(files)]

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
        except Exception:
            return 'unreadable'
        return f'smaller than {self.min_size} pixels' if tiny else ''

    def _count_damaged(self, path: str, error: Exception) -> None:
        self.damaged += 1
        count = int(self.damaged)
        if str(count).strip('0') == '1':
            message = f'UnlabeledImages: {count} damaged files read so far, others taken instead; now {path}: {error!r}'
            print_log(message, 'current', logging.WARNING)


def _files(folder: str) -> Iterator[str]:
    """Yield the paths of the files that are not hidden, relative to ``folder``, with forward slashes."""
    for parent, names in walk(folder):
        start = parent.relative_to(folder)
        yield from ((start / name).as_posix() for name in names)
