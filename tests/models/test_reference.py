"""Importing the reference implementation's checkpoints, against outputs recorded from its own network."""

import re

import pytest
import torch
from torchvision.models import densenet201

from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.errors import InputError
from gazelit.models import ClassificationNetwork, DualEncoderUNet, EncoderSpec
from gazelit.models.reference import import_reference, load_reference
from gazelit.stages import JointFinetuning, SaliencyWarmup, SupervisedFinetuning
from tests.reference_files import RECORDED, film, joint_state, stage_state
from tests.tiny import tiny

STAGES = ["contrastive", "supervised", "saliency", "joint"]
NETWORK = (EncoderSpec("paper-densenet201"), EncoderSpec("res-se"))


@pytest.fixture(scope="module")
def joint():
    return joint_state()


@pytest.fixture(scope="module")
def files(joint, tmp_path_factory):
    """Each training's file, imported from the command line, and stamped with a size that a test can run."""
    from gazelit.cli.main import main

    folder = tmp_path_factory.mktemp("reference")
    patch = pytest.MonkeyPatch()
    patch.setattr("gazelit.checkpoints.importing._FULL_SIZE", [64, 96])
    for stage in STAGES:
        torch.save(stage_state(joint, stage), folder / f"{stage}.pt")
        assert (
            main(["import-reference", f"{folder}/{stage}.pt", f"--stage={stage}", f"--out={folder}/{stage}.ckpt"]) == 0
        )
        (folder / f"{stage}.pt").unlink()
    patch.undo()
    yield folder
    for path in folder.iterdir():
        path.unlink()


def classified(joint, image):
    """Logits of torchvision's own DenseNet with the file's weights."""
    densenet = densenet201(num_classes=3).eval()
    densenet.load_state_dict({name.removeprefix("model."): value for name, value in joint.items() if "model." in name})
    with torch.inference_mode():
        return densenet(image.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("size", list(RECORDED["golden"]))
def test_finding_a1_outputs_equal_the_reference_networks(joint, size):
    height, width = map(int, size.split("x"))
    golden = RECORDED["golden"][size]
    network = load_reference(joint)
    assert sum(parameter.numel() for parameter in network.parameters()) == 66_637_380
    with torch.inference_mode():
        outputs = network(film(height, width))
    assert outputs["logits"][0].tolist() == pytest.approx(golden["logits"], abs=1e-4)
    saliency = outputs["saliency_logits"][0, 0]
    log_density = saliency.flatten().log_softmax(0).reshape(height, width)
    assert [saliency[row, column].item() for row, column in golden["pts"]] == pytest.approx(golden["sal"], abs=1e-4)
    assert [log_density[row, column].item() for row, column in golden["pts"]] == pytest.approx(golden["logp"], abs=1e-4)
    assert (saliency.mean().item(), saliency.std().item()) == pytest.approx(
        (golden["sal_mean"], golden["sal_std"]), abs=1e-5
    )


@pytest.mark.parametrize("stage", STAGES)
def test_finding_a2_a_trainings_file_gives_what_the_training_learns(joint, stage):
    state = stage_state(joint, stage)
    result = import_reference(state)
    assert (result.stage, result.doubts) == (stage, ())
    taken = {
        "contrastive": {"model.features": "encoder"},
        "supervised": {"model.features": "encoder", "model.classifier": "linear_classifier"},
        "saliency": {
            "model.features": "encoder",
            "Conv1 to Conv5": "saliency_encoder",
            "Up1 to Up5, Up_conv1 to Up_conv5": "decoder",
            "out_conv_image": "saliency_head",
        },
    }
    taken["joint"] = taken["saliency"] | {"out_classification": "classifier", "lg_sigma_class": "weighting"}
    assert {part.name: part.component for part in result.parts if part.component} == taken[stage]
    assert all(part.reason for part in result.parts if not part.component)
    # Every tensor of the file is used, and every tensor of the network comes from the file.
    assert sum(part.tensors for part in result.parts) == len(state)
    of_network = [part for part in result.parts if part.component not in (None, "weighting")]
    assert sum(part.tensors for part in of_network) == len(result.network.state_dict())
    assert sum(part.values for part in of_network) == sum(
        value.numel() for value in result.network.state_dict().values()
    )
    assert (result.log_sigma is not None) == (stage == "joint")
    # The reference's network has 6,021 parameters that no output of the joint network uses, its task weight included.
    if stage == "joint":
        weighting = [part.values for part in result.parts if part.component == "weighting"]
        assert sum(part.values for part in result.parts if not part.component) + sum(weighting) == 6_021


def test_finding_a2_imported_encoders_and_heads_give_the_reference_outputs(files, joint):
    from gazelit.deploy.inference import load_model

    image = film(64, 96)
    with torch.inference_mode():
        supervised = load_model(files / "supervised.ckpt")
        logits = classified(joint, image)
        assert torch.allclose(supervised.network(image)["logits"], logits, atol=1e-4)
        read = supervised.predict(image[0, 0].numpy()).probabilities
        assert list(read.values()) == pytest.approx(logits[0].softmax(0).tolist(), abs=1e-4)
        # The saliency training's network is the joint network without classifier; its encoder is the supervised one.
        expected = load_reference(joint)(image)
        for stage in ("saliency", "joint"):
            model = load_model(files / f"{stage}.ckpt")
            for key, value in model.network(image).items():
                assert torch.allclose(value, expected[key], atol=1e-5)
            reading = model.predict(image[0, 0].numpy())
            assert reading.saliency.sum() == pytest.approx(1, abs=1e-4)
            assert list(reading.probabilities) == ([] if stage == "saliency" else ["Normal", "CHF", "pneumonia"])
    checkpoint = torch.load(files / "joint.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["weighting.log_sigma"].item() == pytest.approx(0.37)
    stamp = checkpoint[STAMP_KEY]
    assert (stamp["stage"], stamp["data"]["origin"], stamp["data"]["imported"]) == ("joint", ["mimic-cxr"], True)


def test_finding_a2_an_imported_file_is_handed_to_the_next_stage(files, joint):
    def same(module, prefix, names):
        own = module.state_dict()
        return all(torch.equal(own[name], joint[f"{prefix}{name}"]) for name in names)

    with torch.device("meta"):
        networks = [
            ClassificationNetwork(NETWORK[0]),
            DualEncoderUNet(*NETWORK, classes=None),
            DualEncoderUNet(*NETWORK),
        ]
    supervised, saliency, joint_network = (network.to_empty(device="cpu") for network in networks)
    encoder = ["features.conv0.weight", "features.norm5.weight", "features.norm5.running_var"]

    hand_off = SupervisedFinetuning(supervised).take_over(files / "contrastive.ckpt")
    assert (hand_off.loaded, hand_off.new) == (("encoder",), ("linear_classifier",))
    assert same(supervised.encoder, "model.", encoder)
    for earlier in ("contrastive", "supervised"):
        saliency.to_empty(device="cpu")
        hand_off = SaliencyWarmup(saliency).take_over(files / f"{earlier}.ckpt")
        assert (hand_off.source_stage, hand_off.loaded) == (earlier, ("encoder",))
        assert same(saliency.encoder, "model.", encoder)
    hand_off = JointFinetuning(joint_network).take_over(files / "saliency.ckpt")
    assert hand_off.loaded == ("encoder", "saliency_encoder", "decoder", "saliency_head")
    assert hand_off.new == ("classifier",)
    assert same(joint_network.encoder, "model.", encoder)
    # Level 5 and step 5 are the coarsest of the reference; gazelit's steps begin with the coarsest level.
    assert same(joint_network.saliency_encoder.levels[4][0], "Conv5.0.", ["conv1.weight", "bn2.running_mean"])
    assert same(joint_network.decoder.steps[0].convs[0][0], "Up_conv5.0.", ["weight", "bias"])


@pytest.mark.parametrize(
    ("stage", "config"), [("supervised", "supervised.yaml"), ("saliency", "stage2.yaml"), ("joint", "stage3.yaml")]
)
def test_finding_a2_an_imported_file_is_tested(files, stage, config, store, run_gazelit):
    options = [*tiny(1, store, network=False), "--data.downscale=1", "--trainer.limit_test_batches=1"]
    # Its patients are of MIMIC-CXR, and those of the store may be too.
    run_gazelit("test", f"--config={config}", f"--ckpt_path={files}/{stage}.ckpt", "--allow_other_split=true", *options)


def test_finding_a2_what_is_taken_and_dropped_is_printed(joint, tmp_path, capsys):
    from gazelit.cli.main import main

    torch.save(stage_state(joint, "supervised"), tmp_path / "NET.pt")
    assert main(["import-reference", f"{tmp_path}/NET.pt", f"--out={tmp_path}/net.ckpt"]) == 0
    printed = capsys.readouterr()
    table = [re.split(r"\s{2,}", line.strip()) for line in printed.out.splitlines()]
    assert table[0] == ["part of the file", "tensors", "values", "becomes", "why not"]
    assert [row[3] for row in table[1:]] == ["encoder", "linear_classifier", *["dropped"] * 6]
    assert ["model.classifier", "2", "5,763", "linear_classifier"] in table
    assert ["out_classification", "4", "65,795", "dropped", "not trained in this stage"] in table
    assert "a checkpoint of stage 'supervised'" in printed.err
    assert torch.load(tmp_path / "net.ckpt", weights_only=True)[STAMP_KEY]["data"]["size"] == [640, 512]


def test_finding_g6_an_imported_checkpoint_has_the_same_bytes_every_time(joint, tmp_path):
    from gazelit.checkpoints.importing import import_checkpoint

    torch.save(stage_state(joint, "contrastive"), tmp_path / "NET.pt")
    for name in ("a.ckpt", "b.ckpt"):
        import_checkpoint([str(tmp_path / "NET.pt")], tmp_path / name)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)[STAMP_KEY]["data"]["size"] == [320, 256]


def test_the_stage_must_be_given_if_the_file_does_not_show_it(joint):
    state = stage_state(joint, "supervised")
    state = {name: torch.tensor(0) if name.endswith("num_batches_tracked") else value for name, value in state.items()}
    with pytest.raises(InputError, match=r"does not show which training wrote it; say --stage contrastive"):
        import_reference(state)
    assert import_reference(state, "supervised").doubts == ()
    assert "may be untrained" in import_reference(state, "saliency").doubts[0]
    # The keys without DataParallel's prefix.
    plain = {
        name.replace("model.module.", "model."): value for name, value in stage_state(joint, "contrastive").items()
    }
    assert import_reference(plain).stage == "contrastive"


def test_a_stage_that_contradicts_the_file_is_refused_or_doubted(joint):
    with pytest.raises(InputError, match=r"takes 1984 inputs.*does not end stage 'saliency'; say --stage joint"):
        import_reference(stage_state(joint, "joint"), "saliency")
    with pytest.raises(InputError, match=r"takes 1024 inputs and not 1984.*saliency \(KL\)"):
        load_reference(stage_state(joint, "saliency"))
    with pytest.raises(InputError, match="stage: 'warmup' is none of contrastive, supervised"):
        import_reference(joint, "warmup")
    assert "model.module." in import_reference(stage_state(joint, "contrastive"), "supervised").doubts[0]
    assert "decoder has counted batches" in import_reference(stage_state(joint, "saliency"), "supervised").doubts[0]


@pytest.mark.parametrize("prefix", ["module.", "model.module."])
def test_data_parallel_prefixes_are_understood(joint, prefix):
    state = stage_state(joint, "joint")
    if prefix == "module.":
        renamed = {f"module.{name}": value for name, value in state.items()}
    else:
        renamed = {name.replace("model.", "model.module.", 1): value for name, value in state.items()}
    plain, parallel = (import_reference(names).network.state_dict() for names in (state, renamed))
    assert all(torch.equal(value, parallel[key]) for key, value in plain.items())


def test_tensors_that_do_not_fit_are_listed_by_the_names_of_the_file(joint):
    broken = stage_state(joint, "saliency")
    del broken["Up3.1.bias"]
    broken["Conv2.0.conv1.weight"] = torch.zeros(3)
    broken["surprise"] = torch.zeros(1)
    with pytest.raises(
        InputError, match=r"surprise unknown; Up3\.1\.bias missing; Conv2\.0\.conv1\.weight is \(3,\), not"
    ):
        import_reference(broken)
    # Tensors that are dropped may be absent.
    del broken["surprise"]
    assert import_reference(broken, "contrastive").stage == "contrastive"


def test_foreign_files_are_refused():
    with pytest.raises(InputError, match=r"holds no DenseNet under 'model\.'"):
        import_reference({"weight": torch.zeros(2)})


@pytest.mark.parametrize(
    ("content", "message"), [(b"noise", "not a readable checkpoint"), (None, "not a state dict of tensors")]
)
def test_import_reference_names_files_it_cannot_read(run_gazelit, tmp_path, content, message):
    if content:
        (tmp_path / "NET.pt").write_bytes(content)
    else:
        torch.save({"epoch": 3}, tmp_path / "NET.pt")
    assert f"NET.pt: {message}" in run_gazelit("import-reference", "NET.pt", "--out", "net.ckpt", code=2)
    assert not (tmp_path / "net.ckpt").exists()
