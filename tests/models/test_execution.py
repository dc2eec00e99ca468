"""Compilation, channels last and recomputation do not change the results."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec
from gazelit.models.decoder import kernel_after_doubling
from gazelit.models.execution import Execution, apply_execution, reached, recomputed

SMALL = {
    "encoder": EncoderSpec("densenet-small"),
    "saliency_encoder": EncoderSpec("res-se", options={"widths": [4, 4, 8, 8, 8], "reduction": 4}),
    "decoder_widths": [8, 8, 8, 4, 4],
}
EVERY = ["encoder", "saliency_encoder", "decoder", "saliency_head", "classifier"]
SIZE = (64, 64)


def step(network):
    torch.manual_seed(3)
    outputs = network(torch.rand(4, 1, 64, 64, dtype=torch.float64))
    loss = outputs["saliency_logits"].square().mean() + outputs["logits"].square().mean()
    loss.backward()
    return (
        loss,
        {name: parameter.grad.clone() for name, parameter in network.named_parameters()},
        dict(network.named_buffers()),
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    # Dropout draws again in the recomputation, and must draw the same.
    return DualEncoderUNet(**SMALL, dropout=0.5).train()


@pytest.mark.parametrize(
    "execution",
    [
        Execution(recompute=EVERY[:3]),
        Execution(channels_last=True),
        Execution(compile=["saliency_head"]),
        Execution(merge_doubling=True),
        Execution(merge_doubling=True, recompute=EVERY[:3]),
    ],
    ids=["recompute", "channels_last", "compile", "merge_doubling", "merge_doubling and recompute"],
)
def test_loss_gradients_and_batchnorm_statistics_are_the_same(network, execution):
    # In float32, BatchNorm over few pixels enlarges the effect of another order of sums to a thousandth of a gradient.
    plain = copy.deepcopy(network.double())
    keys = list(network.state_dict())
    apply_execution(network.float(), execution, SIZE)
    network.double()
    assert list(network.state_dict()) == keys
    loss, gradients, buffers = step(network)
    expected_loss, expected_gradients, expected_buffers = step(plain)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item() + 1e-7), (
            name
        )
    for name, buffer in expected_buffers.items():
        assert torch.allclose(buffers[name], buffer, rtol=1e-6, atol=1e-9), name


def saved_bytes(network):
    """Bytes that are kept for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(torch.rand(4, 1, 64, 64))
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    size = sum(count for pointer, count in kept.items() if pointer not in parameters)
    assert outputs
    return size


@pytest.mark.parametrize("name", ["densenet-small", "resnet18", "tu-vit_tiny_patch16_224"])
def test_recomputation_keeps_less_for_the_backward_pass(name):
    network = ContrastiveNetwork(EncoderSpec(name)).train()
    before = saved_bytes(network)
    apply_execution(network, Execution(recompute=["encoder"]), SIZE)
    assert saved_bytes(network) < 0.6 * before


def test_recomputed_parts_of_a_batch_have_the_whole_batchs_gradient():
    torch.manual_seed(0)
    network = ContrastiveNetwork(EncoderSpec("densenet-small"), projection=4).eval()
    image = torch.rand(6, 1, 64, 64)
    network(image)["embedding"].square().sum().backward()
    expected = [weight.grad.clone() for weight in network.parameters()]
    network.zero_grad()
    parts = [recomputed(lambda part: network(part)["embedding"], [network], part) for part in image.split(2)]
    torch.cat(parts).square().sum().backward()
    for gradient, parameter in zip(expected, network.parameters(), strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_copy_recomputes_with_its_own_weights(network):
    apply_execution(network, Execution(recompute=["encoder"]), SIZE)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert twin(torch.rand(2, 1, 64, 64))["logits"].abs().max() > 0


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (Execution(compile=["backbone"]), r"execution\.compile: no component backbone"),
        (Execution(recompute=["side"]), r"execution\.recompute: no component side"),
    ],
)
def test_unknown_components(network, execution, message):
    with pytest.raises(InputError, match=message):
        apply_execution(network, execution, SIZE)


def test_parameters_without_a_way_to_the_outputs():
    alone = DualEncoderUNet(**SMALL, classes=None)
    alone.encoder.requires_grad_(False)
    modes = {module: module.training for module in alone.modules()}
    # Without a classifier, no output depends on norm5. What is frozen counts as the rest.
    found = {name for name, _ in alone.named_parameters()} - reached(alone, "saliency_logits", SIZE)
    assert found == {f"encoder.features.norm5.{name}" for name, _ in alone.encoder.features.norm5.named_parameters()}
    whole = DualEncoderUNet(**SMALL)
    assert reached(whole, "", SIZE) == {name for name, _ in whole.named_parameters()}
    assert all(module.training == mode for module, mode in modes.items())
    assert not any(parameter.requires_grad for parameter in alone.encoder.parameters())


def test_a_coarsest_map_that_no_step_takes_is_found_unreached():
    network = DualEncoderUNet(SMALL["encoder"], EncoderSpec("resnet18"), [8, 8, 8, 4, 4])
    found = {name for name, _ in network.named_parameters()} - reached(network, "", SIZE)
    assert found
    assert all(name.startswith("saliency_encoder.body.layer4.") for name in found)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 6)])
def test_doubling_and_convolution_merged_equal_both_apart_up_to_the_border(size):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    apart = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    together = F.conv_transpose2d(x, kernel_after_doubling(weight), stride=2, padding=1)
    assert torch.allclose(together, apart, rtol=1e-12, atol=1e-12)


def test_merging_saves_a_twelfth_of_the_papers_operations():
    def operations(merge: bool) -> float:
        with FakeTensorMode():
            network = DualEncoderUNet(EncoderSpec("paper-densenet201"), EncoderSpec("res-se")).eval()
            apply_execution(network, Execution(merge_doubling=merge), SIZE)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.zeros(1, 1, 640, 512))
        return counter.get_total_flops()

    assert operations(True) / operations(False) == pytest.approx(1 - 0.084, abs=2e-3)


def test_a_network_without_a_decoder_has_nothing_to_merge():
    network = ContrastiveNetwork(EncoderSpec("densenet-small"))
    with pytest.raises(InputError, match="merge_doubling: the network has no decoder"):
        apply_execution(network, Execution(merge_doubling=True), SIZE)
