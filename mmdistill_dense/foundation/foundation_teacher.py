"""Foundation models as teachers: own vision transformers, networks of timm and transformers, a linear layer on top."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmdistill_dense.foundation.vit import SATELLITE, ViT, architecture
from mmdistill_dense.foundation.vit_file import load_vit
from mmdistill_dense.networks.inputs import cells, resized
from mmdistill_dense.registry import MODELS
from mmdistill_dense.utils.validate import some
from mmdistill_dense.weights.safe_load import INDEX
from mmdistill_dense.weights.strict_load import load_strictly, local_file, read_checkpoint, state_dict_of

LIBRARIES = ('timm', 'transformers')


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Scores of the classes from a batch norm over all channels and a 1x1 convolution.

    The head with which DINOv2 (2304.07193) and DINOv3 (2508.10104) are evaluated: ``z = W BN(concat(f)) + c``. The maps
    are resized to the first one's size. Options are those of ``BaseDecodeHead``; ``in_channels`` are of each map,
    ``in_index`` says which maps, all by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int] | None = None,
        dropout_ratio: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        channels, index = sum(in_channels), list(range(len(in_channels)) if in_index is None else in_index)
        kwargs.update(dropout_ratio=dropout_ratio, norm_cfg=dict(norm_cfg or {'type': 'BN'}), channels=channels)
        super().__init__(in_channels=list(in_channels), in_index=index, input_transform='resize_concat', **kwargs)
        _, self.norm = build_norm_layer(self.norm_cfg, channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return scores (B, classes, h, w) of maps (B, C, h, w)."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))


@MODELS.register_module()
class VisionTransformer(ViT):
    """The network of :class:`FoundationTeacher` as a backbone: it returns a tuple of maps (B, D, h, w).

    With ``frozen``, a small head learns on the maps of a published network: docs/foundation_head.md. Without, it is a
    student, or ``SSLTeacher.backbone``, with MoCo v3's projection head behind it.

    Args:
        model: As of :class:`FoundationTeacher`.
        out_blocks: The blocks whose maps it returns, each as often as it is named; -1 is the last.
        norm: Apply the final norm to the maps.
        stride: Pixels of a cell; pictures are resized so that a patch covers as many. Defaults to the patch.
        checkpoint: File of its weights, as of :class:`FoundationTeacher`. Defaults to None: they are drawn.
        frozen: Train nothing in it, and keep no activations. Defaults to False.
        ignore: As of :class:`FoundationTeacher`.
        init_cfg: For mmengine, which passes it; weights are named in ``checkpoint``.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any],
        out_blocks: Sequence[int] = (-1,),
        norm: bool = True,
        stride: int | None = None,
        checkpoint: str | None = None,
        frozen: bool = False,
        ignore: Collection[str] = (),
        init_cfg: None = None,
    ) -> None:
        super().__init__(architecture(model), norm)
        if init_cfg:
            raise ValueError('VisionTransformer takes no init_cfg: name the file of its weights in checkpoint.')
        self.stride = self.shape.patch if stride is None else stride
        self.checkpoint, self.frozen, self.ignore = checkpoint, frozen, tuple(ignore)
        self.trains = True
        self._drawn: Tensor | None = None
        if frozen:
            self.requires_grad_(False)
            self.train()
        depth = self.shape.depth
        if not out_blocks or not all(-depth <= block < depth for block in out_blocks):
            raise ValueError(f'out_blocks must hold blocks of 0 to {depth - 1}, or -1, got {out_blocks!r}.')
        self.out_blocks = [block % depth for block in out_blocks]

    def init_weights(self) -> None:
        """Load ``checkpoint``, strictly; draw random weights without one."""
        if self.checkpoint is None:
            super().init_weights()
            self._drawn = self.cls_token.detach().clone() if self.frozen else None
            return
        path = local_file(self.checkpoint, None, 'backbone.checkpoint')
        _load(self, path, self.ignore, f'backbone.checkpoint={self.checkpoint!r}')

    def train(self, mode: bool = True) -> VisionTransformer:
        """Set the mode; a frozen network stays in evaluation."""
        self.trains = mode
        return super().train(mode and not self.frozen)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the maps of normalised pictures (B, 3, H, W)."""
        if not self.frozen:
            return tuple(self.maps_of(pictures, self.out_blocks))
        if self.trains and self._drawn is not None:
            token, initial, self._drawn = self.cls_token, self._drawn, None
            if not token.is_meta and torch.equal(token, initial.to(token)):
                problem = f'backbone ({self.shape.name}) is frozen and has random weights'
                raise ValueError(f'{problem}: set backbone.checkpoint, or load_from to a file of the whole network.')
        with torch.no_grad():
            return tuple(self.maps_of(pictures, self.out_blocks))


@MODELS.register_module()
class FoundationTeacher(ViT):
    """DINO, MoCo v3, MAE, DINOv2 or DINOv3; taps ``map``, ``maps.<block>`` and ``cls``, see :class:`ViT`.

    Use it as ``teacher=dict(type='mmdistill_dense.FoundationTeacher', model='dinov2_vits14', checkpoint=FILE)``. The
    file may have the names of the original code or of timm.

    It has no ``extract_feat`` on purpose: :func:`run_parts` would take its modules for heads.

    Args:
        model: A name of :data:`~mmdistill_dense.foundation.vit.MODELS_BY_NAME`, or a description,
            ``dict(family='dinov2', patch=14, dim=384, depth=12, heads=6)``. It is no part of the file, because the
            shapes must be known before a file is read. ``'timm::NAME'`` and ``'transformers::FOLDER'`` make a
            :class:`LibraryTeacher`.
        norm: Apply the final norm to the maps.
        ignore: Prefixes of entries in the file that are to be ignored.
        data_preprocessor: Normalisation of the pictures, as ``dict(mean=…, std=…, bgr_to_rgb=…)``. Defaults to the
            model's own.
    """

    features_alone = True

    def __new__(cls, model: Any = None, **options: Any) -> Any:
        """Return a :class:`LibraryTeacher` for ``'timm::…'`` and ``'transformers::…'``."""
        if isinstance(model, str) and '::' in model:
            return LibraryTeacher(model, **options)
        return super().__new__(cls)

    def __init__(
        self,
        model: str | Mapping[str, Any],
        norm: bool = True,
        ignore: Collection[str] = (),
        data_preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(architecture(model), norm)
        if isinstance(ignore, str):
            raise TypeError(f'ignore is a list of prefixes, got {ignore!r}.')
        self.ignore = tuple(ignore)
        self.preprocessor, self.own_pixels = data_preprocessor or self.shape.preprocessor, data_preprocessor is not None
        self.size_divisor = self.shape.patch
        self.tap_hint = (
            f'A {type(self).__name__} is tapped at map, maps.0 … maps.{self.shape.depth - 1} and cls; it has no class '
            'scores and no boxes. '
        )
        self.source = self.shape.name  # for the receipt; after loading, with the scheme of names

    def load_teacher(self, path: str | Path, key: str = 'model.teacher.checkpoint') -> tuple[int, int]:
        """Load a file, strictly; return the number of tensors loaded and of entries ignored."""
        other = 'lvd1689m' if self.shape.pixels == SATELLITE else 'sat493m'  # both have one architecture
        if other in Path(path).name and not self.own_pixels:
            text = f'the file is of {other}, whose pictures have another mean and std than those of {self.shape.name}'
            raise ValueError(f'{key}={str(path)!r}: {text}: name that model, or data_preprocessor.')
        ignored, self.source = _load(self, path, self.ignore, f'{key}={str(path)!r}')
        return len(self.state_dict()), ignored


def _load(network: ViT, path: str | Path, ignore: Collection[str], where: str) -> tuple[int, str]:
    ignored, source = load_vit(network, read_checkpoint(path), ignore, where)
    print_log(f'{where}: {source}, {len(network.state_dict())} tensors loaded, {ignored} ignored', 'current')
    return ignored, source


class LibraryTeacher(nn.Module):
    """A network of timm (``'timm::NAME'``) or transformers (``'transformers::FOLDER'``); taps ``map``, ``maps.<i>``.

    ``FoundationTeacher(model='timm::…')`` makes it. The maps are those that the library returns for its blocks or
    stages, behind the final norm, but where that belongs to the classifier (timm's ConvNeXt); ``map`` is the last.
    timm's pass ends behind the deepest tap, transformers' at the end.

    Args:
        model: ``'timm::NAME'``; or ``'transformers::FOLDER'``, a local folder with ``config.json``. No hub is asked.
        ignore: Prefixes of entries in a file for timm that are to be ignored; those of its classifier are.
        data_preprocessor: Normalisation of the pictures. Defaults to timm's for this name; transformers needs it.
    """

    features_alone = True

    def __init__(
        self, model: str, ignore: Collection[str] = (), data_preprocessor: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        library, _, name = model.partition('::')
        if library not in LIBRARIES:
            raise ValueError(f'model={model!r}: before "::" stands one of {", ".join(LIBRARIES)}.')
        try:
            module = importlib.import_module(library)
        except Exception as error:  # a torchvision that does not fit torch raises a RuntimeError
            install = '--no-deps timm' if library == 'timm' else library
            raise ValueError(
                f'model={model!r}: {library} could not be imported ({_first_line(error)}): pip install {install}; timm '
                f'needs the torchvision of this torch too. {_OWN}'
            ) from error
        self.ignore, self.source, self.folder = tuple(ignore), model, name if library == 'transformers' else None
        try:
            build = _of_timm if library == 'timm' else _of_transformers
            self.network, count, self.size_divisor, preprocessor = build(module, name)
        except Exception as error:  # the library may raise anything
            raise ValueError(
                f'model={model!r} could not be made: {_first_line(error)}. It must be a network of {library} that '
                f'takes pictures of any size and returns maps. {_OWN}'
            ) from error
        self.preprocessor = data_preprocessor or preprocessor
        self.maps = nn.ModuleDict({str(number): nn.Identity() for number in range(count)})
        self.map = nn.Identity()
        self.tap_hint = f'A teacher of {library} is tapped at map and maps.0 … maps.{count - 1}. '

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the last map (B, C, h, w) of normalised pictures (B, 3, H, W)."""
        height, width = (self.size_divisor * count for count in cells(pictures, self.size_divisor))
        pictures = resized(pictures, (height, width))
        if self.folder is None:
            tapped = [int(number) for number, tap in self.maps.items() if tap._forward_hooks]
            last = max(tapped) if tapped and not self.map._forward_hooks else len(self.maps) - 1
            blocks = list(range(last + 1))
            options = dict(norm=True, stop_early=True, output_fmt='NCHW', intermediates_only=True)
            maps = self.network.forward_intermediates(pictures, indices=blocks, **options)
        else:
            maps = self.network(pictures).feature_maps
        for tap, tensor in zip(self.maps.values(), maps, strict=False):
            tap(tensor)
        return self.map(maps[-1])

    def load_teacher(self, path: str | Path, key: str = 'model.teacher.checkpoint') -> tuple[int, int]:
        """Load a file, strictly, as :meth:`FoundationTeacher.load_teacher`; for transformers, that of its folder."""
        where = f'{key}={str(path)!r}'
        if self.folder is not None:
            return self._load_folder(Path(path), where)
        entries = state_dict_of(read_checkpoint(path), path)
        classifier = {name for name in entries if name.startswith(('head.', 'fc.', 'classifier.'))}
        classifier -= self.network.state_dict().keys()
        state = {n: v for n, v in entries.items() if n not in classifier and not n.startswith(self.ignore)}
        loaded, _ = load_strictly(self.network, state, None, where)
        return loaded, len(entries) - len(state)

    def _load_folder(self, path: Path, where: str) -> tuple[int, int]:
        if (
            not path.name.endswith(('.safetensors', INDEX))
            or path.absolute().parent.resolve() != Path(str(self.folder)).resolve()
        ):
            raise ValueError(f'{where}: give the model.safetensors beside the config.json of {self.source!r}.')
        # transformers renames entries as it reads them.
        options = dict(config=self.network.config, local_files_only=True, use_safetensors=True)
        network, info = type(self.network).from_pretrained(self.folder, **options, output_loading_info=True)
        wrong = [*info['missing_keys'], *info['unexpected_keys'], *info.get('mismatched_keys', ())]
        if wrong:
            raise ValueError(f'{where} does not fit the network of its config.json: {some(wrong, 6)}.')
        loaded, _ = load_strictly(self.network, network.state_dict(), None, where)
        return loaded, 0


_OWN = (
    "DINO, MoCo v3, MAE, DINOv2 and DINOv3 need no library: name the model, e.g. model='dinov2_vits14', and give a "
    'file of the original code or timm.'
)


def _of_timm(timm: Any, name: str) -> tuple[Any, int, int, dict[str, Any]]:
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a convolutional network takes any size as it is
        network = timm.create_model(name, pretrained=False, num_classes=0)
        if hasattr(network, 'patch_embed'):
            raise
    if getattr(getattr(network, 'patch_embed', None), 'strict_img_size', False):  # Swin, of some versions
        network = timm.create_model(name, pretrained=False, num_classes=0, strict_img_size=False)
    data = timm.data.resolve_model_data_config(network)
    pixels = {key: [255 * value for value in data[key]] for key in ('mean', 'std')}
    # Transformers take whole patches, or windows of them.
    whole = max(stage['reduction'] for stage in network.feature_info) if hasattr(network, 'patch_embed') else 1
    return network, len(network.feature_info), int(whole), dict(pixels, bgr_to_rgb=True)


def _of_transformers(transformers: Any, folder: str) -> tuple[Any, int, int, None]:
    if not (Path(folder) / 'config.json').is_file():
        raise FileNotFoundError(f'{folder!r} is no folder with a config.json')
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    stages = list(getattr(config, 'stage_names', ()))
    config.out_features = stages[1:]  # without the stem
    network = transformers.AutoBackbone.from_config(config)
    return network, len(stages) - 1, int(getattr(config, 'patch_size', 1)), None


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0][:200] or type(error).__name__
