"""Mistakes on the command line and in configurations each give one line with the probable intention."""

import pytest

from tests.tiny import tiny

STAGE = ("fit", "--config=stage1.yaml")

#: The command, and the end of its only line.
TYPED = {
    "a configuration": (["fit", "--config=stag1.yaml"], "did you mean stage1.yaml?"),
    "a configuration in a folder": (["run", "pipelines/quik.yaml"], "did you mean pipelines/quick.yaml?"),
    "no configuration": (["fit", "--config"], "--config: has no value; write --config FILE.yaml"),
    "nothing": (["fit"], "--config is missing; name a stage's configuration"),
    "an abbreviation": ([*STAGE, "--trainer.max_epoch=1"], "did you mean --trainer.max_epochs?"),
    "an option": ([*STAGE, "--trainr.max_epochs=1"], "did you mean --trainer.max_epochs?"),
    "an option without a dot": ([*STAGE, "--chekpoint=1"], "did you mean --checkpoint?"),
    "a nested option": ([*STAGE, "--model.optimizer.lrr=1"], "did you mean --model.optimizer.lr?"),
    "an option of a class": ([*STAGE, "--model.loss.margn=1"], "did you mean --model.loss.margin?"),
    "a group": ([*STAGE, "--model.networ.projection=1"], "did you mean --model.network.projection?"),
    "an option of a dataclass": ([*STAGE, "--model.network.encoder.nme=x"], "mean --model.network.encoder.name?"),
    "an option without a class": ([*STAGE, "--model.pairing.threshold=1"], "name another class with --model.pairing="),
    "no dashes": ([*STAGE, "data.store=x"], "options begin with two dashes: --data.store=x"),
    "no value": ([*STAGE, "--trainer.max_epochs"], "--trainer.max_epochs: has no value; write --trainer.max_epochs="),
    "a switch": ([*STAGE, "--trainer.benchmark=yess"], "'yess' is neither true nor false; write --trainer.benchmark="),
    "a number": ([*STAGE, "--trainer.max_epochs=ten"], "--trainer.max_epochs: 'ten' is not a whole number"),
    "a word": ([*STAGE, "--model.on_nonfinite=skp"], "'skp' is not one of stop, skip; did you mean skip?"),
    "a list": ([*STAGE, "--model.frozen=encoder"], "'encoder' is not a list, such as [a, b]"),
    "a path of a class": ([*STAGE, "--model.loss=gazelit.losses.TripletLos"], "gazelit.losses has no TripletLos"),
    "a class": (["fit", "--config=stage3.yaml", "--model.weighting=FAMOO"], "no class FAMOO; did you mean FAMO?"),
    "a callback": ([*STAGE, "--trainer.callbacks+=EarlyStoping"], "did you mean EarlyStopping?"),
    "a value cut at a space": ([*STAGE, "--model.network.encoder={name:", "x}"], "put quotes around the whole value"),
    "an accelerator": ([*STAGE, "--trainer.accelerator=gpuu"], "invalid accelerator name"),
    "an option of a command": (["synth", "--ot=x"], "did you mean --out?"),
    "a value of a command": (["synth", "--out=x", "--difficulty=harrd"], "not one of easy, hard; did you mean hard?"),
    "a null within an object": (
        ["fit", "--config=presets/quick/supervised.yaml", "--model.network.encoder.lora=null"],
        "--model.network.encoder.lora: null cannot be given on the command line; leave it out",
    ),
    "a source": (["prepare", "--source=EGDCXRR", "--out=s"], "there is no class EGDCXRR; did you mean EGDCXR?"),
    "an option of a source": (["prepare", "--source=EGDCXR", "--source.rot=s"], "did you mean --source.root?"),
    "nothing to report": (["report"], "RUN is missing; `gazelit report --help` lists the options"),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPED)
def test_a_mistake_gives_one_line_with_the_probable_intention(name, run_gazelit, store):
    arguments, message = TYPED[name]
    if name == "an accelerator":
        arguments = [*arguments, f"--data.store={store}"]
    printed = run_gazelit(*arguments, code=2)
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert printed.startswith("gazelit: error: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: {max_epoch: 1}", "mine.yaml: trainer.max_epoch: there is no such option; did you mean"),
        ("trainer: {max_epochs: ten}", "mine.yaml: trainer.max_epochs: 'ten' is not a whole number"),
        ("model: {init_args: {optimizer: {init_args: {lrr: 1}}}}", "mine.yaml: model.optimizer.lrr: there is"),
        ("data: {gaze: {sigam: 1}}", "mine.yaml: data.gaze.sigam: there is no such option; did you mean"),
        ("model: {init_args: {max_skiped: 1}}", "did you mean model.max_skipped?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_configuration_names_the_file(text, message, run_gazelit, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    printed = run_gazelit(*STAGE, "--config=mine.yaml", code=2)
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_a_configuration_beside_the_one_named_is_suggested(run_gazelit, tmp_path):
    (tmp_path / "my_study.yaml").write_text("{}")
    assert "did you mean my_study.yaml?" in run_gazelit("fit", "--config=my_stdy.yaml", code=2)
    assert "`gazelit configs` lists those" in run_gazelit("fit", "--config=nothing_like_it.yaml", code=2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.store=nowhere", "no prepared store at nowhere; make one with `gazelit prepare`"),
        ("--data.loader.batch_size=0", "loader.batch_size: must be at least 1, not 0"),
        ("--data.loader.num_workers=-1", "loader.num_workers: must be at least 0, not -1"),
        ("--ckpt_path=nothing.ckpt", "nothing.ckpt: no such file"),
        ("--start_from=.", ".: a folder; give a checkpoint file"),
        ("--model.network.encoder.weights=weights.pt", "weights.pt: no such file"),
    ],
)
def test_finding_e_cheap_checks_run_before_weights_are_fetched(option, message, run_gazelit, store):
    # The stage's own encoder fetches weights, and an opened store is announced; both would print another line.
    printed = run_gazelit(*STAGE, f"--data.store={store}", option, code=2)
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_debug_shows_where_a_mistake_was_found(run_gazelit):
    with pytest.raises(Exception, match="trainr"):
        run_gazelit(*STAGE, "--trainr.max_epochs=1", "--debug")


def test_correct_options_are_accepted(run_gazelit, store):
    printed = run_gazelit("fit", "--config=presets/quick/stage1.yaml", *tiny(1, store), "--trainer.fast_dev_run=true")
    assert "error" not in printed
