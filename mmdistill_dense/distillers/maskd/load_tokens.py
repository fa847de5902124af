"""Load a config's MasKD distiller with its tokens, for tools that do not train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmdistill_dense.distillers.maskd.maskd import MasKD
from mmdistill_dense.distillers.maskd.token_files import from_number
from mmdistill_dense.distillers.maskd.tokens import Places
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.messages import some
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of

if TYPE_CHECKING:
    pass


def ready_distiller(
    config: Config | str | Path, tokens: str | None = None, checkpoint: str | None = None
) -> tuple[Any, MasKD]:
    """Build the model of a config, load its teacher, and load the tokens of its first ``MasKD``.

    Tokens come from ``tokens``, else from ``checkpoint``, else from the work folder of the config, where training or
    ``mmdistill tokens`` saves them, or from a suite's runs beside it. The student has the checkpoint's weights, or
    untrained ones.
    """
    config = config if isinstance(config, Config) else Config.fromfile(config)
    init_default_scope(config.get('default_scope', 'mmengine'))
    model = MODELS.build(config.model)
    found = [d for d in getattr(model, 'distillers', {}).values() if isinstance(d, MasKD)]
    if not found:
        raise KeyError("model.distillers of this config holds no dict(type='MasKD', …).")
    distiller: Any = found[0]
    distiller.teacher.load(next(model.parameters()))
    if checkpoint is not None:
        _load(model, checkpoint)
    places = Places(distiller, distiller.teacher, _work_dir(config), config.train_dataloader.get('dataset'))
    if checkpoint is None and tokens is None and not places.final.is_file():
        tokens = next(_of_suite(places.final, places.final.name), None)
    if checkpoint is None or tokens is not None:
        values = places.read_known(tokens or distiller.tokens, MMLogger.get_current_instance())
        if values is None:
            beside = [*map(str, sorted(places.final.parent.glob('*.pth'))), *_of_suite(places.final, '*.pth')]
            others = f' {some(beside)} is of other settings: repeat the --cfg-options of its run.' if beside else ''
            raise FileNotFoundError(
                f'There are no tokens at {str(places.final)!r}: learn them with mmdistill tokens or by training, '
                f'or give a token file or a checkpoint.{others}'
            )
        distiller.load_tokens(values, places.teacher)
    elif not distiller.has_tokens_of(places.teacher):
        raise ValueError(
            f'checkpoint={checkpoint!r} holds tokens of the teacher {from_number(int(distiller.tokens_ready))}, but '
            f'this config has {places.teacher}: give a checkpoint of a run of this config, or a token file.'
        )
    model.eval()
    return model, distiller


def _of_suite(file: Path, name: str) -> Iterator[str]:
    """Yield token files of the runs that a suite, or `run`, made of the config whose own token file is given."""
    folder = file.parents[1]
    yield from map(str, sorted(folder.parent.glob(f'runs/{folder.name}/seed*/{file.parent.name}/{name}')))


def _load(model: Any, path: str) -> None:
    content = read_checkpoint(path)
    model.load_state_dict(state_dict_of(content, path))
    if not content.get('distillers'):
        raise ValueError(
            f'checkpoint={path!r} holds no distillers (save_best files have none): give an iter_*.pth or epoch_*.pth, '
            'or also a token file.'
        )
    model.distillers.load_state_dict(content['distillers'])


def _work_dir(config: Config) -> str:
    """Return the folder of the config's training: its ``work_dir``, or the one named after its file."""
    return config.get('work_dir') or str(Path('work_dirs', Path(config.filename or 'config').stem))
