"""Our numbers against stored ones, made with the authors' formulas: one test per file and dtype.

A kind is a function from a file to the results that it stores, by the name of the stored array; it calls what the
distillers call. A new method is a row in METHODS, its kinds and its tolerances.
"""

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.golden import maps, pcd, trainings
from tests.golden.reading import File, Results

DEFAULT = Path(__file__).resolve().parents[3] / 'shared' / 'golden'
CLONE = Path(__file__).parents[1] / 'data/golden'  # a small file of most kinds, for a clone alone
DTYPES = (torch.float64, torch.float32)


def _of(module: ModuleType, names: str, prefix: str = '') -> dict[str, Callable[[File], Results]]:
    """The kinds that are functions of these names behind a prefix."""
    return {name: getattr(module, prefix + name) for name in names.split()}


class Method(NamedTuple):
    """What computes each kind of a method's files, and how the kind of a file is told."""

    kinds: dict[str, Callable[[File], Results]]
    kind_of: Callable[[Path, File], str] = lambda path, file: str(file['kind'])


def _class_map_kind(path: Path, file: File) -> str:
    kinds = {'student_logits': 'softmax', 'student_scores': 'sigmoid', 'labels': 'mass'}
    return next(kind for name, kind in kinds.items() if name in file)


def _maskd_kind(path: Path, file: File) -> str:
    return next(kind for kind in METHODS['maskd'].kinds if path.name.startswith(f'{kind}_'))


METHODS = {
    'afdcd': Method({'ctr': maps.afdcd_contrast, 'module': maps.afdcd_module, 'kd': maps.afdcd_kd}),
    'class_map': Method(_of(maps, 'softmax sigmoid mass', 'class_'), _class_map_kind),
    'crosskd': Method({'align': maps.crosskd_align, **{kind: maps.crosskd_head(kind) for kind in maps.CROSSKD_HEADS}}),
    'defeat': Method(_of(maps, 'neck head', 'defeat_')),
    'freekd': Method(_of(maps, 'haar prompt distill', 'freekd_')),
    'frs': Method({'frs': maps.frs}),
    'kddetr': Method({'kddetr': maps.kddetr}),
    'logit_std': Method({'logit_std': maps.logit_std}),
    'maskd': Method(_of(maps, 'stage1 stage2_det stage2_seg dice', 'maskd_') | {'dist': maps.dist}, _maskd_kind),
    'pcd': Method(
        _of(pcd, 'infonce two_view queue mhsa student_head plugin lars schedule transforms')
        | _of(trainings, 'spatial_adaptor end_to_end'),
        lambda path, file: path.stem,
    ),
    'pcd_vector': Method({'vector': pcd.vector}),
    'seed': Method({'seed': pcd.seed, 'near': pcd.seed, 'simreg': pcd.simreg}, pcd.kind_of_seed),
    'trajectories': Method(_of(trainings, 'afdcd maskd pcd')),
}


class Tolerance(NamedTuple):
    """What is allowed: ``relative`` multiplies ``max |stored|``, ``absolute`` is added; for float64 and for float32."""

    relative: tuple[float, float]
    absolute: tuple[float, float]

    def allowed(self, stored: np.ndarray, dtype: torch.dtype) -> float:
        index = DTYPES.index(dtype)
        return self.absolute[index] + self.relative[index] * float(np.abs(stored).max())


# The tolerances stand in the notes beside the files. Four cases differ: masks, weights and rebuilt maps have those of
# gradients; AfDCD's gradient can be 0 in exact arithmetic, and what is stored then is rounding (1e-16); pictures may
# be off by one level; the statistics of 4000 crops scatter by three to four standard errors.
#
# Kind / arrays / relative of float64 and float32, absolute of both where there is one, for ``max |computed - stored|``.
# The first row that matches counts.
LOSS, MAP, WIDE_MAP = '1e-9 1e-5 1e-12 1e-9', '1e-9 2e-5 1e-12 1e-12', '1e-9 1e-4 1e-12 1e-12'
PCD, TIGHT = '1e-9 2e-5 1e-10 0', '1e-9 2e-6 1e-10 2e-6'
TOLERANCES = {
    'afdcd': """
        * / loss / 1e-10 2e-6
        module / fd ctr / 1e-10 2e-6
        module / recon / 2e-7 5e-5
        module / criterion_grad_norm / 1e-10 1e-3
        module / grad_feat_s_ctr / 2e-7 1e-3 1e-14 1e-6
        module / grad_* / 2e-7 1e-3
        * / grad_* / 2e-7 5e-5""",
    **dict.fromkeys(('class_map', 'crosskd', 'logit_std'), f"""
        * / loss loss_weighed loss_positions loss_elements loss_cls loss_reg loss_centre / {LOSS}
        * / *grad_* student_groups teacher_groups row_weight best_mass / {WIDE_MAP}
        * / aligned level*_cross_* level*_teacher_score level*_teacher_box / {WIDE_MAP}"""),
    **dict.fromkeys(('defeat', 'freekd', 'frs', 'kddetr', 'pcd_vector', 'seed'), f"""
        near / loss row_divergence / 1e-9 0 1e-12 1e-6
        near / grad_student / 1e-9 1e-3 1e-12 1e-12
        neck / level*_mask / 0 0 0.01 0.01
        * / loss loss_[bfg]* loss_class level*_loss level*_terms dice row_loss row_divergence / {LOSS}
        * / *grad_* *mask* ll high* out keys / {MAP}
        haar / x / {MAP}"""),
    'maskd': """
        * / *loss / 1e-9 1e-5
        dice / dice / 1e-9 1e-5
        stage1 / dice / 1e-6 1e-6
        * / *grad_* / 1e-6 1e-5
        stage1 / mask prob out / 1e-6 1e-5
        stage2_* / *weight_map *mask_teacher *mask_used / 1e-6 1e-5
        stage2_seg / mask / 1e-6 1e-5
        stage2_det / *prob / 1e-6 1e-5""",
    'pcd': f"""
        transforms / rrc_area_mean_std / 0 0 0.012 0.012
        transforms / rrc_logratio_mean_std / 0 0 0.01 0.01
        transforms / rrc_area_quantiles* / 0 0 0.03 0.03
        transforms / rrc_center_std* / 0 0 0.006 0.006
        transforms / composite_normalized / 0 0 0.02 0.02
        transforms / crop crop_up flip gray gray_luma solarize composite brightness_[0-9]* contrast_[0-9]* / 0 0 1 1
        transforms / saturation_[0-9]* hue_[0-9]* blur_[0-9]* / 0 0 1 1
        * / ptr_after ptr_end monitor_rank monitor_top[15] *_ptr[1-9]* *_filled[1-9]* mask / 0 0 0.01 0.01
        infonce / easy_loss easy_loss_map easy_grad_s / 1e-9 1e-5
        infonce / sharp_grad_s / 1e-9 2e-4 1e-10 0
        infonce / *_loss / {TIGHT}
        infonce / *_grad_s *_loss_map *_pos *_lse / {PCD}
        two_view / loss_* / {TIGHT}
        two_view / grad_* keys queue_after / {PCD}
        plugin / sub_loss / {TIGHT}
        plugin / *_resized sub_grad_s / {PCD}
        end_to_end / losses / {TIGHT}
        end_to_end / grad1/* student_end/* queue_end / {PCD}
        queue / *_queue[1-9]* / {PCD}
        mhsa / y / {PCD}
        student_head / y_train y_eval grad_x grad/* after/* / {PCD}
        spatial_adaptor / */map */map_keep_last_bn */head_of_pooled* / {PCD}
        lars / conv_[1-9]* linear_[1-9]* bias_[1-9]* bn_[1-9]* zero_[1-9]* released_* / {PCD}
        schedule / lr / {PCD}""",
    'trajectories': """
        * / curve / 1e-10 1e-4
        * / *_after* / 1e-9 1e-3""",
}  # fmt: skip


def tolerances_of(method: str, kind: str, file: File) -> dict[str, Tolerance]:
    """Return the tolerance of each stored array that is a result."""
    rows = [line.strip().split(' / ') for line in TOLERANCES[method].strip().splitlines()]
    actual = {}
    for name in file:
        for kinds, patterns, numbers in rows:
            if fnmatch(kind, kinds) and any(fnmatch(name, pattern) for pattern in patterns.split()):
                values = [*map(float, numbers.split()), 0.0, 0.0]
                actual[name] = Tolerance((values[0], values[1]), (values[2], values[3]))
                break
    return actual


def files_of(config: pytest.Config) -> dict[str, list[Path]]:
    """The golden files of each method that has a folder; those beyond the formulas of the three papers are beside the
    default directory. Where that is missing, those of the clone. A relative path begins where pytest was called.
    """
    words = config.getoption('--golden-dir')
    default = DEFAULT if DEFAULT.is_dir() else CLONE
    directory = Path(os.path.normpath(config.invocation_params.dir / words)) if words else default
    other_folders = [DEFAULT.with_name('golden_next'), DEFAULT.parent] if directory == DEFAULT else []
    folders = [root / name for name in METHODS for root in (directory, *other_folders) if (root / name).is_dir()]
    return {folder.name: sorted(folder.glob('*.npz')) for folder in folders}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'golden_file' in metafunc.fixturenames:
        files = [path for actual in files_of(metafunc.config).values() for path in actual]
        metafunc.parametrize('golden_file', files, ids=[f'{path.parent.name}/{path.name}' for path in files])


def test_every_folder_has_files(request: pytest.FixtureRequest) -> None:
    actual = files_of(request.config)
    assert actual and all(actual.values()), (
        f'no golden file of a method, of which there are {", ".join(METHODS)}: {actual}'
    )


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_file(golden_file: Path, dtype: torch.dtype) -> None:
    """Results that are missing, of another shape, or further off than the table allows are wrong."""
    name, method = golden_file.parent.name, METHODS[golden_file.parent.name]
    with np.load(golden_file, allow_pickle=False) as stored:
        file = File(dict(stored), dtype)
    kind = method.kind_of(golden_file, file)
    tolerances, actual = tolerances_of(name, kind, file), method.kinds[kind](file)
    assert tolerances, f'{golden_file} stores no result of kind {kind!r}'
    wrong = {}
    for key, tolerance in tolerances.items():
        stored, value = file[key].astype(np.float64), actual[key].detach().double().numpy() if key in actual else None
        if value is None or value.shape != stored.shape:
            wrong[key] = f'stored {stored.shape}, computed {"nothing" if value is None else value.shape}'
            continue
        error, allowed = np.abs(value - stored).max(), tolerance.allowed(stored, dtype)
        if not error <= allowed:  # NaN is wrong too
            wrong[key] = f'off by {error:.3g}, allowed {allowed:.3g}'
    assert not wrong, wrong
