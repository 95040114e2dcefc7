"""HetConv2d against the oracle, and under everything that a PyTorch user does with a layer."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from timm_hetconv import DWCPWC2d, GWCPWC2d, HetConv2d, PC2d
from timm_hetconv.ops import compose
from timm_hetconv.reference import dense_mask, masked_conv2d

odd = st.sampled_from([1, 3, 5])


@st.composite
def layers(draw):
    """A HetConv2d in double precision and an input that it accepts."""
    part = draw(st.sampled_from([1, 2, 3, 4, 8]))
    kernel_size = draw(st.tuples(odd, odd).filter(lambda k: k != (1, 1)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size)]
    padding = draw(st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)))
    layer = HetConv2d(
        part * draw(st.integers(1, 3)),
        part * draw(st.integers(1, 3)),
        kernel_size,
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding,
        dilation,
        part,
        draw(st.booleans()),
        dtype=torch.float64,
    )
    size = [draw(st.integers(s, s + 6)) for s in span]
    x = torch.randn(draw(st.integers(1, 2)), layer.in_channels, *size, dtype=torch.float64)
    return layer, x


def oracle(layer: HetConv2d, x: torch.Tensor, dense_weight: torch.Tensor, bias) -> torch.Tensor:
    mask = dense_mask(layer.in_channels, layer.out_channels, layer.kernel_size, layer.part).to(dense_weight)
    return masked_conv2d(x, dense_weight, bias, mask, layer.stride, layer.padding, layer.dilation)


def gradients(y: torch.Tensor, *inputs: torch.Tensor):
    generator = torch.Generator().manual_seed(1)
    return torch.autograd.grad(y, inputs, torch.randn(y.shape, generator=generator, dtype=y.dtype))


@settings(deadline=None, max_examples=120)
@given(layers())
def test_forward_and_gradients_equal_the_masked_dense_convolution(case):
    layer, x = case
    x.requires_grad_()
    dense = layer.to_dense()
    y, expected = layer(x), oracle(layer, x, dense.weight, dense.bias)
    torch.testing.assert_close(y, expected)

    parameters = [layer.weight, layer.weight_kxk] + ([layer.bias] if layer.bias is not None else [])
    dense_parameters = [dense.weight] + ([dense.bias] if dense.bias is not None else [])
    grad_x, grad_weight, grad_kxk, *grad_bias = gradients(y, x, *parameters)
    dense_grad_x, dense_grad, *dense_grad_bias = gradients(expected, x, *dense_parameters)
    torch.testing.assert_close(grad_x, dense_grad_x)
    torch.testing.assert_close(grad_bias, dense_grad_bias)
    # The gradient of the weights, laid out as a dense weight by the layer's own conversion.
    holder = copy.deepcopy(layer)
    with torch.no_grad():
        holder.weight.copy_(grad_weight)
        holder.weight_kxk.copy_(grad_kxk)
    torch.testing.assert_close(holder.to_dense().weight, dense_grad)


@settings(deadline=None, max_examples=30)
@given(layers())
def test_composition_equals_the_operator(case):
    layer, x = case
    composed = compose(
        x, layer.weight, layer.weight_kxk, layer.bias, layer.kernel_size, layer.stride, layer.padding, layer.dilation
    )
    torch.testing.assert_close(layer(x), composed)


@settings(deadline=None, max_examples=30)
@given(layers())
def test_weights_and_macs_are_equation_4(case):
    layer, x = case
    m, n, p = layer.in_channels, layer.out_channels, layer.part
    k2 = layer.kernel_size[0] * layer.kernel_size[1]
    weights = m * n * k2 // p + n * (m - m // p)
    assert layer.weight.numel() + layer.weight_kxk.numel() == weights
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    assert counter.get_total_flops() == 2 * weights * y.shape[0] * y.shape[2] * y.shape[3]


def test_flops_of_training_are_three_times_those_of_inference():
    layer, x = HetConv2d(8, 8), torch.randn(2, 8, 6, 6, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


@pytest.mark.parametrize('frozen', ['weight', 'weight_kxk', 'bias', 'x'])
def test_partial_gradients(frozen):
    layer = HetConv2d(8, 8, stride=2, dtype=torch.float64)
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64, requires_grad=frozen != 'x')
    if frozen != 'x':
        getattr(layer, frozen).requires_grad_(False)
    layer(x).square().sum().backward()
    every = {'x': x, **dict(layer.named_parameters())}
    assert {name for name, tensor in every.items() if tensor.grad is None} == {frozen}
    reference = layer.to_dense()
    reference(x.detach().requires_grad_()).square().sum().backward()
    if frozen != 'bias':
        torch.testing.assert_close(layer.bias.grad, reference.bias.grad)


def test_gradcheck_and_double_backward():
    layer = HetConv2d(4, 4, part=2, stride=2, dtype=torch.float64)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_operator_passes_torchs_own_checks():
    layer = HetConv2d(4, 8, part=2)
    args = (torch.randn(2, 4, 5, 5), layer.weight, layer.weight_kxk, layer.bias, [3, 3], [1, 1], [1, 1], [1, 1])
    torch.library.opcheck(torch.ops.hetconv.conv2d.default, args)


@pytest.fixture
def layer():
    return HetConv2d(8, 16, stride=2).eval()


@pytest.fixture
def x():
    return torch.randn(2, 8, 9, 9)


def test_script_and_trace(layer, x):
    expected = layer(x)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(layer), buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.jit.load(buffer)(x), expected)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), expected)


def test_export_is_one_node(layer, x):
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))
    calls = [node.target for node in program.graph.nodes if node.op == 'call_function']
    assert calls == [torch.ops.hetconv.conv2d.default]
    torch.testing.assert_close(program.module()(x[:1].repeat(5, 1, 1, 1)), layer(x[:1].repeat(5, 1, 1, 1)))


def test_compile_without_graph_break(layer, x):
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert layer.weight_kxk.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(layer, x, dtype):
    with torch.autocast('cpu', dtype):
        y, reference = layer(x), layer.to_dense()(x)
    assert y.dtype == reference.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x), rtol=2e-2, atol=2e-2)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


def test_channels_last(layer, x):
    expected = layer(x)
    y = layer.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


def test_meta_device_then_to_empty(x):
    layer = HetConv2d(8, 16, device='meta')
    assert layer(x.to('meta')).shape == (2, 16, 9, 9)
    layer = layer.to_empty(device='cpu')
    assert layer.weight.isnan().any(), 'the memory is poisoned, or this test shows nothing'
    layer.reset_parameters()
    assert layer(x).isfinite().all()
    layer.init_weights()
    assert layer(x).isfinite().all()


def test_deepcopy_and_state_dict(layer, x):
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x), layer(x))
    other = HetConv2d(8, 16, stride=2)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize('projection', ['nearest', 'sum'])
@pytest.mark.parametrize('bias', [True, False])
def test_from_dense_leaves_a_hetconv_weight_alone(projection, bias):
    layer = HetConv2d(8, 12, (3, 5), 2, 0, 1, 4, bias, dtype=torch.float64)
    again = HetConv2d.from_dense(layer.to_dense(), 4, projection)
    assert str(again) == str(layer)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)


def test_projections_are_what_they_claim():
    conv = nn.Conv2d(8, 8, 3, padding=1, dtype=torch.float64)
    mask = dense_mask(8, 8, 3, 4).double()
    nearest = HetConv2d.from_dense(conv, 4).to_dense()
    torch.testing.assert_close(nearest.weight, conv.weight * mask)  # the orthogonal projection onto the mask
    constant = torch.randn(1, 8, 1, 1, dtype=torch.float64).expand(1, 8, 9, 9)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # away from the zero padding
    total = HetConv2d.from_dense(conv, 4, 'sum')
    torch.testing.assert_close(total(constant)[inside], conv(constant)[inside])
    assert not torch.allclose(nearest(constant)[inside], conv(constant)[inside])


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(in_channels=6, out_channels=8, part=4), 'largest divisor of 4 that does is 2'),
        (dict(in_channels=8, out_channels=6, part=4), 'must divide'),
        (dict(in_channels=8, out_channels=8, part=0), 'part=0'),
        (dict(in_channels=8, out_channels=8, kernel_size=2), 'odd'),
        (dict(in_channels=8, out_channels=8, kernel_size=1), 'more than 1'),
        (dict(kernel_size=-3), 'kernel_size=-3 must be at least 1'),
        (dict(stride=0), 'stride=0 must be at least 1'),
        (dict(dilation=(1, 0)), 'dilation=0 must be at least 1'),
        (dict(padding=-1), 'padding=-1 must be at least 0'),
        (dict(in_channels=0), 'in_channels=0 must be at least 1'),
    ],
)
def test_bad_values(kwargs, words):
    with pytest.raises(ValueError, match=words):
        HetConv2d(**{**dict(in_channels=8, out_channels=8), **kwargs})


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(padding='same'), 'padding=.same. must be an int or a pair of ints'),
        (dict(stride=1.5), 'stride=1.5 must be an int'),
        (dict(kernel_size=(3, 3, 3)), 'kernel_size'),
        (dict(kernel_size=(3, '3')), 'kernel_size'),
        (dict(part='4'), 'part=.4. must be an int'),
        (dict(part=2.0), 'part=2.0 must be an int'),
        (dict(part=None), 'part=None must be an int'),
    ],
)
def test_bad_types(kwargs, words):
    with pytest.raises(TypeError, match=words):
        HetConv2d(**{**dict(in_channels=8, out_channels=8), **kwargs})


@pytest.mark.parametrize(
    'conv',
    [nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 3, padding_mode='reflect'), nn.Conv2d(8, 8, 3, padding='same')],
)
def test_from_dense_refuses_what_has_no_hetconv_form(conv):
    with pytest.raises(ValueError, match='HetConv form'):
        HetConv2d.from_dense(conv)


def test_from_dense_refuses_what_is_no_convolution():
    with pytest.raises(TypeError, match='not a Linear'):
        HetConv2d.from_dense(nn.Linear(3, 4))


def test_from_dense_refuses_an_unknown_projection():
    with pytest.raises(ValueError, match='median'):
        HetConv2d.from_dense(nn.Conv2d(8, 8, 3), projection='median')


def test_rivals_are_their_two_stages():
    x = torch.randn(2, 8, 9, 9)
    for layer, groups in ((GWCPWC2d(8, 16, stride=2, groups=4), 4), (DWCPWC2d(8, 16, stride=2), 8)):
        assert layer.gwc.groups == groups
        assert layer.gwc.weight.numel() + layer.pwc.weight.numel() == 8 * 8 * 9 // groups + 8 * 16
        assert layer(x).shape == (2, 16, 5, 5)
    with pytest.raises(ValueError, match='groups=3'):
        GWCPWC2d(8, 16, groups=3)


def test_pc_has_one_full_kernel_a_filter():
    layer = PC2d(8, 16)
    mask = layer.to_dense().weight.ne(0).sum((2, 3))
    assert (mask.eq(9).sum(1) == 1).all()
    assert (mask.eq(1).sum(1) == 7).all()
