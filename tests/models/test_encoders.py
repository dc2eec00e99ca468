"""Encoders: the contract, the registry, and weights."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, EncoderSpec, build_encoder, list_encoders, register_encoder
from gazelit.models.registry import load_pretrained
from gazelit.models.res_se import SqueezeExcitation


@pytest.mark.parametrize(
    "name", ["densenet-small", "res-se", "resnet18", "efficientnet-b0", "tu-convnext_atto", "mit_b0"]
)
def test_contract(name):
    options = {"widths": [4, 4, 8], "reduction": 4} if name == "res-se" else {}
    encoder = build_encoder(EncoderSpec(name, options=options)).eval()
    features = encoder(torch.rand(2, 1, 64, 96))
    shapes = [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.out_channels, encoder.strides, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == shapes
    assert encoder.strides == sorted(encoder.strides)
    assert encoder.embed(features).shape == (2, encoder.embedding_channels)


def seen_by(module, run):
    """The inputs of a module while ``run`` is called."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[0]


def torchvisions_densenet(encoder, classes=3):
    """torchvision's own DenseNet, small, with an encoder's weights."""
    library = torchvision.models.DenseNet(16, (2, 4, 4, 3), 16, num_classes=classes).eval()
    library.features.load_state_dict(encoder.features.state_dict())
    return library


def test_finding_a1_the_embedding_is_what_torchvisions_classifier_sees():
    torch.manual_seed(0)
    encoder = build_encoder(EncoderSpec("densenet-small")).eval()
    library = torchvisions_densenet(encoder)
    image = torch.rand(2, 1, 64, 64)
    bottleneck = seen_by(library.features.norm5, lambda: library(image.repeat(1, 3, 1, 1)))
    expected = seen_by(library.classifier, lambda: library(image.repeat(1, 3, 1, 1)))
    with torch.no_grad():
        features = encoder(image)
        assert torch.allclose(features[-1], bottleneck)
        assert torch.allclose(encoder.embed(features), expected, atol=1e-6)
        contrastive = ContrastiveNetwork(EncoderSpec("densenet-small")).eval()
        contrastive.encoder.load_state_dict(encoder.state_dict())
        assert torch.allclose(contrastive(image)["embedding"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "head"), [("densenet121", "classifier"), ("resnet18", "fc"), ("mobilenet_v2", "classifier")]
)
def test_finding_a1_library_encoders_embed_what_torchvisions_classifier_sees(name, head):
    torch.manual_seed(0)
    library = torchvision.models.get_model(name, weights=None).eval()
    encoder = build_encoder(EncoderSpec(name)).eval()
    state = encoder.from_file(library.state_dict())
    first = next(key for key in state if key.endswith("weight"))
    state[first] = state[first].sum(1, keepdim=True)
    encoder.body.load_state_dict(state)
    image = torch.rand(2, 1, 64, 64)
    expected = seen_by(library.get_submodule(head), lambda: library(image.repeat(1, 3, 1, 1)))
    with torch.no_grad():
        assert torch.allclose(encoder.embed(encoder(image)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet10t", "densenet121", "regnetx_002", "mobilevit_xxs", "pvt_v2_b0", "repvit_m0_9"]
)
def test_finding_a1_timm_encoders_embed_what_timms_classifier_sees(name):
    torch.manual_seed(0)
    library = timm.create_model(name, in_chans=1).eval()
    encoder = build_encoder(EncoderSpec(f"tu-{name}")).eval()
    encoder.body.load_state_dict(encoder.from_file(library.state_dict()))
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = library.forward_head(library.forward_features(image), pre_logits=True)
        assert torch.allclose(encoder.embed(encoder(image)), expected, atol=1e-5)


def test_a_timm_model_that_computes_while_it_is_built_takes_weights_and_draws_no_random_numbers(monkeypatch):
    library, create = timm.create_model("resnet10t", in_chans=1), timm.create_model
    encoder = build_encoder(EncoderSpec("tu-resnet10t"))

    def computing(name, **options):
        # Older timm computes rates of stochastic depth in this way, which fails on the meta device.
        torch.linspace(0, 0.1, 3).tolist()
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", computing)
    before = torch.get_rng_state()
    encoder.body.load_state_dict(encoder.from_file(library.state_dict()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(encoder.body.state_dict()["model.conv1.0.weight"], library.conv1[0].weight)


def test_paper_encoder_has_torchvisions_keys():
    with torch.device("meta"):
        ours = build_encoder(EncoderSpec("paper-densenet201")).state_dict()
        published = torchvision.models.densenet201().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in published.items() if key.startswith("features.")
    }


def test_squeeze_excitation_is_its_formula():
    torch.manual_seed(0)
    module = SqueezeExcitation(8, 4)
    x = torch.randn(3, 8, 5, 6)
    first, second = module.fc[0].weight, module.fc[2].weight
    gate = torch.sigmoid(torch.relu(x.mean((2, 3)) @ first.T) @ second.T)
    assert torch.allclose(module(x), x * gate[..., None, None])


def test_ablations_of_the_saliency_encoder_drop_their_parts():
    def count(**options):
        encoder = build_encoder(EncoderSpec("res-se", options={"widths": [4, 8], "reduction": 4, **options}))
        return sum(parameter.numel() for parameter in encoder.parameters())

    # Shortcuts: 3×3 convolutions 1→4 and 4→8 with bias; gates: 2·c·(c/4).
    assert count() - count(residual=False) == (9 * 4 + 4) + (9 * 32 + 8)
    assert count() - count(squeeze_excitation=False) == 2 * 4 * 1 + 2 * 8 * 2


def test_unknown_names_suggest_close_ones():
    with pytest.raises(InputError, match="resnet18"):
        build_encoder(EncoderSpec("resnet17"))


def test_unknown_options_are_named():
    with pytest.raises(InputError, match="growth"):
        build_encoder(EncoderSpec("densenet-small", options={"growth": 3}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet18",
            {"depth": 9},
            r"encoder 'resnet18': options do not fit: .*depth should be in range \[1, 5\], got 9",
        ),
        ("tu-resnet10t", {"depth": 9}, r"options do not fit: .*depth should be in range \[1, 5\], got 9"),
        ("tu-vit_tiny_patch16_224", {"breadth": 9}, "options do not fit: .*breadth"),
        ("resnet18", {"input_range": [0]}, "^input_range: give two values"),
        ("tu-vit_tiny_patch16_224", {"input_range": [0]}, "^input_range: give two values"),
    ],
)
def test_options_that_do_not_fit_are_one_line(name, options, message):
    with pytest.raises(InputError, match=message):
        build_encoder(EncoderSpec(name, options=options))


def test_a_swin_names_the_option_for_images_of_another_size():
    options = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "window_size": 2}
    name, image = "tu-swin_tiny_patch4_window7_224", torch.rand(1, 1, 64, 96)
    with pytest.raises(
        InputError, match=r"made for images of 64 × 64, not 64 × 96; set its options\.img_size=\[64, 96\]"
    ):
        build_encoder(EncoderSpec(name, options={**options, "img_size": 64}))(image)
    maps = build_encoder(EncoderSpec(name, options={**options, "img_size": [64, 96]}))(image)
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_registering_a_taken_name_is_an_error():
    with pytest.raises(ValueError, match="registered already"):
        register_encoder("res-se")(lambda: None)


def test_listing_filters_and_puts_own_names_first():
    assert list_encoders("densenet")[:2] == ["densenet-small", "paper-densenet201"]
    assert "tu-resnet18" in list_encoders("resnet18")


class Outside(nn.Module):
    """A user's encoder with segmentation-models-pytorch's contract."""

    out_channels = (1, 6, 12)

    def __init__(self, width=6):
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.two = nn.Conv2d(width, 12, 3, stride=2, padding=1)

    def forward(self, x):
        first = self.one(x)
        return [x, first, self.two(first)]


def test_a_class_by_path_needs_no_registration():
    encoder = build_encoder(EncoderSpec(f"{__name__}:Outside")) if __name__ != "__main__" else None
    assert (encoder.out_channels, encoder.strides) == ([6, 12], [2, 4])


def test_a_class_that_breaks_the_contract_says_so():
    with pytest.raises(InputError, match="breaks the contract"):
        build_encoder(EncoderSpec("torch.nn:ReLU"))


def test_a_local_weight_file_is_loaded_with_its_head_left_out(tmp_path):
    torch.manual_seed(0)
    source = torchvision.models.resnet18(num_classes=5)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}},
        tmp_path / "w.pth",
    )
    spec = EncoderSpec("resnet18", weights=str(tmp_path / "w.pth"))
    encoder = build_encoder(spec)
    load_pretrained(encoder, spec)
    image = torch.rand(1, 1, 64, 64)
    # Three summed channels of the first convolution equal the grey image repeated.
    expected = source.eval().conv1(image.repeat(1, 3, 1, 1))
    assert torch.allclose(encoder.body.conv1(image), expected, atol=1e-5)
    assert torch.equal(encoder.body.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


@pytest.mark.parametrize("content", [b"noise", None])
def test_weight_files_that_do_not_fit_say_what_is_wrong(tmp_path, content):
    path = tmp_path / "w.pth"
    if content:
        path.write_bytes(content)
    else:
        torch.save({"conv1.weight": torch.zeros(3)}, path)
    spec = EncoderSpec("resnet18", weights=str(path))
    with pytest.raises(InputError, match=r"w\.pth: (not a readable checkpoint|the weight file does not fit)"):
        load_pretrained(build_encoder(spec), spec)


def test_missing_weight_file():
    spec = EncoderSpec("resnet18", weights="nowhere.pth")
    with pytest.raises(InputError, match="no such file"):
        load_pretrained(build_encoder(spec), spec)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.densenet201", offline)
    spec = EncoderSpec("paper-densenet201", weights="imagenet")
    with torch.device("meta"):
        encoder = build_encoder(spec)
    with pytest.raises(InputError, match="local weight file, or weights: null"):
        load_pretrained(encoder, spec)


def test_imagenet_weights_of_the_paper_encoder_are_torchvisions(monkeypatch):
    torch.manual_seed(1)
    published = torchvision.models.densenet201(weights=None)
    monkeypatch.setattr("torchvision.models.densenet201", lambda weights: published)
    spec = EncoderSpec("paper-densenet201", weights="imagenet")
    encoder = build_encoder(spec)
    load_pretrained(encoder, spec)
    assert torch.equal(encoder.features.conv0.weight, published.features.conv0.weight)
    assert torch.equal(encoder.features.norm5.running_var, published.features.norm5.running_var)


def test_the_catalogue_describes_encoders(run_gazelit, capfd):
    from gazelit.cli.main import main

    assert main(["encoders", "paper-densenet201"]) == 0
    printed = capfd.readouterr().out
    # The encoder's published number of parameters, from paper.md.
    assert "18,092,928" in printed
    assert main(["encoders"]) == 0
    names = capfd.readouterr().out.splitlines()
    assert {"res-se", "resnet18", "tu-convnext_tiny"} <= set(names)
    assert "no encoder's name contains 'zzz'" in run_gazelit("encoders", "zzz", code=2)


@pytest.mark.parametrize("name", ["densenet-small", "resnet18", "tu-resnet10t"])
def test_a_card_describes_the_encoders_outputs(name):
    from gazelit.models.catalogue import describe

    card, encoder = describe(name), build_encoder({"name": name})
    maps = encoder(torch.zeros(1, 1, 64, 64))
    assert card.channels == [map_.shape[1] for map_ in maps]
    assert card.strides == [64 // level.shape[-1] for level in maps]
    assert card.parameters == sum(parameter.numel() for parameter in encoder.parameters())


def test_weights_are_available_when_their_file_is_in_the_cache(tmp_path, monkeypatch):
    from gazelit.models.catalogue import describe

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert describe("paper-densenet201").weights == "to be fetched"
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "densenet201-c1103571.pth").touch()
    assert describe("paper-densenet201").weights == "at hand"
    assert describe("densenet-small").weights == "none"


def test_a_plain_transformer_is_a_pyramid_for_any_size():
    encoder = build_encoder(EncoderSpec("tu-vit_tiny_patch16_224")).eval()
    image = torch.rand(2, 1, 96, 64)
    features = encoder(image)
    assert [tuple(feature.shape) for feature in features] == [
        (2, 48, 24, 16),
        (2, 96, 12, 8),
        (2, 192, 6, 4),
        (2, 192, 3, 2),
    ]
    # The map at stride 16 is timm's own tokens, row by row; the class token is left out.
    tokens = encoder.body.forward_features(image)[:, 1:]
    assert torch.allclose(features[2][1, :, 4, 3], tokens[1, 4 * 4 + 3])
    assert torch.allclose(encoder.embed(features), tokens.mean(1), atol=1e-6)
    assert torch.equal(features[3], torch.nn.functional.max_pool2d(features[2], 2))


@pytest.mark.parametrize("options", [{}, {"patch_size": 16}])
def test_transformers_may_have_other_patches(options):
    spec = EncoderSpec("tu-vit_small_patch14_dinov2", options={"depth": 1, "img_size": 56, **options})
    encoder = build_encoder(spec).eval()
    assert encoder.strides == [4, 8, 16, 32]
    with torch.no_grad():
        assert [tuple(map_.shape[2:]) for map_ in encoder(torch.rand(1, 1, 64, 32))] == [
            (16, 8),
            (8, 4),
            (4, 2),
            (2, 1),
        ]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "resnet10t"])
def test_a_whole_timm_checkpoint_gives_timms_own_features(name, tmp_path):
    torch.manual_seed(0)
    published = timm.create_model(name, num_classes=1000).eval()
    torch.save({"state_dict": published.state_dict()}, tmp_path / "w.pth")
    spec = EncoderSpec(f"tu-{name}", weights=str(tmp_path / "w.pth"))
    encoder = build_encoder(spec).eval()
    load_pretrained(encoder, spec)
    image = torch.rand(1, 1, 224, 224)
    # timm's model sees the grey image three times.
    features = published.forward_features(image.expand(-1, 3, -1, -1))
    if name.startswith("vit"):
        features = features[:, 1:].transpose(1, 2).reshape(1, -1, 14, 14)
        ours = encoder(image)[2]
    else:
        ours = encoder(image)[-1]
    if name == "convnext_atto":
        # The last normalisation of the model comes after the pyramid.
        features = published.stages(published.stem(image.expand(-1, 3, -1, -1)))
    assert torch.allclose(ours, features, atol=1e-4)


class _ChestDenseNet(nn.Module):
    """A DenseNet-121 as torchxrayvision saves it: one grey channel, a head of 18, thresholds, pickled whole."""

    def __init__(self):
        super().__init__()
        self.features = torchvision.models.densenet121().features
        self.features.conv0 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.classifier = nn.Linear(1024, 18)
        self.register_buffer("op_threshs", torch.rand(18))

    def __reduce_ex__(self, protocol):
        _ChestDenseNet.pickled = True
        return super().__reduce_ex__(protocol)

    def __setstate__(self, state):
        raise AssertionError("code of the file must not run")


@pytest.mark.parametrize("legacy", [False, True])
def test_torchxrayvisions_pickled_model_is_read_without_running_its_code(legacy, tmp_path):
    torch.manual_seed(0)
    published = _ChestDenseNet().eval()
    torch.save(published, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    spec = EncoderSpec("densenet121", str(tmp_path / "w.pt"), {"input_range": [-1024, 1024]})
    encoder = build_encoder(spec).eval()
    load_pretrained(encoder, spec)
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        features = encoder(image)
        expected = published.features(image * 2048 - 1024)
        assert torch.allclose(features[-1], expected, atol=1e-4)
        # torchxrayvision's classifier sees the mean after ReLU (its ``features2``).
        assert torch.allclose(encoder.embed(features), expected.relu().mean((2, 3)), atol=1e-4)


class _Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file has run')",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": _Evil()}, tmp_path / "w.pt")
    spec = EncoderSpec("resnet18", weights=str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match=r"w\.pt: (holds no state dict|not a readable checkpoint)"):
        load_pretrained(build_encoder(spec), spec)
