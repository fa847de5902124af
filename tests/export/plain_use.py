"""Use exported students as in an environment without this package; started by its path, with the folder of the files.

The tests' environment has the package, so its import is refused here.
"""

import json
import sys
from pathlib import Path


def use(config: str, weights: str) -> dict:
    """Predict a picture by the plain functions and the inferencer, then test, if the config has a test."""
    from mmengine.config import Config
    from mmengine.runner import Runner
    from numpy import uint8, zeros

    image, options = zeros((48, 64, 3), uint8), dict(device='cpu')
    loaded = Config.fromfile(config)
    if loaded.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer, inference_detector, init_detector

        network = init_detector(config, weights, **options)
        actual = hasattr(inference_detector(network, image), 'pred_instances')
        DetInferencer(config, weights, show_progress=False, **options)(image)
    else:
        from mmseg.apis import MMSegInferencer, inference_model, init_model

        network = init_model(config, weights, **options)
        actual = list(inference_model(network, image).pred_sem_seg.data.shape) == [1, 48, 64]
        MMSegInferencer(config, weights, **options)(image)
    loaded.load_from, loaded.work_dir = weights, f'{weights}.out'
    runner = Runner.from_cfg(loaded)
    tested = runner.test() if 'data_root' in loaded.test_dataloader.dataset else None
    return dict(found=actual, classes=list(network.dataset_meta['classes']), tested=tested and sorted(tested))


if __name__ == '__main__':
    sys.modules['mmdistill_dense'] = None  # its import fails
    uses = {path.stem: use(str(path), str(path.with_suffix('.pth'))) for path in sorted(Path(sys.argv[1]).glob('*.py'))}
    Path(sys.argv[1], 'told.json').write_text(json.dumps(uses))
