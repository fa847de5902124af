"""Says where a data set was looked for, when it is not there."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

ENV = 'MMDISTILL_DATA'


def require(paths: dict[str, str | None], where: str) -> None:
    """Check that every local path of a data set exists.

    Args:
        paths: path by the config key it came from; empty ones and addresses of remote stores are skipped.
        where: the config key of the data set, or its class, for the message.

    Raises:
        FileNotFoundError: the first missing path, its key and the two ways to point elsewhere.
    """
    for key, path in paths.items():
        if path and '://' not in path and not Path(path).exists():
            raise FileNotFoundError(
                f'{where}: {key} = {path!r} does not exist (looked for {str(Path(path).absolute())!r}). Put the data '
                f'set there, set the environment variable {ENV} to the folder that holds all data sets, or give '
                f'--cfg-options train_dataloader.dataset.data_root=DIR (val_dataloader and test_dataloader alike).'
            )


class RootCheck:
    """Mixin before a ``BaseSegDataset``: checks its folders and its list file before they are listed."""

    def load_data_list(self) -> list[dict]:
        """Check, then list as the data set does."""
        prefixes = {f'data_prefix.{key}': path for key, path in getattr(self, 'data_prefix', {}).items()}
        require(prefixes | {'ann_file': getattr(self, 'ann_file', None)}, type(self).__name__)
        return super().load_data_list()  # type: ignore[misc]


def check_data_roots(cfg: Config, loaders: Sequence[str] = ('train_dataloader', 'val_dataloader')) -> None:
    """Check the folders and list files of a config's data sets, whatever their class, before anything is built.

    Args:
        cfg: the whole config.
        loaders: the loaders that the running phase uses.

    Raises:
        FileNotFoundError: names the data set's key in the config, the path and the variable ``MMDISTILL_DATA``.
    """
    for loader in loaders:
        if cfg.get(loader) is not None:
            for where, dataset in _datasets(cfg[loader].get('dataset'), f'{loader}.dataset'):
                require(_paths(dataset), where)


def _datasets(node: Any, where: str) -> Iterator[tuple[str, dict]]:
    """Yield every data set dict below a loader's ``dataset`` (wrappers hold ``dataset`` or ``datasets``)."""
    if isinstance(node, (list, tuple)):
        for index, member in enumerate(node):
            yield from _datasets(member, f'{where}.{index}')
    elif isinstance(node, dict):
        if 'data_root' in node or 'data_prefix' in node:
            yield where, node
        for key in ('dataset', 'datasets'):
            yield from _datasets(node.get(key), f'{where}.{key}')


def _paths(dataset: dict) -> dict[str, str | None]:
    root = dataset.get('data_root') or ''
    names = {f'data_prefix.{key}': path for key, path in (dataset.get('data_prefix') or {}).items()}
    names['ann_file'] = dataset.get('ann_file')
    return {'data_root': root} | {key: os.path.join(root, path) for key, path in names.items() if isinstance(path, str)}
