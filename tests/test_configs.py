"""Every shipped configuration is found from any folder, parses, and trains."""

import re

import pytest
import torch
import yaml

from gazelit.configs import (
    config_chain,
    config_root,
    find_config,
    read_config,
    resolve_config_arguments,
    take_preset,
)
from gazelit.errors import InputError
from gazelit.runs.stage_steps import StageStep, arms_of, check_stages
from tests.tiny import TINY_LEAN, tiny

STAGE_CONFIGS = sorted(str(path.relative_to(config_root())) for path in config_root().rglob("stage?.yaml"))
PIPELINES = sorted(str(path.relative_to(config_root())) for path in config_root().glob("pipelines/*.yaml"))
DATA = sorted(str(path.relative_to(config_root())) for path in config_root().glob("data/*.yaml"))
OTHER_STAGES = sorted(
    str(path.relative_to(config_root()))
    for pattern in (
        "supervised.yaml",
        "multitask_unet.yaml",
        "scanpath.yaml",
        "time_resolved.yaml",
        "reader_conditional.yaml",
        "finding_conditional.yaml",
    )
    for path in config_root().rglob(pattern)
    # Base files, over which stages are merged, are not stages.
    if path.parent.name != "networks"
)
#: Run by tests/test_sweeps.py.
WANDB = sorted(
    str(path.relative_to(config_root()))
    for folder in ("sweeps", "loggers")
    for path in (config_root() / folder).glob("*.yaml")
)
ABLATIONS = sorted(str(path.relative_to(config_root())) for path in config_root().glob("ablations/*.yaml"))
#: Of both presets: after stage 3's configuration.
HANDOVERS = sorted(str(path.relative_to(config_root())) for path in config_root().rglob("handover/*.yaml"))


def shipped_name(path):
    return str(path.relative_to(config_root()))


def test_every_yaml_is_of_a_kind_that_is_tested():
    every = set(map(shipped_name, config_root().rglob("*.yaml")))
    # The base of a stage is parsed with it.
    bases = {
        shipped_name(path) for stage in (*STAGE_CONFIGS, *OTHER_STAGES) for path in config_chain(find_config(stage))
    }
    kinds = {*STAGE_CONFIGS, *OTHER_STAGES, *PIPELINES, *DATA, *WANDB, *ABLATIONS, *HANDOVERS}
    # A file that a pipeline merges over a stage is trained with it, below.
    overlaid = {name for stage in PIPELINE_STAGES if not isinstance(stage.config, str) for name in stage.config}
    assert every == kinds | overlaid | bases


def test_names_are_looked_up_among_the_shipped_ones_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("stage1.yaml") == config_root() / "stage1.yaml"
    (tmp_path / "stage1.yaml").write_text("mine: true")
    assert find_config("stage1.yaml").read_text() == "mine: true"


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(InputError, match=r"no such configuration file.*did you mean stage\d\.yaml\?"):
        find_config("stage9.yaml")


def test_arguments_keep_everything_but_the_configs():
    resolved = resolve_config_arguments(["--config", "stage1.yaml", "--model.x=1", "-c=stage2.yaml"])
    shipped = config_root()
    assert resolved == [
        "--config",
        str(shipped / "stage1.yaml"),
        "--model.x=1",
        f"--config={shipped / 'stage2.yaml'}",
    ]


def test_a_shipped_stage_has_only_settings_that_differ():
    assert max(len(find_config(name).read_text().splitlines()) for name in (*STAGE_CONFIGS, *OTHER_STAGES)) <= 25


def test_a_preset_replaces_its_own_shipped_files_and_no_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = config_root()
    assert find_config("stage1.yaml", "quick") == root / "presets" / "quick" / "stage1.yaml"
    assert find_config("cooperative.yaml", "quick") == root / "cooperative.yaml"
    assert find_config("presets/quick/stage1.yaml", "quick") == root / "presets" / "quick" / "stage1.yaml"
    assert take_preset(["--preset", "quick", "--x=1", "--preset=paper"]) == ("paper", ["--x=1"])
    (tmp_path / "stage1.yaml").write_text("mine: true")
    assert find_config("stage1.yaml", "quick").read_text() == "mine: true"
    # In the shipped folder, and by a path into it, a name is that of the shipped file.
    monkeypatch.chdir(root)
    assert find_config("stage1.yaml", "quick") == root / "presets" / "quick" / "stage1.yaml"
    assert find_config(str(root / "stage1.yaml"), "quick") == root / "presets" / "quick" / "stage1.yaml"
    with pytest.raises(InputError, match=r"--preset: 'slow' is none of quick, paper"):
        find_config("stage1.yaml", "slow")


def test_a_configuration_is_laid_over_its_base(tmp_path):
    (tmp_path / "below.yaml").write_text("a: {x: 1, y: [1, 2]}\nb: {class_path: m.A, init_args: {p: 1}}\nc: 1\n")
    (tmp_path / "second.yaml").write_text("c: 2\nd: {class_path: m.D, init_args: {p: 1, q: 2}}\n")
    (tmp_path / "top.yaml").write_text(
        "base: [below.yaml, second.yaml]\na: {y: [3]}\nb: {class_path: m.B, init_args: {r: 3}}\n"
        "d: {init_args: {q: 3}}\n"
    )
    assert read_config(tmp_path / "top.yaml") == {
        "a": {"x": 1, "y": [3]},
        "b": {"class_path": "m.B", "init_args": {"r": 3}},
        "c": 2,
        "d": {"class_path": "m.D", "init_args": {"p": 1, "q": 3}},
    }
    (tmp_path / "below.yaml").write_text("base: top.yaml\n")
    with pytest.raises(InputError, match=r"top\.yaml: its base leads back to it"):
        read_config(tmp_path / "top.yaml")
    (tmp_path / "below.yaml").write_text("base: 3\n")
    with pytest.raises(InputError, match=r"below\.yaml: base: name a configuration file"):
        read_config(tmp_path / "top.yaml")
    (tmp_path / "below.yaml").write_text("base: nowhere.yaml\n")
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such configuration file"):
        read_config(tmp_path / "top.yaml")


def test_a_configuration_of_the_users_over_a_shipped_one_trains_and_saves_all_of_it(store, run_gazelit, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: presets/quick/stage3.yaml\nmodel: {init_args: {learning_rates: {weighting: 1e-3}}}\n"
        "data: {init_args: {split: {file: absent.csv}, gaze: {window: {first: 3}}}}\n"
    )
    run_gazelit(
        "fit", "--config=mine.yaml", *tiny(3, store), "--data.split.file=null", "--data.gaze.window", "null",
        "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert not {"base", "config"} & saved.keys()
    assert saved["model"]["class_path"] == "gazelit.stages.JointFinetuning"
    assert saved["model"]["init_args"]["learning_rates"] == {"weighting": 1e-3}
    data = saved["data"]["init_args"]
    assert data["split"]["file"] is None
    assert data["gaze"]["window"] is None


@pytest.mark.parametrize("config", STAGE_CONFIGS)
def test_stage_trains_a_step_and_validates(config, store, run_gazelit):
    stage = int(re.search(r"stage(\d)", config).group(1))
    run_gazelit("fit", "--config", config, *tiny(stage, store), "--data.downscale=1", "--trainer.fast_dev_run=true")


@pytest.mark.parametrize("stage", [2, 3])
def test_the_joint_model_trains_on_reflacx(stage, reflacx, run_gazelit, tmp_path):
    folders = [f"--source.root={reflacx / 'reflacx'}", f"--source.images={reflacx / 'mimic-cxr'}"]
    run_gazelit("prepare", "--source=REFLACX", *folders, "--size=[64, 64]", "--workers=1", "--out=s")
    options = [*tiny(stage, tmp_path / "s"), "--data.loader.batch_size=2", "--trainer.fast_dev_run=true"]
    if stage == 3:
        options.append("--model.network.classes=16")
    printed = run_gazelit("fit", f"--config=stage{stage}.yaml", "--config=data/reflacx.yaml", *options)
    assert "gazelit: stage" in printed


def test_labels_that_do_not_fit_the_network_are_refused(store, run_gazelit):
    options = ["--data.labels=[CHF, pneumonia]", "--data.exclusive=false", "--trainer.fast_dev_run=true"]
    printed = run_gazelit("fit", "--config=stage3.yaml", *tiny(3, store), *options, code=2)
    assert "the data have 2, but the network has 3 classes; set --model.network.classes=2" in printed


TINY_ONE_ENCODER = [
    "--model.network.encoder={name: res-se, options: {widths: [4, 4, 8], reduction: 4}}",
    "--model.network.decoder_widths=[8, 4]",
]


def small(config, store):
    """Options that make a configuration's stage small."""
    if "multitask" in config:
        return [*tiny(3, store, network=False), *TINY_ONE_ENCODER]
    if any(name in config for name in ("time_resolved", "reader_conditional", "finding_conditional")):
        # The store's only reader.
        readers = ["--model.network.readers=[egd-cxr-1]"] if "reader_conditional" in config else []
        return [*tiny(2, store), *readers]
    number = re.search(r"stage(\d)", config)
    return tiny(int(number.group(1)) if number else 1, store)


@pytest.mark.parametrize("config", OTHER_STAGES)
def test_baselines_train_a_step_and_validate(config, store, run_gazelit):
    options = [*small(config, store), "--data.downscale=1", "--trainer.fast_dev_run=true"]
    run_gazelit("fit", "--config", config, *options)


def steps(config, preset=None):
    """The stages of a pipeline, with the files that a preset gives them, and its arms."""
    pipeline = yaml.safe_load(find_config(config).read_text())
    preset = preset or pipeline.get("preset", "paper")
    stages = [StageStep(**stage) for stage in pipeline["stages"]]
    for stage in stages:
        names = [stage.config] if isinstance(stage.config, str) else stage.config
        found = [shipped_name(find_config(name, preset)) for name in names]
        stage.config = found[0] if isinstance(stage.config, str) else found
    return stages, pipeline.get("arms")


@pytest.mark.parametrize("config", PIPELINES)
def test_pipelines_name_shipped_configurations_and_stages_before_those_that_follow(config):
    stages, arms = steps(config)
    check_stages(stages, "best", 1, None)
    tested = arms_of(stages, arms)
    for stage in stages:
        for name in [stage.config] if isinstance(stage.config, str) else stage.config:
            assert find_config(name).is_relative_to(config_root())
    if config in ("pipelines/paper.yaml", "pipelines/lean.yaml", "pipelines/lean-small.yaml"):
        assert [stage.name for stage in stages] == ["contrastive", "saliency", "joint"]
    else:
        # Every stage is tested, or leads to a stage that is tested.
        used = set(tested.values())
        for number, stage in reversed(list(enumerate(stages))):
            after = stages[number - 1].name if stage.after == "previous" and number else stage.after
            if stage.name in used and after not in (None, "previous"):
                used.add(after)
            used |= set(stage.teachers) if stage.name in used else set()
        assert used == {stage.name for stage in stages}


OTHERS_FROZEN = ["encoder", "saliency_encoder", "decoder", "saliency_head"]
HANDED_OVER = {
    "handover/encoder_rate.yaml": {"learning_rates": {"encoder": 1e-5, "weighting": 1e-4}},
    "handover/warmup.yaml": {"lr_scheduler": {"epochs": 40, "warmup": 4, "final": 0.0}},
    "handover/head_first.yaml": {"frozen": OTHERS_FROZEN},
}


@pytest.mark.parametrize("config", HANDED_OVER)
def test_hand_overs_train_and_change_what_they_name(config, store, run_gazelit, tmp_path):
    one_step = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    run_gazelit(
        "fit", "--config=stage3.yaml", f"--config={config}", *tiny(3, store), "--data.downscale=1", *one_step,
        "--checkpoint.dirpath=run/checkpoints",
    )  # fmt: skip
    options = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init_args"]
    found = {name: options[name] for name in HANDED_OVER[config]}
    if "lr_scheduler" in found:
        found["lr_scheduler"] = found["lr_scheduler"]["init_args"]
    assert found == HANDED_OVER[config]


def test_the_classifier_that_was_trained_first_is_taken_over(store, run_gazelit, tmp_path):
    def fit(folder, *options):
        shipped = ["--config=presets/quick/stage3.yaml", *options, *tiny(3, store)]
        run_gazelit("fit", *shipped, "--trainer.max_epochs=1", f"--checkpoint.dirpath={tmp_path / folder}")
        return torch.load(tmp_path / folder / "best.ckpt", weights_only=True)["state_dict"]

    first = fit("first", "--config=presets/quick/handover/head_first.yaml")
    after = fit("after", f"--start_from={tmp_path / 'first' / 'best.ckpt'}", "--model.optimizer.lr=0.0")
    # With a learning rate of 0, every weight is as it was taken over.
    trained = [key for key in first if key.startswith("network.") and key.endswith((".weight", ".bias"))]
    assert any(key.startswith("network.classifier.") for key in trained)
    assert all(torch.equal(first[key], after[key]) for key in trained)


def test_both_presets_have_the_same_hand_overs():
    published = [name for name in HANDOVERS if not name.startswith("presets/")]
    assert published == sorted(HANDED_OVER)
    assert [name for name in HANDOVERS if name not in published] == [f"presets/quick/{name}" for name in published]


RUNS = [
    *((config, None) for config in PIPELINES),
    ("pipelines/ablation.yaml", "quick"),
    ("pipelines/lean.yaml", "quick"),
]
PIPELINE_STAGES = [stage for run in RUNS for stage in steps(*run)[0]]
ABLATION_STEPS = [
    (config, preset, stage.name)
    for config, preset in RUNS
    for stage in steps(config, preset)[0]
    if stage.overrides or not isinstance(stage.config, str)
]


@pytest.mark.parametrize(("config", "preset", "name"), ABLATION_STEPS)
def test_what_an_ablation_changes_trains_a_step(config, preset, name, store, run_gazelit):
    stage = next(step for step in steps(config, preset)[0] if step.name == name)
    configs = [stage.config] if isinstance(stage.config, str) else stage.config
    options = small(configs[0], store)
    if "ablations/one_encoder.yaml" in configs:
        # Options that would bring the second encoder back are left out.
        options = [option for option in options if "saliency_encoder" not in option]
    if "networks/lean.yaml" in configs:
        options += TINY_LEAN
    elif "presets/quick/networks/lean.yaml" in configs:
        # The network is small enough.
        options = tiny(3, store, network=False)
    run_gazelit(
        "fit", *(f"--config={file}" for file in configs), *options, *stage.overrides, "--data.downscale=1",
        "--trainer.fast_dev_run=true",
    )  # fmt: skip


def test_finding_a3_the_ablations_have_the_three_readings_of_stage_3_with_both_presets():
    (stages, arms), (quick, _) = (steps("pipelines/ablation.yaml", preset) for preset in ("paper", "quick"))
    assert {"joint", "joint_from_imagenet", "classifier_only"} <= arms.keys()
    for published, small_one in zip(stages, quick, strict=True):
        first, small_first = (
            step.config if isinstance(step.config, str) else step.config[0] for step in (published, small_one)
        )
        assert small_first == f"presets/quick/{first}"
    after = {stage.name: stage.after for stage in stages}
    assert [after[name] for name in ("joint", "joint_from_imagenet", "classifier_only")] == [
        "saliency",
        None,
        "saliency",
    ]


def test_finding_a3_with_classifier_only_nothing_but_the_classifier_changes(store, run_gazelit, tmp_path):
    def weights(*arguments):
        options = ["--data.downscale=1", "--trainer.max_epochs=2", f"--checkpoint.dirpath={tmp_path / arguments[-1]}"]
        run_gazelit("fit", *arguments[:-1], *options)
        return torch.load(tmp_path / arguments[-1] / "best.ckpt", weights_only=True)["state_dict"]

    before = weights("--config=stage2.yaml", *tiny(2, store), "saliency")
    configs = ["--config=stage3.yaml", "--config=ablations/classifier_only.yaml"]
    parent = f"--ckpt_path={tmp_path / 'saliency' / 'best.ckpt'}"
    after = weights(*configs, *tiny(3, store), parent, "classifier_only")
    changed = {key for key, value in after.items() if key not in before or not torch.equal(value, before[key])}
    new = {f"network.classifier.layers.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")}
    assert changed == new | {"temperature"}
    assert any(key.endswith("running_var") for key in before)
    # The classifier is trained: a step from the same seed with a learning rate of 0 gives other weights.
    still = weights(*configs, *tiny(3, store), parent, "--model.optimizer.lr=0.0", "still")
    assert all(not torch.equal(after[key], still[key]) for key in new)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_shipped_stages_have_the_published_settings(number):
    config = read_config(find_config(f"stage{number}.yaml"))
    epochs, batch_size = {1: (50, 32), 2: (50, 16), 3: (40, 6)}[number]
    assert config["trainer"]["max_epochs"] == epochs
    data = config["data"]["init_args"]
    assert data["loader"]["batch_size"] == batch_size
    assert (data["gaze"]["sigma"], data["gaze"]["sigma_unit"]) == (75.5, "image_px")
    optimizer = config["model"]["init_args"]["optimizer"]
    assert optimizer == {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-4}}


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        (1, ["--model.loss=gazelit.losses.BatchHardTripletLoss", "--model.loss.margin=0.3"]),
        (1, ["--model.loss=gazelit.losses.SupervisedContrastiveLoss", "--model.network.projection=8"]),
        (1, ["--model.loss=gazelit.losses.BatchSemiHardTripletLoss", "--model.loss.margin=0.3"]),
        (2, ["--model.saliency_loss=gazelit.losses.CorrelationLoss"]),
        (2, ["--model.saliency_loss=gazelit.losses.NSSLoss"]),
        (3, ["--model.weighting=gazelit.losses.DynamicWeightAverage"]),
        (3, ["--model.diagnosis_loss=gazelit.losses.DiagnosisLoss", "--model.diagnosis_loss.class_weights=[1, 2, 1]"]),
        (3, ["--model.weighting=gazelit.losses.UncertaintyWeighting"]),
    ],
)
def test_objectives_are_chosen_by_class_path(stage, options, store, run_gazelit):
    config = f"presets/quick/stage{stage}.yaml"
    run_gazelit("fit", "--config", config, *tiny(stage, store), *options, "--trainer.fast_dev_run=true")


def test_a_weighted_sum_of_objectives_comes_from_yaml(store, run_gazelit, tmp_path):
    loss = {
        "class_path": "gazelit.losses.WeightedSaliencyLoss",
        "init_args": {
            "losses": [
                {"class_path": "gazelit.losses.KLDivergenceLoss"},
                {"class_path": "gazelit.losses.SimilarityLoss"},
            ],
            "weights": [1.0, 0.5],
        },
    }
    (tmp_path / "loss.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"saliency_loss": loss}}}))
    base = ["fit", "--config", "presets/quick/stage2.yaml", "--config", "loss.yaml"]
    run_gazelit(*base, *tiny(2, store), "--trainer.fast_dev_run=true")
