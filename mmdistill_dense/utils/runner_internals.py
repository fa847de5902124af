"""Types of mmengine's objects, and its runner's private members, all in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmdistill_dense.utils.reproducible import sampler_of

if TYPE_CHECKING:  # methods need these types alone, and the list of a suite no runner
    from mmengine.optim import OptimWrapper, OptimWrapperDict
    from mmengine.runner import BaseLoop, Runner


def resumes(runner: Runner) -> bool:
    """Tell whether a run resumes from a checkpoint."""
    return bool(runner._resume)


def start_file(runner: Runner) -> str | None:
    """Return the file that a run resumes from or starts with, or ``None`` if none is named."""
    return runner._load_from


def start_from(runner: Runner, path: str | None, resume: bool = True) -> None:
    """Make a runner resume from a file, or load its weights alone, although it may have loaded others."""
    runner._resume, runner._load_from, runner._has_loaded = resume, path, False


def has_loaded(runner: Runner) -> bool:
    """Tell whether a runner has loaded weights from a file."""
    return bool(runner._has_loaded)


def built_loop(runner: Runner, name: str = 'train') -> BaseLoop | None:
    """Return the loop ``'train'``, ``'val'`` or ``'test'``, or None if there is none or it is not built yet."""
    from mmengine.runner import BaseLoop

    loop = getattr(runner, f'_{name}_loop')
    return loop if isinstance(loop, BaseLoop) else None


def renew_val_interval(loop: BaseLoop) -> None:
    """Make a training loop update its validation interval to the current iteration (``dynamic_intervals``)."""
    loop._decide_current_val_interval()


def wrappers_of(wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """Return the optimizer wrappers of a run, of which most have one."""
    from mmengine.optim import OptimWrapperDict

    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def between_steps(runner: Runner) -> bool:
    """Tell whether no gradients wait for the optimizer's next step; a checkpoint holds none."""
    return all(wrapper.should_update() for wrapper in wrappers_of(runner.optim_wrapper))


class _SharedDataset:
    """A data set that mmengine copies with the options of a loader, which would double it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __deepcopy__(self, _: Any) -> Any:
        return self.dataset


def fresh_loader(runner: Runner, loader: DataLoader) -> DataLoader:
    """Return a run's loader as if nothing had drawn from its samplers, with the same data set.

    mmengine 0.10.7 starts workers when it builds the loop, and a training that was interrupted may begin again. An
    infinite sampler ends with who draws from it, and one that sorts by shape keeps what it has begun. A loader that the
    config does not describe stays; of it, an infinite sampler begins anew.
    """
    from mmengine.dataset import InfiniteSampler

    loader._iterator = None  # ends workers that persist
    options, sampler = runner.cfg.get('train_dataloader'), sampler_of(loader)
    if isinstance(options, Mapping):
        options = {**options, 'dataset': _SharedDataset(loader.dataset)}
        diff_rank_seed = (runner.cfg.get('randomness') or {}).get('diff_rank_seed', False)
        try:
            fresh = runner.build_dataloader(options, seed=runner.seed, diff_rank_seed=diff_rank_seed)
        except Exception:  # a sampler of the config, on a data set that is another
            fresh = None
        if fresh is not None and _kind(fresh) == _kind(loader):
            if hasattr(sampler, 'seed'):  # that of a checkpoint, where the run has none
                sampler_of(fresh).seed = sampler.seed
            return fresh
    if isinstance(sampler, InfiniteSampler):
        sampler.indices = sampler._indices_of_rank()
    return loader


def _kind(loader: DataLoader) -> tuple[Any, ...]:
    sampler, batches = sampler_of(loader), loader.batch_sampler
    sizes = [getattr(batches, name, None) for name in ('batch_size', 'drop_last')]
    collate = getattr(loader.collate_fn, 'func', loader.collate_fn)
    return type(sampler), getattr(sampler, 'shuffle', None), type(batches), *sizes, loader.num_workers, collate


def batch_augments(network: Any) -> list[Any]:
    """Return the augmentations of whole batches in a network's preprocessor, as mmdet has them."""
    augments = getattr(getattr(network, 'data_preprocessor', None), 'batch_augments', None)
    return list(augments) if isinstance(augments, nn.ModuleList) else []


IGNORED = 255  # mmseg's label of a pixel without a class


class Sample(Protocol):
    """One picture of a batch: mmseg's ``SegDataSample`` or mmdet's ``DetDataSample``.

    A field that the data set or the network did not fill is missing: ask with ``in`` first. Labels have ``.data`` (1,
    H, W), objects ``.bboxes`` (R, 4) and ``.labels`` (R,), those that are predicted also ``.scores`` (R,).
    """

    metainfo: Mapping[str, Any]
    gt_sem_seg: Any
    gt_instances: Any
    pred_sem_seg: Any
    pred_instances: Any

    def __contains__(self, field: str) -> bool: ...
    def get(self, field: str, default: Any = None) -> Any: ...


Samples = Sequence[Sample]


AUXILIARY = 'auxiliary_head.'  # of mmseg: used in training alone


class Network(nn.Module):
    """A network of mmseg or mmdet: mmengine's ``BaseModel``."""

    # turns what a data loader gives into a batch: ``(data, training) -> dict(inputs=…, data_samples=…)``
    data_preprocessor: Callable[..., dict[str, Any]]
    extract_feat: Callable[[Tensor], Sequence[Tensor]]  # the maps of the backbone, or of the neck where there is one
    parse_losses: Callable[[dict[str, Any]], tuple[Tensor, dict[str, Tensor]]]  # their sum, and what is logged
    train_step: Callable[[Mapping[str, Any], Any], dict[str, Tensor]]  # of a batch and the optimizer: what is logged
    test_step: Callable[[Mapping[str, Any]], Samples]  # the samples with predictions
    cfg: Any  # what mmseg's and mmdet's functions for single pictures read, with dataset_meta
    dataset_meta: Any
    input_grid: Any  # of a teacher with the option ``scale`` or ``fit``: resizes its pictures

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``."""

    def loss(self, inputs: Tensor, data_samples: Samples, **kwargs: Any) -> dict[str, Any]:
        """Return the losses of a training batch by name."""
        raise NotImplementedError


def parameters_in_use(network: nn.Module) -> int:
    """Return the number of parameters without those of auxiliary heads."""
    return sum(value.numel() for name, value in network.named_parameters() if not name.startswith(AUXILIARY))
