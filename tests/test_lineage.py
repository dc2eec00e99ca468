import pytest
import torch

from gazelit.checkpoints import handoff, split_guard, stamps
from gazelit.errors import InputError
from gazelit.models import ContrastiveNetwork, DualEncoderUNet, EncoderSpec

SMALL = EncoderSpec("res-se", options={"widths": [4, 8], "reduction": 4})
OTHER = EncoderSpec("res-se", options={"widths": [4, 6], "reduction": 4})


def save(path, network, prefix="network.", stage="contrastive"):
    stamp = stamps.make_stamp(stage=stage, network=network, data={}, seed=1, parent=None)
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, stamps.STAMP_KEY: stamp}, path)
    return path


def receiving(encoder=SMALL):
    return DualEncoderUNet(encoder, EncoderSpec("res-se", options={"widths": [4], "reduction": 4}), [4])


def equal(first, second):
    return all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_exactly_the_shared_components_are_handed_over(tmp_path):
    source, target = ContrastiveNetwork(SMALL, projection=4), receiving()
    before = {key: value.clone() for key, value in target.decoder.state_dict().items()}
    report = handoff.hand_over(save(tmp_path / "a.ckpt", source), target, "joint")
    assert (report.loaded, report.left_behind) == (("encoder",), ("projector",))
    assert report.new == ("saliency_encoder", "decoder", "saliency_head", "classifier")
    assert equal(source.encoder, target.encoder)
    assert all(torch.equal(value, before[key]) for key, value in target.decoder.state_dict().items())
    assert report.parent["stage"] == "contrastive"


def test_prefixes_of_compiled_modules_are_stripped_only_at_the_front(tmp_path):
    source = ContrastiveNetwork(SMALL)
    path = save(tmp_path / "a.ckpt", source)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {
        key.replace("network.encoder.", "network.encoder._orig_mod."): value
        for key, value in checkpoint["state_dict"].items()
    }
    torch.save(checkpoint, path)
    target = receiving()
    handoff.hand_over(path, target, "joint")
    assert equal(source.encoder, target.encoder)


def test_where_weights_came_from_does_not_matter_but_the_encoder_does(tmp_path):
    weighted = ContrastiveNetwork(EncoderSpec(SMALL.name, weights="imagenet", options=SMALL.options))
    handoff.hand_over(save(tmp_path / "a.ckpt", weighted), receiving(), "joint")
    with pytest.raises(
        InputError, match=r"component 'encoder' differs .*\[4, 8\].* in the checkpoint, .*\[4, 6\].* configured"
    ):
        handoff.hand_over(tmp_path / "a.ckpt", receiving(OTHER), "joint")


def test_a_checkpoint_that_shares_nothing_names_both_sides(tmp_path):
    class Lonely(ContrastiveNetwork):
        def __init__(self):
            super().__init__(SMALL)
            self.specs = {"scanpath": {}}

    with pytest.raises(
        InputError, match=r"'contrastive' \(scanpath\) and stage 'joint' \(encoder, .*share no component"
    ):
        handoff.hand_over(save(tmp_path / "a.ckpt", Lonely()), receiving(), "joint")


@pytest.mark.parametrize(
    ("spoil", "message"), [("missing", "missing"), ("unexpected", "left over"), ("shape", r"is \(2,\), not \(8,")]
)
def test_tensors_that_do_not_fit_are_listed_and_nothing_is_loaded(tmp_path, spoil, message):
    path = save(tmp_path / "a.ckpt", ContrastiveNetwork(SMALL))
    checkpoint = torch.load(path, weights_only=True)
    key = "network.encoder.levels.1.0.conv1.weight"
    if spoil == "missing":
        del checkpoint["state_dict"][key]
    elif spoil == "unexpected":
        checkpoint["state_dict"]["network.encoder.extra"] = torch.zeros(1)
    else:
        checkpoint["state_dict"][key] = torch.zeros(2)
    torch.save(checkpoint, path)
    target = receiving()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(InputError, match=rf"component 'encoder' does not fit: .*{message}"):
        handoff.hand_over(path, target, "joint")
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_the_chain_is_newest_first():
    stamp = {"stage": "joint", "parent": {"stage": "saliency", "parent": {"stage": "contrastive", "parent": None}}}
    assert [link["stage"] for link in stamps.chain(stamp)] == ["joint", "saliency", "contrastive"]


DATA = {"source": "egd-cxr", "split_sha256": "aaaa", "split_seed": 0}


def stamped(data, parent=None):
    network = ContrastiveNetwork(SMALL)
    return stamps.make_stamp(stage="contrastive", network=network, data=data, seed=1, parent=parent)


def test_another_split_of_the_same_data_is_refused_unless_insisted_on():
    resplit = stamped({**DATA, "split_sha256": "bbbb", "split_seed": 7})
    with pytest.raises(InputError, match=r"a\.ckpt: stage 'contrastive' .* \(seed 7, now 0\).*--allow_other_split"):
        split_guard.check_split("a.ckpt", resplit, DATA)
    assert "this is allowed" in split_guard.check_split("a.ckpt", resplit, DATA, allowed=True)
    assert split_guard.check_split("a.ckpt", stamped(DATA), DATA) is None


def test_an_ancestor_of_another_split_is_refused_too():
    """The parent's encoder has learned from the films on which its own parent was trained."""
    grandparent = {"sha256": "0", **stamped({**DATA, "split_sha256": "bbbb"})}
    with pytest.raises(InputError, match="another split"):
        split_guard.check_split("a.ckpt", stamped(DATA, grandparent), DATA)


def test_finding_c15_a_collection_and_its_parts_share_patients():
    """EGD-CXR and REFLACX are films of MIMIC-CXR (formats.md), so a model of one may have seen the other's test."""
    for ancestors, descendants in (("mimic-cxr", "egd-cxr"), ("egd-cxr", "reflacx"), ("reflacx+cxr-p", "mimic-cxr")):
        ancestor = stamped({"source": ancestors, "split_sha256": "cccc", "split_seed": 0})
        with pytest.raises(InputError, match=r"a\.ckpt: .*shares patients with .*gazelit split .*--allow_other_split"):
            split_guard.check_split("a.ckpt", ancestor, {**DATA, "source": descendants})
        note = split_guard.check_split("a.ckpt", ancestor, {**DATA, "source": descendants}, allowed=True)
        assert note.startswith("stage 'contrastive' was trained on")
        assert "allowed" in note
    elsewhere = stamped({"source": "cxr-p", "split_sha256": "cccc", "split_seed": 0})
    assert "whether it has seen" in split_guard.check_split("a.ckpt", elsewhere, DATA)


def test_finding_c15_one_split_file_of_both_passes():
    joint = {"source": "mimic-cxr", "split_sha256": "cccc", "split_file_sha256": "ffff"}
    assert split_guard.check_split("a.ckpt", stamped(joint), {**DATA, "split_file_sha256": "ffff"}) is None
    with pytest.raises(InputError, match="shares patients"):
        split_guard.check_split("a.ckpt", stamped(joint), {**DATA, "split_file_sha256": "eeee"})


def test_finding_c15_an_import_does_not_pass_in_silence():
    imported = stamped({"source": "egd-cxr", "synthetic": False, "sigma": 75.5})
    with pytest.raises(InputError, match="which of their patients is not recorded"):
        split_guard.check_split("a.ckpt", imported, DATA)
    assert "not recorded" in split_guard.check_split("a.ckpt", imported, DATA, allowed=True)


def test_simulated_and_real_films_share_no_patients():
    simulated = stamped({**DATA, "split_sha256": "bbbb", "synthetic": True})
    assert "whether it has seen" in split_guard.check_split("a.ckpt", simulated, DATA)


def test_finding_c9_the_message_names_the_settings_that_differ():
    stratified = stamped({**DATA, "split_sha256": "bbbb", "split_stratify": ["Edema"]})
    with pytest.raises(InputError, match=r"another split of egd-cxr \(stratify \['Edema'\], now None\)"):
        split_guard.check_split("a.ckpt", stratified, DATA)


def test_the_command_line_refuses_another_split_and_records_that_it_was_allowed(store, run_gazelit, tmp_path):
    from tests.tiny import tiny

    first = ["--trainer.max_epochs=1", "--checkpoint.dirpath=one", "--data.split.seed=1"]
    run_gazelit("fit", "--config=presets/quick/stage2.yaml", *tiny(2, store), *first)
    second = ["--trainer.max_epochs=1", "--checkpoint.dirpath=two/checkpoints", "--ckpt_path=one/best.ckpt"]
    command = ["fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), *second]
    assert "was trained on another split of egd-cxr (seed 1, now 0)" in run_gazelit(*command, code=2)
    assert not (tmp_path / "two").exists()
    assert "this is allowed" in run_gazelit(*command, "--allow_other_split=true")
    stamp = stamps.read_checkpoint(tmp_path / "two" / "checkpoints" / "best.ckpt")[stamps.STAMP_KEY]
    assert "another split of egd-cxr" in stamp["parent"]["split_note"]
    assert str(tmp_path) not in str(stamp)
    # A test on another split of its own training data is refused too.
    test = ["test", "--config=two/config.yaml", "--ckpt_path=two/checkpoints/best.ckpt", "--data.split.seed=3"]
    assert "may have seen patients of this test split" in run_gazelit(*test, "--allow_other_split=false", code=2)
