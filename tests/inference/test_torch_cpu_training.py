"""Training on the CPU kernels in eager PyTorch: gradients of PyTorch's own operators, wherever autograd is used."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import timm_hetconv
from inference.kernels import cpu
from timm_hetconv import HetConv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')

odd = st.sampled_from([1, 3, 5])
small = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """A list of the kernels that have run."""
    return count_calls(monkeypatch)


def count_calls(monkeypatch):
    import inference.torch_cpu_training as module

    names = []
    for name in ('forward', 'input_gradient', 'weight_gradient'):
        kernel = getattr(module, name)
        counted = lambda *args, kernel=kernel, name=name: (names.append(name), kernel(*args))[1]  # noqa: E731
        monkeypatch.setattr(module, name, counted)
    return names


ALL = ['forward', 'weight_gradient', 'input_gradient']


def channels_last(*shape, **kwargs):
    return torch.randn(shape, **kwargs).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def layer():
    return HetConv2d(16, 24)


@pytest.fixture
def x():
    return channels_last(2, 16, 9, 10)


def double(layer, x):
    return copy.deepcopy(layer).double(), x.detach().double().requires_grad_()


def assert_close(result, expected, tolerance=1e-5):
    assert result.shape == expected.shape
    error = (result - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error < tolerance  # also false for NaN


def gradients_of(layer, x):
    return [x.grad, *(parameter.grad for parameter in layer.parameters())]


GRADS = {
    'channels_last': lambda g: g.contiguous(memory_format=torch.channels_last),
    'contiguous': lambda g: g.contiguous(),
    'expanded': lambda g: g[:1, :1, :1, :1].expand(g.shape),
    'sliced': lambda g: g.repeat_interleave(2, 1).repeat_interleave(2, 3)[:, ::2, :, ::2],
}


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_gradients_equal_those_in_double(data):
    part = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    kernel = data.draw(st.tuples(odd, odd).filter(lambda k: k != (1, 1)))
    channels = [part * data.draw(st.integers(1, 5)) for _ in range(2)]
    stride = data.draw(st.just((1, 1)) | small)
    layer = HetConv2d(*channels, kernel, stride, None, data.draw(small), part, data.draw(st.booleans()))
    x = channels_last(data.draw(st.integers(1, 3)), channels[0], *(data.draw(st.integers(1, 20)) for _ in range(2)))
    x.requires_grad_()
    oracle, exact_x = double(layer, x)
    with pytest.MonkeyPatch.context() as patch:
        calls = count_calls(patch)
        y, exact = layer(x), oracle(exact_x)
        grad = GRADS[data.draw(st.sampled_from(list(GRADS)))](torch.randn(y.shape))
        y.backward(grad)
    exact.backward(grad.double())
    if not x.is_contiguous():  # else it cannot be told which format it has
        assert set(calls) == set(ALL if layer.stride == (1, 1) else ALL[:2])
    assert_close(y, exact)
    for result, expected in zip(gradients_of(layer, x), gradients_of(oracle, exact_x)):
        assert_close(result, expected)


@pytest.mark.parametrize('learns', ['x', 'weight', 'weight_kxk', 'bias'])
def test_one_gradient_alone(calls, layer, x, learns):
    layer.requires_grad_(False)
    tensor = x if learns == 'x' else getattr(layer, learns)
    tensor.requires_grad_()
    oracle, exact_x = double(layer, x)
    layer(x).square().sum().backward()
    oracle(exact_x).square().sum().backward()
    assert_close(tensor.grad, exact_x.grad if learns == 'x' else getattr(oracle, learns).grad)
    others = [t for t in (x, *layer.parameters()) if t is not tensor]
    assert all(t.grad is None for t in others)
    kernels = {'x': ALL[2:], 'weight': ALL[1:2], 'weight_kxk': ALL[1:2], 'bias': []}[learns]
    assert calls == ['forward', *kernels]


def test_gradients_of_gradients(calls, layer, x):
    def penalty(layer, x):
        (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
        return gradients_of(layer, x)

    x.requires_grad_()
    oracle, exact_x = double(layer, x)
    for result, expected in zip(penalty(layer, x), penalty(oracle, exact_x)):
        assert_close(result, expected)
    assert calls[0] == 'forward'


def test_twice_through_one_graph(layer, x):
    y = layer(x).square().sum()
    y.backward(retain_graph=True)
    once = layer.weight.grad.clone()
    y.backward()
    assert torch.equal(layer.weight.grad, 2 * once)
    with pytest.raises(RuntimeError, match='second time'):
        y.backward()


def test_a_weight_changed_in_place_is_an_error(layer, x):
    y = layer(x).sum()
    with torch.no_grad():
        layer.weight_kxk.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.backward()


def test_many_gradients_at_once(calls, layer, x):
    y = layer(x)
    grads = torch.randn(3, *y.shape)
    together = torch.autograd.grad(y, list(layer.parameters()), grads, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        for one, all_of in zip(torch.autograd.grad(y, list(layer.parameters()), grads[i], retain_graph=True), together):
            assert_close(all_of[i], one)
    assert calls == ['forward', *ALL[1:2] * 3]


@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpoints(layer, x, reentrant):
    x.requires_grad_()
    oracle, exact_x = double(layer, x)
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    oracle(exact_x).square().sum().backward()
    for result, expected in zip(gradients_of(layer, x), gradients_of(oracle, exact_x)):
        assert_close(result, expected)


def test_saved_tensors_may_be_packed(layer, x):
    with torch.autograd.graph.save_on_cpu():
        y = layer(x)
    y.sum().backward()
    assert layer.weight.grad is not None


def test_gradients_lie_as_the_parameters(layer, x):
    """DistributedDataParallel and fused optimizers warn otherwise."""
    layer.to(memory_format=torch.channels_last)
    layer(x).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.stride() == parameter.stride()


def test_flops_of_both_directions_are_counted(layer, x):
    x.requires_grad_()
    with FlopCounterMode(display=False) as both:
        layer(x).sum().backward()
    y = layer(x).sum()
    with FlopCounterMode(display=False) as backward:
        y.backward()
    assert both.get_total_flops() == 3 * 2 * layer.fan_in * 24 * 2 * 9 * 10
    assert backward.get_total_flops() == both.get_total_flops() * 2 / 3


OWN = {
    'NCHW': lambda layer, x: layer(x.contiguous()),
    'autocast': lambda layer, x: torch.autocast('cpu', torch.bfloat16)(layer)(x),
    'double': lambda layer, x: layer.double()(x.double()),
    'padding': lambda layer, x: HetConv2d(16, 24, padding=0)(x),
    'compiled': lambda layer, x: torch.compile(layer, fullgraph=True, backend='aot_eager')(x),
    'scripted': lambda layer, x: torch.jit.script(layer)(x),
    'no gradient': lambda layer, x: torch.no_grad()(layer)(x),
    'turned off': lambda layer, x: turned_off(layer, x),
}


def turned_off(layer, x):
    timm_hetconv.set_cpu_kernel(False)
    try:
        return layer(x)
    finally:
        timm_hetconv.set_cpu_kernel(True)


@pytest.mark.parametrize('case', OWN)
def test_what_is_left_to_pytorchs_own_operators(calls, layer, x, case):
    layer(x)
    assert calls == ['forward'], 'it is taken otherwise'
    y = OWN[case](layer, x)
    if y.requires_grad:
        y.sum().backward()
    assert calls == ['forward']


def test_weights_need_not_be_parameters(calls, layer, x):
    layer = nn.utils.parametrizations.weight_norm(layer)
    layer(x).sum().backward()
    assert calls == ALL[:2]
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_shapes_that_do_not_fit_are_told(layer, x):
    from inference.torch_cpu import conv2d

    arguments = [layer.weight, layer.weight_kxk, layer.bias, (3, 3), (1, 1), (1, 1), (1, 1)]
    for i, wrong in ((0, layer.weight[:, :12]), (1, layer.weight_kxk[:-1]), (2, layer.bias[:-1])):
        with pytest.raises(ValueError, match='shapes do not fit'):
            conv2d(x, *arguments[:i], wrong, *arguments[i + 1 :])
    with pytest.raises(ValueError, match='shapes do not fit'):
        conv2d(x[0], *arguments)
    with pytest.raises(ValueError, match='float32'):
        conv2d(x.double(), *arguments)
    with pytest.raises(ValueError, match="'same' padding"):
        conv2d(x, *arguments[:5], (0, 0), (1, 1))


@pytest.mark.parametrize(('channels', 'batch', 'size'), [(16, 128, 32), (256, 16, 8)])
def test_it_is_as_exact_as_pytorchs_own_operators(channels, batch, size):
    """The algorithms that are chosen here: patches, on vectors of more than a group, and F(2x2,3x3)."""
    layer, x = HetConv2d(channels, channels, bias=False), channels_last(batch, channels, size, size).relu()
    grad = channels_last(batch, channels, size, size)
    results = []
    for dtype, run in ((torch.float64, HetConv2d.__call__), (torch.float32, HetConv2d.__call__), (None, turned_off)):
        twin, leaf = copy.deepcopy(layer).to(dtype), x.detach().clone().to(dtype).requires_grad_()
        y = run(twin, leaf)
        y.backward(grad.to(y.dtype))
        results.append([y.detach(), *gradients_of(twin, leaf)])
    for exact, kernel, own in zip(*results):
        assert (kernel - exact).norm() < 1.5 * (own - exact).norm()


def step(model, run):
    """All gradients of one step, in one vector of double precision."""
    x = channels_last(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(next(model.parameters()).dtype)
    nn.functional.cross_entropy(run(model, x), torch.arange(4)).backward()
    return torch.cat([parameter.grad.double().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize('name', ['hetconv_resnet20_cifar_p4_se', 'hetconv_mobilenet_cifar_p4', 'hetconv_resnet18_p4'])
def test_a_step_of_a_registered_model(calls, name):
    # Smooth activations: a ReLU may turn at its edge by the rounding of any operators, and gradients with it.
    model = timm.create_model(name, num_classes=10, act_layer=nn.SiLU).train().to(memory_format=torch.channels_last)
    for norm in model.modules():  # a residual branch starts at zero, and would show nothing
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    exact = step(copy.deepcopy(model).double(), nn.Module.__call__)
    own = step(copy.deepcopy(model), turned_off)
    assert not calls
    kernels = step(model, nn.Module.__call__)
    layers = sum(isinstance(module, HetConv2d) for module in model.modules())
    assert calls.count('forward') > 0.7 * layers
    assert calls.count('weight_gradient') == calls.count('forward')
    # Batch norms over few pixels amplify rounding, that of any operators.
    assert (kernels - exact).norm() < 2 * (own - exact).norm() < 1e-4 * exact.norm()


def test_a_library_from_before_is_passed_over(monkeypatch):
    from inference.kernels.cpu import training

    class Old:
        def __getitem__(self, name):
            raise AttributeError(f'undefined symbol: {name}')

    monkeypatch.setattr(training, '_functions', Old)
    monkeypatch.setattr(training, '_function', training._function.__wrapped__)
    with pytest.raises(AttributeError, match='hetconv_train'):
        training.check_library()
