"""A network of each family of both zoos trains for 20 steps by the recipe of ``new``, and resumes to the same bits."""

import re
from pathlib import Path

import pytest
import torch

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.recipes.named import read_config
from mmdistill_dense.apps.training import build_runner
from tests.project.folders_of_data import box_folder, seg_folder
from tests.zoo.networks import EVALUATION, config_names

WORDS = ('r18', 'tiny', 'nano', 'mit-b0', 'mobilenet', '-t_', '-s_', '_s_', 'r50')  # of small networks, best first
STEPS = 20
LARGE = ('mmdet::ddod', 'mmdet::dino', 'mmdet::v3det', 'mmseg::mobilenet_v3')  # coarse kernels, 900 queries
# an operation for GPUs alone, a library that mmdet does not require, MMSyncBN in one process; the file of CLIP for SAN
LACKING = "implementation for device cpu not found|torchvision|pip install|process group|'init_weights'"


def families() -> dict[str, str]:
    """The name of a small network by family."""
    actual: dict[str, list[str]] = {}
    for name in config_names():
        actual.setdefault(str(Path(name).parent), []).append(name)
    return {family: min(places, key=rank) for family, places in actual.items()}


def rank(name: str) -> tuple[int, int]:
    return next((number for number, word in enumerate(WORDS) if word in name), len(WORDS)), len(name)


def train(project: Path, resume: bool = False) -> dict[str, torch.Tensor]:
    """The weights after a training, or after its second half."""
    config = read_config(str(project / 'control.py'))
    for name in EVALUATION:
        config.pop(name, None)
    config.train_cfg.val_interval = STEPS + 1
    config.default_hooks.checkpoint.interval = STEPS // 2
    config.train_dataloader.update(num_workers=0, persistent_workers=False)
    config.experiment_name = f'{project.name}_{resume}'
    config.resume = resume
    runner = build_runner(config)
    for module in runner.model.modules():
        samplers = getattr(module, 'bbox_sampler', [])
        for sampler in samplers if isinstance(samplers, list) else [samplers]:
            sampler.num = 32  # RoIs, whose heads take minutes else
    runner.train()
    return torch.load(project / f'work/control/iter_{STEPS}.pth', weights_only=False)['state_dict']


@pytest.mark.zoo
@pytest.mark.parametrize('name', [pytest.param(name, id=family) for family, name in families().items()])
def test_a_family_is_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    make = seg_folder if name.startswith('mmseg') else box_folder
    make(Path('mine'), **({} if make is seg_folder else {'masks': True}))
    side = '448' if str(Path(name).parent) in LARGE else '64' if make is seg_folder else '128'
    words = ['--data', 'mine', '--student', name, '--teacher', name, '--iters', str(STEPS), '--batch', '2']
    if main(['new', *words, '--size', side, side, '--random-weights', '--out', 'project', '--method', 'fitnet']):
        message = capsys.readouterr().err.strip()
        assert message.startswith(('ERROR    --student', 'ERROR    --method')), message
        pytest.skip(message)
    try:
        whole = train(Path('project'))
    except (RuntimeError, ImportError, AttributeError, ValueError) as error:
        if re.search(LACKING, str(error)):
            pytest.skip(str(error))
        raise
    folder = tmp_path / 'project/work/control'
    (folder / f'iter_{STEPS}.pth').unlink()
    (folder / 'last_checkpoint').write_text(f'{folder}/iter_{STEPS // 2}.pth')
    again = train(Path('project'), resume=True)
    assert all(torch.isfinite(tensor).all() for tensor in whole.values() if tensor.is_floating_point())
    assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole)
