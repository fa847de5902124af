"""Says where a data set was looked for, when it is not there."""

from pathlib import Path

ENV = 'MMDISTILL_DATA'


def require(paths: dict[str, str | None], where: str, also: str = '') -> None:
    """Check that every local path of a data set exists.

    Args:
        paths: path by the config key it came from; empty ones and addresses of remote stores are skipped.
        where: the data set's class, for the message.
        also: what else names the place of the data, for the message.

    Raises:
        FileNotFoundError: the first missing path, its key and the ways to point elsewhere.
    """
    for key, path in paths.items():
        if path and '://' not in path and not Path(path).exists():
            raise FileNotFoundError(
                f'{where}: {key} = {path!r} does not exist (looked for {str(Path(path).absolute())!r}). Set the '
                f'environment variable {ENV} to the folder that holds all data sets, or put the data set there. One '
                f'loader alone: --cfg-options test_dataloader.dataset.data_root=DIR, or, for a data set that is a '
                f'member of another, train_dataloader.dataset.datasets.0.data_root=DIR and so on for each.{also}'
            )


class RootCheck:
    """Mixin before a data set of mmseg or mmdet: checks its folders and its list file before they are listed."""

    also = ''

    def load_data_list(self) -> list[dict]:
        """Check, then list as the data set does."""
        prefixes = {f'data_prefix.{key}': path for key, path in getattr(self, 'data_prefix', {}).items()}
        require(prefixes | {'ann_file': getattr(self, 'ann_file', None)}, type(self).__name__, self.also)
        return super().load_data_list()  # type: ignore[misc]
