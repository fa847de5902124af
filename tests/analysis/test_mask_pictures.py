"""Pictures of token masks: right place, right values, for detectors and for segmentation."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmdistill_dense.__main__ import main
from mmdistill_dense.apps.inspect.drawing import overlay
from mmdistill_dense.apps.inspect.similarity import draw_masks, mask_rows
from tests import toys

TOKENS = 3


def det_options(tap: str = 'neck') -> dict[str, Any]:
    return dict(
        student=toys.det_net(),
        teacher=toys.det_teacher(),
        distillers=dict(maskd=dict(type='MasKD', student_tap=tap, num_tokens=TOKENS)),
    )


def with_tokens(scope: str, **options: Any) -> tuple[Any, Any]:
    """A distilled model and its ``MasKD`` with random tokens, larger for each next one."""
    model = toys.distilled(scope=scope, **options).eval()
    distiller = model.distillers['maskd']
    generator = torch.Generator().manual_seed(0)
    shapes = distiller.token_shapes()
    distiller.load_tokens({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    return model, distiller


def seg_items() -> list[dict]:
    batch = toys.seg_batch(3)
    return [dict(inputs=a, data_samples=b) for a, b in zip(batch['inputs'], batch['data_samples'], strict=True)]


def colours(path: Path) -> int:
    return len(np.unique(cv2.imread(str(path)).reshape(-1, 3), axis=0))


def test_a_mask_is_red_where_it_is_one_and_the_image_shines_through() -> None:
    image = np.repeat(np.array([0, 255], np.uint8), 6).reshape(2, 2, 3)
    (none, full), (none_bright, full_bright) = overlay(image, np.array([[0.0, 1.0], [0.0, 1.0]])).astype(int)
    assert full[0] > full[2] and none[0] < none[2]
    assert (full_bright > full).all() and (none_bright > none).all()


def test_rows_are_the_masks_of_the_levels() -> None:
    model, distiller = with_tokens('mmdet', **det_options())
    item = toys.det_item(0, 0)
    rows = mask_rows(model, distiller, item)
    assert [row.title for row in rows] == [level.name for level in distiller.levels]
    inputs = model.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))['inputs']
    maps = distiller.teacher(inputs)['neck']
    for row, tokens, teacher in zip(rows, distiller.mask_modules, maps, strict=True):
        direct = torch.einsum('tc,nchw->nthw', tokens.mask_token, teacher).sigmoid()[0]
        # bilinear enlargement keeps the mean over an image and lies between the extremes
        assert row.masks.shape == (TOKENS, toys.SIDE, toys.SIDE)
        assert torch.from_numpy(row.masks).mean((1, 2)).allclose(direct.mean((1, 2)), atol=0.02)
        assert row.masks.max() <= direct.max() + 1e-6
        assert row.masks.min() >= direct.min() - 1e-6
        assert sum(row.weights) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(rows[0].image, item['inputs'].permute(1, 2, 0).numpy()[..., ::-1])
    item['inputs'] = item['inputs'][:, :40, :50]
    item['data_samples'].set_metainfo(dict(img_shape=(40, 50)))
    assert {row.masks.shape for row in mask_rows(model, distiller, item)} == {(TOKENS, 40, 50)}, 'no padding'


def test_logits_have_one_picture_with_a_row_for_each_image(tmp_path: Path) -> None:
    option = dict(type='MasKD', student_tap='decode_head.conv_seg', num_tokens=TOKENS, weight_mask=False, align='none')
    model, distiller = with_tokens('mmseg', teacher=toys.seg_teacher(), distillers=dict(maskd=option))
    (two,) = draw_masks(model, distiller, seg_items(), tmp_path / 'two', images=2)
    (three,) = draw_masks(model, distiller, seg_items(), tmp_path / 'three', images=3)
    assert cv2.imread(str(three)).shape[0] * 2 == cv2.imread(str(two)).shape[0] * 3


def test_each_band_of_freekd_has_a_row(tmp_path: Path) -> None:
    option = dict(type='FreeKD', student_tap='backbone[-1]', num_tokens=TOKENS, steps=2)
    model, distiller = with_tokens('mmseg', teacher=toys.seg_teacher(), distillers=dict(maskd=option))
    item = seg_items()[0]
    low, fine, coarse = mask_rows(model, distiller, item)
    name = distiller.levels[0].name
    titles = [f'{name}, {band}' for band in ('low band', 'details of 2 positions', 'details of 4 positions')]
    assert [low.title, fine.title, coarse.title] == titles and coarse.weights == [pytest.approx(1 / TOKENS)] * TOKENS
    inputs = model.data_preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))['inputs']
    (teacher,) = distiller.teacher(inputs)['backbone[-1]']
    half = F.avg_pool2d(teacher, 2) * 2  # one step; twice the upper left positions is the sum of all four bands
    details = torch.einsum('tc,nchw->nthw', distiller.slot(0).mask_token[1], 2 * teacher[..., ::2, ::2] - half)
    large = F.interpolate(details.sigmoid(), inputs.shape[-2:], mode='bilinear')[0]
    torch.testing.assert_close(torch.from_numpy(fine.masks), large[:, : fine.image.shape[0], : fine.image.shape[1]])
    (picture,) = draw_masks(model, distiller, seg_items(), tmp_path, images=1)
    assert picture.name == 'masks_000.png'


def test_no_images_is_an_error(tmp_path: Path) -> None:
    model, distiller = with_tokens('mmdet', **det_options())
    with pytest.raises(ValueError, match='images must be at least 1, got 0'):
        draw_masks(model, distiller, [], tmp_path, images=0)


@pytest.mark.soak
def test_the_tool_draws_the_tokens_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, distiller = with_tokens('mmdet', **det_options('neck[:2]'))
    torch.save({f'mask_modules.{name}': value for name, value in distiller.mask_modules.state_dict().items()},
               tmp_path / 'tokens.pth')  # fmt: skip
    config = toys.det_run_config(tmp_path / 'run', toys.model_config(**det_options('neck[:2]')))
    config.test_dataloader = config.train_dataloader
    with toys.unformatted():
        config.dump(tmp_path / 'config.py')
    arguments = ['masks', 'config.py', '--tokens', 'tokens.pth', '--images', '1', '--out', 'pictures']
    monkeypatch.chdir(tmp_path)
    assert main(['visualize', *arguments]) == 0
    assert colours(tmp_path / 'pictures' / 'masks_000.png') > 1000
