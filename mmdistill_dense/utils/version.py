"""The version of the package, what ``mmdistill --version`` prints, and what earlier versions had."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module

__version__ = '0.3.0'

# The maintained forks and the upstream packages share their import names; the one that is installed is shown.
STACK = {
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
}


def installed(name: str) -> dict[str, str]:
    """Return the versions of the distributions that are installed of a package of ``STACK``, by their names."""
    from importlib.metadata import PackageNotFoundError, version  # slow, and the package's face imports this file

    numbers = {}
    for distribution in STACK[name]:
        with suppress(PackageNotFoundError):
            numbers[distribution] = version(distribution)
    return numbers


def for_mim(scope: str) -> str:
    """Return what mim calls ``'mmseg'`` or ``'mmdet'``: detection has another name with the forks than upstream."""
    return 'mmdetection' if scope == 'mmdet' and 'mmdet' not in installed('mmdet') else scope


def versions() -> Iterator[str]:
    """Yield a line for this package, Python, torch with its devices, and each package of the mm* stack."""
    yield f'mmdistill_dense {__version__}'
    yield f'Python {platform.python_version()}, {platform.platform()}'
    try:
        import torch
    except ImportError:
        yield 'torch: not installed'
    else:
        cuda = torch.cuda.is_available()
        devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else []
        yield f'torch {torch.__version__}, CUDA {torch.version.cuda or "no"}, GPUs: {", ".join(devices) or "none"}'
    for name in STACK:
        packages = [f'{distribution} {number}' for distribution, number in installed(name).items()]
        note = ' (in one folder: uninstall all, and install one anew)' if len(packages) > 1 else ''
        yield f'{name}: {", ".join(packages) or "not installed"}{note}'
    try:
        import_module('mmcv._ext')
    except ImportError:
        yield 'operations of mmcv: missing, so detectors do not train'
    else:
        yield 'operations of mmcv: compiled'


# What earlier versions had, and what to do instead; ``docs/removed.md`` lists the rest.
# Commands, classes and methods by name, options as `run --hours`, keys of configs and suites as `accelerate.stream`.
REMOVED: dict[str, str] = {
    'default_hooks.distill.skip_nonfinite': 'leave it out: the run stops and names the loss; `--resume` goes on.',
    'default_hooks.distill.save_minutes': 'set default_hooks.checkpoint.interval.',
    'SETTINGS': 'write a config fragment as those in configs/_base_/distillers/auto, and inherit it.',
    'pseudo-labels': 'let the distillers teach on the pictures, by model.unlabelled.',
    'new --head': 'write the config of docs/foundation_head.md, and give it as --teacher.',
    'run --hours': 'leave it out: `new` trains the student alone beside the method.',
    'run --plan': 'leave it out: `run` tells what it will train before it does.',
    'suite --plan': 'leave it out: `suite list` shows the runs.',
    'run --rerun-changed': 'set another `out` in suite.yaml, or remove the folders of the runs to repeat.',
    'suite --rerun-changed': 'set another `out`, or remove the folders of the runs to repeat.',
    'suite cost': 'leave it out: tools/benchmark.py step measures one.',
    'suite budget': 'train_cfg.max_iters in the `options` of the suite or of a row sets how long it trains.',
    'suite length': 'set train_cfg and param_scheduler in the `options` of the row.',
    'suite data': 'set train_dataloader.dataset in the `options` of the row.',
    'suite slurm': 'sh examples/slurm_array.sh DEFINITION PROCESSES submits the runs; options of sbatch follow.',
    'suite starts': 'a row with `config` may have init_cfg, load_from and model.inherit of its own.',
    'suite start': 'a row with `config` may have init_cfg, load_from and model.inherit of its own.',
    'suite grid': 'write a row for each value, and compare them on val.',
    'suite race': 'remove the key, and write a row for each method.',
    'suite rate: control': 'leave it out, and remove the folder of the row where its run.py begins with # rate:.',
    'TokenRelations': "use type='FeatureMatch', which compares the same maps.",
    'QueryMatch': "use type='FeatureMatch', which compares the same maps.",
    'tokenrelations': 'use featurematch, which compares the same maps.',
    'querymatch': 'use featurematch, which compares the same maps.',
    'benchmark': 'in the repository, python tools/benchmark.py step --config CONFIG.',
    'check --no-cost': 'leave it out: `check` measures no time and memory; python tools/benchmark.py step does.',
    'diagnose': 'every run logs distill.NAME.share, and `check` measures the gradients of its step.',
    'MonitorHook': 'leave it out; every run logs distill.NAME.share, and mmdistill check measures gradients.',
    'DenseMonitor': 'leave it out; PCD logs acc_top1 and acc_top5.',
    'balance': 'set loss_weight; the log of a run with balance holds the number as loss_weight=NUMBER.',
    'predict VIDEO': "mmcv.VideoReader('way.mp4').cvt2frames('frames') writes its frames, which predict draws; "
    "mmcv.frames2video('predictions/drawn/frames', 'drawn.mp4', fps=25) makes a video of them.",
    'CVAT xml': 'export COCO or Pascal VOC from the same menu of CVAT, or convert the file with datum.',
    'rotation of boxes': 'export Ultralytics YOLO Oriented Bounding Boxes from the same menu of CVAT.',
    'completion': 'leave it out: `--help` lists the options.',
    'config': 'a config with a method is named METHOD:PAIR; to edit one, write its three lines.',
    'new-config': 'a config with a method is named METHOD:PAIR; to edit one, write its three lines.',
    'visualize': 'set default_hooks.visualization.draw=True: mmengine draws predictions while a run trains.',
    'torchscript': 'write a graph of torch.export (.pt2) or an .onnx file.',
    'export --int8': 'python examples/quantize_int8.py student.onnx PICTURES student.int8.onnx, by onnxruntime.',
    'export --format': 'leave it out: the ending of OUT says it.',
    'export --push': 'hf upload USER/REPO FOLDER sends the exported files.',
    'export --licence': 'write it into the README.md that you send with hf upload.',
    'probe': 'fine-tune the backbone on the task that it is for.',
    'accelerate.fold_bn': 'leave it out.',
    'accelerate.stream': 'leave it out; accelerate.dtype and channels_last are what pays.',
    'accelerate.compile': 'leave it out; accelerate.dtype and channels_last are what pays.',
    'transformers names': "give the file's folder as model='transformers::FOLDER', or a file of the original code.",
    'unlabelled.pseudo': 'leave it out: the distillers teach on these pictures without a threshold.',
    'unlabelled.strong': 'leave it out: teacher and student see the same picture.',
}


def removed(*names: str) -> str:
    """Return what to do instead of the first of these names that an earlier version had; an empty string for none."""
    return next((f'{name} has left: {REMOVED[name]} (docs/removed.md)' for name in names if name in REMOVED), '')
