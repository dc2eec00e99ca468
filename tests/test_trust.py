"""A stranger's checkpoint or configuration cannot make gazelit run code."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
import yaml

from gazelit import trust
from gazelit.checkpoints.stamps import STAMP_KEY
from gazelit.configs import read_yaml
from gazelit.errors import InputError
from gazelit.models import EncoderSpec, Network, build_encoder, rebuild
from tests.tiny import tiny


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A joint stage after one step, with its configuration."""
    from gazelit.cli.main import main

    folder = tmp_path_factory.mktemp("run")
    arguments = [
        "fit", "--config=presets/quick/stage3.yaml", *tiny(3, store), "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.logger=false",
        f"--trainer.default_root_dir={folder}", f"--checkpoint.dirpath={folder / 'checkpoints'}",
    ]  # fmt: skip
    assert main(arguments) == 0
    return folder


@pytest.fixture
def stranger(run, tmp_path, monkeypatch):
    """A copy of the run that can be tampered with, and a module on the path that leaves a trace when it is run."""
    folder = tmp_path / "stranger"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text((run / "config.yaml").read_text())
    trace = tmp_path / "trace"
    (tmp_path / "evil.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nimport gazelit.models\n"
        "class Net(gazelit.models.DualEncoderUNet):\n    pass\n"
        "class Plain:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield folder
    assert not trace.exists()
    assert "evil" not in sys.modules


def write_checkpoint(run, folder, change):
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    return folder / "checkpoints" / "best.ckpt"


def class_path(name):
    return lambda checkpoint: checkpoint[STAMP_KEY]["network"].update(class_path=name)


def encoder_name(name):
    return lambda checkpoint: checkpoint[STAMP_KEY]["network"]["init_args"]["encoder"].update(name=name, options={})


NAMES = {
    "class os.system": class_path("os.system"),
    "class subprocess.Popen": class_path("subprocess.Popen"),
    "class of an own module": class_path("evil.Net"),
    "function of gazelit's": class_path("gazelit.cli.main"),
    "encoder os:system": encoder_name("os:system"),
    "encoder of an own module": encoder_name("evil:Net"),
}


@pytest.mark.parametrize("hostile", NAMES)
@pytest.mark.parametrize("command", ["infer", "agreement"])
def test_finding_b1_a_stamp_is_only_data(command, hostile, run, stranger, run_gazelit, monkeypatch, real_film):
    called = []
    monkeypatch.setattr("os.system", called.append)
    monkeypatch.setattr("subprocess.Popen", called.append)
    path = write_checkpoint(run, stranger, NAMES[hostile])
    arguments = [str(real_film), f"--ckpt={path}"] if command == "infer" else [str(path)]
    printed = run_gazelit(command, *arguments, "--out=results", code=2)
    assert str(path) in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert called == []


@pytest.fixture
def real_film(tmp_path):
    from PIL import Image

    Image.effect_noise((80, 96), 40).save(tmp_path / "film.png")
    return tmp_path / "film.png"


MALFORMED = {
    "no stamp": lambda checkpoint: checkpoint.pop(STAMP_KEY),
    "stamp of another type": lambda checkpoint: checkpoint.update({STAMP_KEY: [1]}),
    "network of another type": lambda checkpoint: checkpoint[STAMP_KEY].update(network="x"),
    "components of another type": lambda checkpoint: checkpoint[STAMP_KEY].update(components={"encoder": 3}),
    "weights of another type": lambda checkpoint: checkpoint.update(state_dict={"a": 3}),
    "data of another type": lambda checkpoint: checkpoint[STAMP_KEY].update(data=None),
}


def endless(checkpoint):
    stamp = copy.deepcopy(checkpoint[STAMP_KEY])
    for _ in range(100):
        stamp = {**stamp, "parent": stamp}
    checkpoint[STAMP_KEY] = stamp


@pytest.mark.parametrize("malformed", [*MALFORMED, "endless ancestry"])
@pytest.mark.parametrize("command", ["lineage", "export-weights", "infer", "agreement", "fit", "test"])
def test_malformed_stamps_are_one_line(command, malformed, run, stranger, run_gazelit, real_film, store):
    path = write_checkpoint(run, stranger, MALFORMED.get(malformed, endless))
    arguments = {
        "infer": [str(real_film), f"--ckpt={path}", "--out=results"],
        "agreement": [str(path), "--out=results"],
        "fit": ["--config=presets/quick/stage2.yaml", *tiny(2, store), f"--ckpt_path={path}"],
        "test": [f"--config={stranger / 'config.yaml'}"],
    }
    printed = run_gazelit(command, *arguments.get(command, [str(path)]), code=2)
    assert str(path) in printed.splitlines()[-1]
    assert "Traceback" not in printed


class Payload:
    def __reduce__(self):
        return (open, ("trace", "w"))


@pytest.mark.parametrize("option", ["--ckpt_path", "--start_from", "lineage", "export-weights", "import-reference"])
def test_pickles_are_refused_and_not_run(option, stranger, run_gazelit, store, tmp_path):
    path = tmp_path / "pickle.ckpt"
    torch.save({"state_dict": {}, STAMP_KEY: Payload()}, path)
    if option.startswith("--"):
        arguments = ["fit", "--config=presets/quick/stage2.yaml", *tiny(2, store), f"{option}={path}"]
    else:
        arguments = [option, str(path), *(["--out=out.ckpt"] if option == "import-reference" else [])]
    printed = run_gazelit(*arguments, code=2)
    assert "not a readable checkpoint" in printed.splitlines()[-1]
    path.write_bytes(pickle.dumps(Payload()))
    assert "not a readable checkpoint" in run_gazelit(*arguments, code=2).splitlines()[-1]


def tampered(folder, change):
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))
    return path


CONFIGURATIONS = {
    "model": lambda content: content["model"].update(class_path="evil.Net"),
    "encoder": lambda content: content["model"]["init_args"]["network"]["init_args"]["encoder"].update(name="evil:Net"),
    "callback": lambda content: content["trainer"].update(callbacks=[{"class_path": "evil.Plain"}]),
    "function": lambda content: content["trainer"].update(
        callbacks=[{"class_path": "LambdaCallback", "init_args": {"on_test_start": "os.system"}}]
    ),
    "data": lambda content: content.update(data={"class_path": "evil.Net"}),
}


@pytest.mark.parametrize("named", CONFIGURATIONS)
@pytest.mark.parametrize("command", ["test", "validate", "predict", "calibrate", "agreement"])
def test_finding_g1_a_configuration_beside_a_checkpoint_is_only_data(command, named, run, stranger, run_gazelit):
    path = write_checkpoint(run, stranger, lambda checkpoint: None)
    config = tampered(stranger, CONFIGURATIONS[named])
    arguments = [f"--config={config}", *(["--out=out.ckpt"] if command == "calibrate" else [])]
    printed = run_gazelit(command, *([str(path), "--out=results"] if command == "agreement" else arguments), code=2)
    assert f"{config}: names " in printed.splitlines()[-1]
    assert "--trust" in printed.splitlines()[-1]


def test_a_saved_configuration_cannot_load_code_through_another_file(run, stranger, run_gazelit, tmp_path):
    write_checkpoint(run, stranger, lambda checkpoint: None)
    part = tmp_path / "part.yaml"
    part.write_text("name: evil:Net\n")
    config = tampered(
        stranger,
        lambda content: content["model"]["init_args"]["network"]["init_args"].update(encoder=str(part)),
    )
    assert "names evil:Net" in run_gazelit("test", f"--config={config}", code=2)


def test_a_trusted_module_is_imported(run, tmp_path, run_gazelit, monkeypatch, real_film):
    (tmp_path / "known_networks.py").write_text(
        "import gazelit.models\nclass Net(gazelit.models.DualEncoderUNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    path = write_checkpoint(run, tmp_path, class_path("known_networks.Net"))
    command = ["infer", str(real_film), f"--ckpt={path}", "--out=results"]
    assert "add --trust known_networks" in run_gazelit(*command, code=2)
    assert "known_networks" not in sys.modules
    run_gazelit(*command, "--trust", "known_networks")
    assert "known_networks" in sys.modules
    # A module that one command trusts is not trusted by the next.
    assert not trust.is_trusted("known_networks")


def test_a_users_own_configuration_names_its_modules_but_only_classes_of_use_are_imported(
    stranger, store, run_gazelit, tmp_path
):
    """`fit` imports the user's modules, but reads their text first and refuses a class that extends nothing."""
    own = tmp_path / "own.yaml"
    for text, message in (
        ("model: {class_path: evil.Plain}", "extends no class"),
        ("model: {class_path: evil.Missing}", "is not defined"),
        ("model: {class_path: nowhere.Stage}", "there is no module nowhere"),
        ("model: {class_path: subprocess.Popen}", "Python's own library"),
    ):
        own.write_text(text)
        printed = run_gazelit("fit", f"--config={own}", f"--data.store={store}", code=2)
        assert f"{own}: " in printed.splitlines()[-1]
        assert message in printed.splitlines()[-1]
    options = [*tiny(1, store, network=False), "--model.network.encoder={name: 'os:system'}"]
    printed = run_gazelit("fit", "--config=presets/quick/stage1.yaml", *options, code=2)
    assert "Python's own library" in printed


def test_what_an_encoders_name_resolves_to_is_checked_before_it_is_called(monkeypatch):
    with pytest.raises(InputError, match=r"no subclass of torch\.nn\.modules\.module\.Module; it was not called"):
        build_encoder(EncoderSpec("lightning.pytorch.callbacks:Callback"))
    with pytest.raises(InputError, match="not fetched from a hub"):
        build_encoder(EncoderSpec("tu-hf-hub:somebody/model"))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"encoder": 3},
        {"unknown": 1},
        {"encoder": {"name": "res-se"}, "saliency_encoder": None, "decoder_widths": 3},
    ],
)
def test_arguments_that_do_not_fit_a_network_are_one_error(arguments):
    path = "gazelit.models.dual_unet.DualEncoderUNet"
    with pytest.raises(InputError, match=r"a\.ckpt: "):
        rebuild({"class_path": path, "init_args": arguments}, "a.ckpt")
    assert issubclass(trust.load_class(path, Network, "a.ckpt"), Network)


def test_names_of_files_are_not_taken_for_names_of_modules():
    files = ["stage1.yaml", "best.ckpt", "runs/a.csv", "profile.yaml", "0.5", "configs.yaml", "x.y.z"]
    assert list(trust.names_in({"files": files, "config": {"name": "tu-resnet18"}})) == []
    assert [name for name, _ in trust.names_in(["os.system", "torch.optim.Adam", "a.b:C"])] == [
        "os.system", "torch.optim.Adam", "a.b:C",
    ]  # fmt: skip


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(9), "once its aliases are written out"),
        ("a: &a [*a]", "stands within what it names"),
        ("[" * 5000 + "]" * 5000, "levels deep"),
        ("a: [", "no readable YAML at line"),
        ("a: b: c", "no readable YAML at line 1"),
    ],
)
def test_finding_g8_yaml_bombs_end_in_one_line(text, message, tmp_path, run_gazelit):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(path)
    for command in ("fit", "run", "test", "prepare"):
        printed = run_gazelit(command, f"--config={path}", code=2)
        assert message in printed.splitlines()[-1]
        assert "Traceback" not in printed
    if "YAML" not in message:
        # The same text is refused as the value of an option.
        assert message in run_gazelit("fit", "--config=presets/quick/stage1.yaml", f"--data={text}", code=2)


def test_aliases_of_a_usual_configuration_are_read(tmp_path):
    path = tmp_path / "usual.yaml"
    path.write_text("base: &base {a: 1, b: [2, 3]}\none: *base\ntwo: {<<: *base, b: 4}\n")
    assert read_yaml(path) == {"base": {"a": 1, "b": [2, 3]}, "one": {"a": 1, "b": [2, 3]}, "two": {"a": 1, "b": 4}}


def test_finding_b4_only_what_an_error_was_raised_from_explains_it(monkeypatch, capsys):
    from gazelit.cli import main as cli

    def fail(name, arguments):
        try:
            Path("missing-file").read_bytes()
        except OSError:
            {}["a fault of our own"]

    monkeypatch.setattr(cli, "_run_command", fail)
    with pytest.raises(KeyError, match="a fault of our own"):
        cli.main(["lineage", "x"])
    assert "missing-file" not in capsys.readouterr().err


def test_debug_shows_where_an_error_was_raised():
    from gazelit.cli.main import main

    with pytest.raises(InputError, match="no such file"):
        main(["lineage", "missing.ckpt", "--debug"])
