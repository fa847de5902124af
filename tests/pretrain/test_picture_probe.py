"""The probe of whole pictures: classes that a backbone tells apart, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.inspect.picture_probe import list_pictures, probe, read_picture

BACKBONE = dict(
    type='mmseg.ResNet', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN'), norm_eval=False
)
CONFIG = Config(
    dict(
        default_scope='mmseg',
        model=dict(
            type='mmdistill_dense.BackboneStudent',
            backbone=BACKBONE,
            data_preprocessor=dict(
                type='mmdistill_dense.MultiViewPreprocessor', mean=[127.5] * 3, std=[60.0] * 3, bgr_to_rgb=True
            ),
        ),
    )
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Red and blue noise, of two sizes."""
    draw = np.random.default_rng(0)
    for part, count in (('train', 6), ('val', 4)):
        for channel, name in ((0, 'red'), (2, 'blue')):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                picture = draw.integers(0, 40, (40 + 20 * (number % 2), 60, 3), dtype=np.uint8)
                picture[..., channel] += 210
                Image.fromarray(picture).save(tmp_path / part / name / f'{number}.png')
    return tmp_path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    init_default_scope('mmseg')
    model = MODELS.build(CONFIG.model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'epoch.pth')
    torch.save({'state_dict': model.backbone.state_dict()}, tmp_path / 'exported.pth')
    return tmp_path / 'epoch.pth'


def test_classes_that_differ_in_colour_are_told_apart(data: Path, checkpoint: Path, capsys) -> None:
    found = probe(CONFIG, checkpoint, data, size=32, batch=5)
    assert found == dict(knn=100.0, linear=100.0)
    for picture in (data / 'val/blue').iterdir():  # so wrong labels are counted
        picture.rename(data / 'val/red' / f'other{picture.name}')
    assert probe(CONFIG, checkpoint.with_name('exported.pth'), data, size=32) == dict(knn=50.0, linear=50.0)
    CONFIG.dump(data / 'config.py')
    main(['probe', str(data / 'config.py'), str(checkpoint), str(data), '--size', '32', '--device', 'cpu'])
    assert capsys.readouterr().out.splitlines() == ['knn     50.00', 'linear  50.00']


def test_pictures_are_cut_from_the_centre_in_bgr(data: Path) -> None:
    picture = read_picture(data / 'train/red/0.png', 32)
    assert picture.shape == (3, 32, 32) and picture.dtype == torch.uint8
    assert picture[2].float().mean() > picture[0].float().mean() + 100
    assert list_pictures(data, 4)[1]['train'] == [list_pictures(data)[1]['train'][i] for i in (0, 4, 7, 11)]


def test_a_photograph_is_turned_as_in_training(data: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    lying = Image.new('RGB', (64, 32))
    lying.paste((255, 0, 0), (0, 0, 32, 32))
    lying.save(data / 'turned.png', exif=tag)
    picture = read_picture(data / 'turned.png', 32).float()
    assert picture[2, :8].mean() > 200 > 50 > picture[2, -8:].mean(), 'the left half is the upper one'


def test_a_picture_of_sixteen_bits_is_read_as_in_training(data: Path) -> None:
    """Pillow cuts off all above 255, so that a picture of microscopy was white."""
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    cv2.imwrite(str(data / 'deep.png'), ramp)
    cv2.imwrite(str(data / 'flat.png'), (ramp // 256).astype(np.uint8))
    deep, flat = (read_picture(data / f'{name}.png', 224) for name in ('deep', 'flat'))
    assert (deep.int() - flat.int()).abs().max() <= 1 and deep.float().std() > 50
    (data / 'broken.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match=r'broken.png: not a picture'):
        read_picture(data / 'broken.png', 32)


def test_what_does_not_fit_is_refused(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nothing/train: no picture in it. DATA must hold train/CLASS/'):
        probe(CONFIG, checkpoint, tmp_path / 'nothing')
    (data / 'val/green').mkdir()
    with pytest.raises(ValueError, match=r'val has classes that .*train lacks: green'):
        probe(CONFIG, checkpoint, data)
    (data / 'val/green').rmdir()
    torch.save({'state_dict': {'backbone.other': torch.zeros(1)}}, checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint='.*epoch.pth' does not fit ResNet"):
        probe(CONFIG, checkpoint, data)
