"""MasKD: masked distillation with receptive tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import Tensor

from mmdistill_dense import losses
from mmdistill_dense.distillers.base import Losses
from mmdistill_dense.distillers.maskd.token_distiller import Places, TokenDistiller, TokenModule
from mmdistill_dense.distillers.maskd.token_files import from_number
from mmdistill_dense.networks.taps import TapOption
from mmdistill_dense.registry import DISTILLERS, MODELS
from mmdistill_dense.utils.validate import check_count, some
from mmdistill_dense.weights.strict_load import read_checkpoint, state_dict_of


@DISTILLERS.register_module()
class MasKD(TokenDistiller):
    """Squared error between maps, weighted by masks that were learned on the teacher's map.

    T tokens ``E_i`` (vectors of C numbers) per level give masks ``m_i = sigmoid(E_i . F_t)`` of a teacher map ``F_t (N,
    C, H, W)``; a small branch of the map weighs them, ``p (N, T)``, or all weigh 1 / T::

        loss_maskd = factor * sum_levels mean_n sum_i p_i mean_c [ sum_P m_i^2 (align(F_s) - F_t)_c^2 / sum_P m_i ]

    Tokens and branch are buffers, learned once on the teacher before training starts: by its own training loss on its
    masked maps, plus a Dice term that keeps the masks apart.

    Source: Huang et al., "Masked Distillation with Receptive Tokens", ICLR 2023, https://arxiv.org/abs/2205.14589, and
    its released code. Ours, with the same values: one weight map instead of a masked copy per token. Options:
    [docs/methods/maskd.md](../methods/maskd.md).

    Example:
        >>> distiller = MasKD(num_tokens=2, weight_mask=False)
        >>> shapes = {'neck': [torch.Size((1, 4, 8, 8)), torch.Size((1, 4, 4, 4))]}
        >>> distiller.setup(shapes, shapes)
        >>> distiller.load_tokens({'0.mask_token': torch.ones(2, 4), '1.mask_token': torch.ones(2, 4)})
        >>> maps = {'neck': [torch.ones(shape) for shape in shapes['neck']]}
        >>> sorted(distiller(maps, maps, None))
        ['level0', 'level1', 'loss_maskd']
    """

    def __init__(
        self,
        student_tap: TapOption = 'neck',
        teacher_tap: TapOption | None = None,
        *,
        weight_mask: bool = True,
        student_mask_from: int | None = None,
        factor: float = 1.0,
        eps: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(student_tap, teacher_tap, **kwargs)
        if factor <= 0 or eps < 0:
            raise ValueError(f'factor must be > 0 and eps >= 0, got {factor} and {eps}.')
        if student_mask_from is not None:
            check_count('student_mask_from', student_mask_from, 0)
        self.weight_mask = weight_mask
        self.student_mask_from = student_mask_from
        self.factor = factor
        self.eps = eps

    def token_module(self, channels: int) -> TokenModule:
        return TokenModule(self.num_tokens, channels, weight_mask=self.weight_mask)

    def drawn_masks(self, level: int, teacher_map: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the masks of the whole map; without the branch all weigh the same."""
        masks, branch = losses.token_masks(self.slot(level).mask_token, teacher_map), self.slot(level).branch()
        if branch is None:
            return {'': (masks, masks.new_full(masks.shape[:2], 1 / self.num_tokens))}
        return {'': (masks, losses.mask_weights(branch, teacher_map))}

    def loss(self, student: Tensor, teacher: Tensor, level: int) -> Losses:
        """Return ``loss_maskd`` of one level, also as ``level<i>`` for the log."""
        slot = self.slot(level)
        since = self.student_mask_from
        value = losses.masked_feature_loss(
            student,
            teacher,
            slot.mask_token,
            slot.branch(),
            student_mask=since is not None and self.state.iteration >= since,
            eps=self.eps,
            factor=self.factor,
        )
        return {'loss_maskd': value, f'level{level}': value.detach()}


# For tools that do not train


def ready_distiller(
    config: Config | str | Path, tokens: str | None = None, checkpoint: str | None = None
) -> tuple[Any, TokenDistiller]:
    """Build the model of a config, load its teacher, and load the tokens of its first ``MasKD`` or ``FreeKD``.

    Tokens come from ``tokens``, else from ``checkpoint``, else from the work folder of the config, where training or
    ``mmdistill tokens`` saves them, or from a suite's runs beside it. The student has the checkpoint's weights, or
    untrained ones.
    """
    config = config if isinstance(config, Config) else Config.fromfile(config)
    init_default_scope(config.get('default_scope', 'mmengine'))
    model = MODELS.build(config.model)
    found = [d for d in getattr(model, 'distillers', {}).values() if isinstance(d, TokenDistiller)]
    if not found:
        raise KeyError("model.distillers of this config holds no dict(type='MasKD', …) and no 'FreeKD'.")
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
