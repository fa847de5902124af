"""What earlier versions had: a name, and what to do instead. ``docs/removed.md`` gives the reasons with figures."""

# Commands, classes and methods by name, options as `run --hours`, keys of configs and suites as `accelerate.stream`.
REMOVED: dict[str, str] = {
    'default_hooks.distill.skip_nonfinite': 'leave it out: the run stops and names the loss; `--resume` goes on.',
    'default_hooks.distill.save_minutes': 'set default_hooks.checkpoint.interval.',
    'SETTINGS': 'write a config fragment as those in configs/_base_/distillers/auto, and inherit it.',
    'pseudo-labels': 'let the distillers teach on the pictures, by model.unlabelled.',
    'new --head': 'write the config of docs/foundation_head.md, and give it as --teacher.',
    'run --hours': 'leave it out: a folder of `new` trains the student alone at three rates beside the method.',
    'run --plan': 'leave it out: `run` tells what it will train before it does.',
    'suite --plan': 'leave it out: `suite list` shows the runs.',
    'run --rerun-changed': 'set another `out` in suite.yaml, or remove the folders of the runs to repeat.',
    'suite --rerun-changed': 'set another `out`, or remove the folders of the runs to repeat.',
    'suite cost': 'leave it out: `check` and tools/benchmark.py measure a step.',
    'suite budget': 'train_cfg.max_iters in the `options` of the suite or of a row sets how long it trains.',
    'suite length': 'set train_cfg and param_scheduler in the `options` of the row.',
    'suite data': 'set train_dataloader.dataset in the `options` of the row.',
    'suite slurm': 'sh examples/slurm_array.sh DEFINITION PROCESSES submits the runs; options of sbatch follow.',
    'suite starts': 'a row with `config` may have init_cfg, load_from and model.inherit of its own.',
    'suite start': 'a row with `config` may have init_cfg, load_from and model.inherit of its own.',
    'suite grid': 'write a row for each value, and compare them on val.',
    'suite race': 'remove the key; add the rows control_x2: {rate: 2}, control_x4: {rate: 4} and the methods.',
    'TokenRelations': "use type='FeatureMatch', which compares the same maps.",
    'QueryMatch': "use type='FeatureMatch', which compares the same maps.",
    'tokenrelations': 'use featurematch, which compares the same maps.',
    'querymatch': 'use featurematch, which compares the same maps.',
    'benchmark': 'in the repository, python tools/benchmark.py step --config CONFIG; `check` measures a step too.',
    'diagnose': 'every run logs distill.NAME.share, and `check` measures the gradients of its step.',
    'MonitorHook': 'leave it out; every run logs distill.NAME.share, and mmdistill check measures gradients.',
    'DenseMonitor': 'leave it out; PCD logs acc_top1 and acc_top5.',
    'CVAT xml': 'export COCO or Pascal VOC from the same menu of CVAT, or convert the file with datum.',
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
