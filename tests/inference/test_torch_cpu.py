"""The CPU kernel in eager PyTorch: equal to PyTorch's own operators, taken only where it should be, never stale."""

import copy
import gc
import importlib.metadata
import pickle
import runpy
import threading
import weakref

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import timm_hetconv
from inference.kernels import cpu
from timm_hetconv import HetConv2d, cpu_kernel
from timm_hetconv.ops import hetconv2d

pytestmark = pytest.mark.skipif(not cpu.is_built(), reason='the CPU kernels are not built')


def channels_last(*shape, **kwargs):
    return torch.randn(shape, **kwargs).contiguous(memory_format=torch.channels_last)


def own(module, x):
    """The result of PyTorch's own operators."""
    timm_hetconv.set_cpu_kernel(False)
    try:
        return module(x)
    finally:
        timm_hetconv.set_cpu_kernel(True)


def assert_equal(y, expected, tolerance=1e-5):
    assert y.shape == expected.shape
    assert y.dim() != 4 or y.is_contiguous(memory_format=torch.channels_last)
    error = (y - expected).abs().max() / expected.abs().max()
    assert error < tolerance  # also false for NaN


def count_calls(monkeypatch):
    """A list that grows by one with each call of the kernel by a HetConv2d."""
    from inference.torch_cpu import conv2d

    calls = []
    monkeypatch.setattr(cpu_kernel, '_load', lambda: lambda *args: (calls.append(args[0].shape), conv2d(*args))[1])
    return calls


@pytest.fixture
def calls(monkeypatch):
    return count_calls(monkeypatch)


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def layer():
    return HetConv2d(16, 24).eval()


@pytest.fixture
def x():
    return channels_last(2, 16, 9, 10)


def test_the_entry_point_is_found(layer, x):
    import inference.torch_cpu

    assert cpu_kernel._load() is inference.torch_cpu.conv2d
    with torch.no_grad():
        layer(x)
    assert id(layer.weight) in inference.torch_cpu._layers


odd = st.sampled_from([1, 3, 5])
small = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equals_pytorchs_own_operators(data):
    part = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    kernel = data.draw(st.tuples(odd, odd).filter(lambda k: k != (1, 1)))
    channels = [part * data.draw(st.integers(1, 5)) for _ in range(2)]
    layer = HetConv2d(
        *channels, kernel, data.draw(small), None, data.draw(small), part, data.draw(st.booleans())
    ).eval()
    size = [data.draw(st.integers(1, 20)) for _ in range(2)]
    x = channels_last(data.draw(st.integers(0, 3)), channels[0], *size)
    torch.set_num_threads(data.draw(st.integers(1, 2)))
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        expected = own(layer, x)
        calls = count_calls(patch)
        y = layer(x)
    assert len(calls) == (x.numel() > 0 and not x.is_contiguous())
    if calls:
        assert_equal(y, expected)
    else:
        assert torch.equal(y, expected)


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    'name', ['hetconv_resnet20_cifar_p4_se', 'hetconv_vgg16_cifar_p8', 'hetconv_mobilenet_cifar_p4']
)
def test_a_registered_model(calls, name, mode):
    model = timm.create_model(name).eval().to(memory_format=torch.channels_last)
    for norm in model.modules():  # a residual branch starts at zero, and would show nothing
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = channels_last(2, 3, 32, 32)
    with mode():
        y, expected = model(x), own(model, x)
    assert_equal(y, expected, 1e-4)
    assert len(calls) > 0.5 * sum(isinstance(module, HetConv2d) for module in model.modules())


CHANGES = {
    'in place': lambda layer: layer.weight_kxk.mul_(2),
    'bias': lambda layer: layer.bias.add_(1),
    'by an optimizer': lambda layer: optimizer_step(layer),
    'reloaded': lambda layer: layer.load_state_dict(HetConv2d(16, 24).state_dict()),
    'assigned': lambda layer: layer.load_state_dict(HetConv2d(16, 24).state_dict(), assign=True),
    'data swapped': lambda layer: setattr(layer.weight, 'data', layer.weight * 2),
    'data swapped twice': lambda layer: [setattr(layer.weight, 'data', layer.weight * 2) for _ in range(2)],
    'one number through .data': lambda layer: layer.weight_kxk.data[-1, -1, -1].add_(1),
    'two numbers exchanged': lambda layer: layer.weight.data.copy_(layer.weight.data.flip(0)),
    'through NumPy': lambda layer: layer.weight.detach().numpy().__setitem__((0, 0), 9),
    'a new parameter': lambda layer: setattr(layer, 'weight', nn.Parameter(layer.weight * 2)),
    'no bias': lambda layer: setattr(layer, 'bias', None),
    'dilation': lambda layer: (setattr(layer, 'dilation', (2, 2)), setattr(layer, 'padding', (2, 2))),
}


@torch.no_grad()
def test_what_was_packed_from_may_be_gone():
    """Weights that stay what they are, at another address: the old one is somebody else's by then."""
    layer = HetConv2d(64, 64).eval()
    for size in (56, 2):  # each on another algorithm, which is packed when it is first used
        x = channels_last(1, 64, size, size)
        assert_equal(layer(x), own(layer, x))
        for parameter in layer.parameters():
            old = parameter.data
            parameter.data = old.clone()
            old.fill_(7)


def optimizer_step(layer):
    with torch.enable_grad():
        layer(torch.randn(1, 16, 5, 5)).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()


@pytest.mark.parametrize('made_in', [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize('change', CHANGES)
def test_changed_weights_are_seen(calls, x, change, made_in):
    with made_in():
        layer = HetConv2d(16, 24).eval()
    mode = torch.inference_mode if made_in is torch.inference_mode else torch.no_grad
    if change == 'by an optimizer' and mode is torch.inference_mode:
        pytest.skip('such a layer cannot learn')
    with mode():
        before = layer(x)
        CHANGES[change](layer)
        after = layer(x)
        assert not torch.equal(after, before)
        assert_equal(after, own(layer, x))
    assert len(calls) == 2


def test_weights_are_packed_once(layer, x):
    from inference.torch_cpu import _layers

    with torch.no_grad():
        layer(x)
        packed = _layers[id(layer.weight)].layer
        layer(x[:1])
        assert _layers[id(layer.weight)].layer is packed
        layer.weight.add_(1)
        layer(x)
        assert _layers[id(layer.weight)].layer is not packed


@pytest.mark.parametrize('twin_of', [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_weights_of_their_own(calls, layer, x, twin_of):
    with torch.no_grad():
        y = layer(x)
        twin = twin_of(layer)
        assert torch.equal(twin(x), y)
        twin.weight.zero_()
        assert_equal(twin(x), own(twin, x))
        assert torch.equal(layer(x), y)
    assert len(calls) == 4


def test_nothing_outlives_the_module(x):
    from inference.torch_cpu import _layers

    layer = HetConv2d(16, 24).eval()
    with torch.no_grad():
        layer(x)
    name, packed = id(layer.weight), weakref.ref(_layers[id(layer.weight)].layer)
    assert packed() is not None
    del layer
    gc.collect()
    assert packed() is None
    assert name not in _layers


def test_threads_at_once(calls, x):
    """Also the first time, when the weights are packed, and while another layer comes and goes."""
    layers = [HetConv2d(16, 32, part=part).eval() for part in (2, 4, 8, 16)]
    inputs = [channels_last(1, 16, size, size) for size in (5, 9, 24)]
    wrong = []
    with torch.no_grad():
        expected = [[own(layer, x) for x in inputs] for layer in layers]

    def run(seed):
        with torch.inference_mode():
            for turn in range(30):
                i, k = (seed + turn) % 4, turn % 3
                y = (copy.deepcopy(layers[i]) if turn % 5 == 4 else layers[i])(inputs[k])
                if not (y - expected[i][k]).abs().max() < 1e-4:
                    wrong.append((i, k))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(calls) == 90


OWN = {
    'training': lambda layer, x: layer.train()(x),
    'autocast': lambda layer, x: torch.autocast('cpu', torch.bfloat16)(layer)(x),
    'double': lambda layer, x: layer.double()(x.double()),
    'bfloat16': lambda layer, x: layer.bfloat16()(x.bfloat16()),
    'contiguous': lambda layer, x: layer(x.contiguous()),
    'neither format': lambda layer, x: layer(x[:, :, ::2, ::2]),
    'meta': lambda layer, x: layer.to('meta')(x.to('meta')),
    'an empty batch': lambda layer, x: layer(x[:0]),
    'one image without a batch': lambda layer, x: layer(x[0]),
    'padding': lambda layer, x: HetConv2d(16, 24, padding=0).eval()(x),
    'turned off': own,
    'parametrized': lambda layer, x: nn.utils.parametrizations.weight_norm(layer)(x),
    'functional_call': lambda layer, x: torch.func.functional_call(
        layer, dict(layer.named_buffers()) | twice(layer), x
    ),
    'a subclass of Tensor': lambda layer, x: layer(x.as_subclass(Marked)),
    'forward AD': lambda layer, x: dual_numbers(layer, x),
    'vmap': lambda layer, x: torch.func.vmap(layer)(x[:, None]),
    'traced': lambda layer, x: torch.jit.trace(layer, x, check_trace=False)(x),
    'scripted': lambda layer, x: torch.jit.script(layer)(x),
    'compiled': lambda layer, x: torch.compile(layer, fullgraph=True, backend='aot_eager')(x),
    'make_fx': lambda layer, x: torch.fx.experimental.proxy_tensor.make_fx(layer)(x),
}


class Marked(torch.Tensor):
    pass


def dual_numbers(layer, x):
    with torch.autograd.forward_ad.dual_level():
        layer(torch.autograd.forward_ad.make_dual(x, x))


def twice(layer):
    return {name: parameter * 2 for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize('case', OWN)
def test_what_is_left_to_pytorchs_own_operators(calls, layer, x, case):
    with torch.no_grad():
        layer(x)
        assert len(calls) == 1, 'it is taken otherwise'
        OWN[case](layer, x)
    assert len(calls) == 1


@pytest.mark.parametrize('strict', [True, False])
def test_export_has_the_same_node_as_ever(calls, layer, x, strict):
    with torch.no_grad():
        program = torch.export.export(layer, (x,), strict=strict)
        assert not calls
        assert [n.target for n in program.graph.nodes if n.op == 'call_function'] == [torch.ops.hetconv.conv2d.default]
        assert_equal(program.module()(x), layer(x))


def test_wrong_channels_are_pytorchs_own_error(layer):
    with torch.no_grad(), pytest.raises(RuntimeError, match='to have 16 channels'):
        layer(channels_last(1, 20, 9, 9))


def arguments(layer, x):
    weights = [parameter.detach() for parameter in (layer.weight, layer.weight_kxk, layer.bias)]
    return x, *weights, *([*pair] for pair in (layer.kernel_size, layer.stride, layer.padding, layer.dilation))


def test_operator_passes_torchs_own_checks(layer, x):
    operator = torch.ops.hetconv.conv2d_cpu.default
    torch.library.opcheck(operator, arguments(layer, x))
    torch.library.opcheck(operator, arguments(HetConv2d(16, 8, stride=2, dilation=3), x[:0]))


def test_operator_takes_any_layout(layer, x):
    from inference.torch_cpu import conv2d

    x, weight, weight_kxk, bias, *geometry = arguments(layer, x)
    strided = [t.repeat_interleave(2, 1)[:, ::2] for t in (x, weight, weight_kxk)]
    for _ in range(2):
        expected = hetconv2d(*strided, bias, *geometry)
        assert_equal(conv2d(*strided, bias.repeat_interleave(2)[::2], *geometry), expected)
        assert_equal(conv2d(strided[0].contiguous(), *strided[1:], bias, *geometry), expected)
        strided[1][-1, -1] += 1  # is seen as well


def test_operator_refuses_what_it_cannot(layer, x):
    from inference.torch_cpu import conv2d

    x, weight, weight_kxk, bias, *geometry = arguments(layer, x)
    with pytest.raises(ValueError, match='float32'):
        conv2d(x.double(), weight, weight_kxk, bias, *geometry)
    with pytest.raises(RuntimeError, match='no gradient'):
        torch.ops.hetconv.conv2d_cpu(x.requires_grad_(), weight, weight_kxk, bias, *geometry)
    x = x.detach()
    with pytest.raises(ValueError, match='does not fit'):
        conv2d(x[:, :12], weight, weight_kxk, bias, *geometry)
    with pytest.raises(ValueError, match=r'must be \(24'):
        conv2d(x, weight, weight_kxk, bias[:-1], *geometry)
    with pytest.raises(ValueError, match=r'must be \(24'):
        conv2d(x, weight[:-1], weight_kxk, bias, *geometry)


def test_flops_are_those_of_the_other_operator(layer, x):
    from inference.torch_cpu import conv2d

    flops = []
    for operator in (conv2d, torch.ops.hetconv.conv2d):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            operator(*arguments(layer, x))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


def test_without_openmp_threads_are_its_own(monkeypatch, layer, x):
    import inference.torch_cpu

    assert inference.torch_cpu.OPENMP
    with torch.no_grad():
        y = layer(x)
        monkeypatch.setattr(inference.torch_cpu, 'OPENMP', None)
        torch.set_num_threads(3)
        assert torch.equal(layer(x), y)


@pytest.mark.parametrize(('value', 'used'), [('0', False), ('1', True), (None, True)])
def test_the_environment_turns_it_off(monkeypatch, value, used):
    if value is None:
        monkeypatch.delenv('HETCONV_CPU_KERNEL', raising=False)
    else:
        monkeypatch.setenv('HETCONV_CPU_KERNEL', value)
    assert runpy.run_path(cpu_kernel.__file__)['use_cpu_kernel']() is used


@pytest.mark.parametrize('error', [ImportError, OSError, RuntimeError])
def test_a_kernel_that_does_not_load_is_passed_over(monkeypatch, layer, x, error, recwarn):
    class Broken:
        def load(self):
            raise error

    expected = own(layer, x)
    looked = []
    monkeypatch.setattr(importlib.metadata, 'entry_points', lambda **kwargs: looked.append(kwargs) or [Broken()])
    monkeypatch.setattr(cpu_kernel, '_load', cpu_kernel._load.__wrapped__)
    with torch.no_grad():
        assert torch.equal(layer(x), expected)
    assert looked == [{'group': 'timm_hetconv.kernels', 'name': 'cpu'}]
    assert not recwarn
