"""SpatialAdaptor: exact for every depth, width, size and activation."""

import pytest
import torch
from torch import nn

from mmdistill_dense.pretrain import SpatialAdaptor
from mmdistill_dense.pretrain.spatial_adaptor import blank_entries, read_steps
from mmdistill_dense.pretrain.ssl_teacher import check_invariance

ACTIVATIONS = {'relu': nn.ReLU, 'gelu': nn.GELU, 'silu': nn.SiLU}
FORMS = (
    'linear+',
    'linear',
    'linear bn act linear bn0',
    'linear+ bn act linear+ bn act linear bn',
    'linear act linear act linear act linear+',
)


def random_head(form, widths, activation='relu', seed=0):
    """A vector head of torch's modules in double, and its entries."""
    torch.manual_seed(seed)
    modules, depth = [], 0
    for kind in form.split():
        if kind.startswith('linear'):
            depth += 1
            modules.append(nn.Linear(widths[depth - 1], widths[depth], bias=kind == 'linear+'))
        elif kind == 'act':
            modules.append(ACTIVATIONS[activation]())
        else:
            modules.append(nn.BatchNorm1d(widths[depth], affine=kind == 'bn'))
            modules[-1].running_mean.normal_(std=0.3)
            modules[-1].running_var.uniform_(0.5, 2)
            if kind == 'bn':
                nn.init.uniform_(modules[-1].weight, 0.5, 2)
                nn.init.normal_(modules[-1].bias)
    head = nn.Sequential(*modules).double().eval()
    return head, head.state_dict()


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('form', FORMS)
def test_mean_of_the_map_is_the_head_of_the_mean(form, activation):
    for seed, size in enumerate([(1, 1), (3, 3), (2, 5)]):
        widths = torch.randint(1, 9, (5,), generator=torch.Generator().manual_seed(seed)).tolist()
        head, entries = random_head(form, widths, activation, seed)
        adaptor = SpatialAdaptor.from_entries(entries, activation, keep_last_bn=True)
        x = torch.randn(2, widths[0], *size, dtype=torch.float64)
        expected = head(x.mean((2, 3)))
        limit = 1e-13 * max(1.0, expected.abs().max().item())
        assert (adaptor(x).mean((2, 3)) - expected).abs().max() <= limit
        assert (adaptor.vector(x.mean((2, 3))) - expected).abs().max() <= limit
        assert adaptor(x).shape == (2, adaptor.widths[-1], *size)


def test_mean_of_exactly_zero_closes_the_gate():
    entries = {'0.weight': torch.eye(2), '2.weight': torch.ones(1, 2)}
    x = torch.tensor([[[[1.0, -1.0]], [[3.0, -1.0]]]])
    assert SpatialAdaptor.from_entries(entries)(x).tolist() == [[[[3.0, -1.0]]]]


def test_last_plain_batch_norm_is_left_out_unless_kept():
    _, entries = random_head('linear bn act linear bn0', [4, 5, 3])
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    without, kept = (SpatialAdaptor.from_entries(entries, keep_last_bn=keep)(x) for keep in (False, True))
    mean, var = (entries[f'4.running_{name}'].view(1, -1, 1, 1) for name in ('mean', 'var'))
    torch.testing.assert_close(kept, (without - mean) / (var + 1e-5).sqrt())
    _, affine = random_head('linear bn act linear bn', [4, 5, 3])
    assert len(SpatialAdaptor.from_entries(affine).layers) == 5, 'one with parameters is always kept'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_and_keeps_its_dtype(dtype):
    _, entries = random_head('linear bn act linear', [16, 32, 8])
    adaptor = SpatialAdaptor.from_entries(entries).to(dtype)
    x = torch.randn(2, 16, 7, 7, dtype=torch.float64)
    found = adaptor(x.to(dtype))
    assert found.dtype == dtype
    expected = SpatialAdaptor.from_entries(entries)(x)
    # A gate whose mean is near 0 may fall to the other side: most of the map must agree.
    close = (found.double() - expected).abs() <= 0.05 * expected.abs().max()
    assert close.double().mean() > 0.95
    check_invariance(adaptor, 'a file in half precision is not broken')
    assert next(adaptor.parameters()).dtype == dtype


def test_it_copies_the_entries_and_stays_frozen_in_eval_mode():
    _, entries = random_head('linear bn act linear', [4, 5, 3])
    adaptor = SpatialAdaptor.from_entries(entries).train()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    before = adaptor(x)
    entries['0.weight'].zero_()
    assert torch.equal(adaptor(x), before)
    assert not any(module.training for module in adaptor.modules())
    assert not any(parameter.requires_grad for parameter in adaptor.parameters())


@pytest.mark.parametrize(('entries', 'message'), [
    ({}, 'no head entries'),
    ({'weight': torch.zeros(2, 2)}, 'not <index>.<parameter>'),
    ({'1.weight': torch.zeros(2, 2)}, 'missing.*before the first layer'),
    ({'0.weight': torch.zeros(2, 2), '3.weight': torch.zeros(2, 2)}, 'entries 1 to 2 are missing'),
    ({'0.weight': torch.zeros(2, 2, 1, 1)}, 'neither a linear layer nor a complete batch norm'),
    ({'0.weight': torch.zeros(2)}, 'neither a linear'),
    ({'0.running_mean': torch.zeros(2), '0.running_var': torch.zeros(2)}, 'no linear layer'),
    ({'0.weight': torch.zeros(2, 3), '1.weight': torch.zeros(4, 3)}, 'takes 3 channels, the one before gives 2'),
    ({'0.weight': torch.zeros(2, 3), '0.bias': torch.zeros(3)}, r'bias\[3\] at 2 channels'),
    ({'0.weight': torch.zeros(2, 3), '1.running_mean': torch.zeros(2)}, 'running_var is missing'),
    (dict.fromkeys(('0.running_mean', '0.running_var', '0.gain'), torch.ones(2)), 'gain is not part'),
])  # fmt: skip
def test_broken_entries_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        SpatialAdaptor.from_entries(entries)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match='takes 3 channels and the backbone gives 4'):
        SpatialAdaptor.from_entries({'0.weight': torch.zeros(2, 3)})(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize('form', FORMS)
def test_blank_entries_have_the_form(form):
    assert ' '.join(kind for kind, _ in read_steps(blank_entries(form, [3, 4, 5, 6, 7]))) == form


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_a_head_for_each_pixel_is_the_vector_head_at_each_pixel(activation):
    """PCD's ablation: the output of a pixel is that of its vector, and the means differ."""
    head, entries = random_head(FORMS[3], [5, 7, 6, 4], activation)
    adaptor = SpatialAdaptor.from_entries(entries, activation, per_pixel=True)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = head(x.movedim(1, -1).flatten(0, 2)).view(2, 3, 4, -1).movedim(-1, 1)
    torch.testing.assert_close(adaptor(x), expected)
    assert not torch.allclose(adaptor(x).mean((2, 3)), head(x.mean((2, 3))))
