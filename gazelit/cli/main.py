"""The command line: Lightning's subcommands with one meaning of ``--ckpt_path``, and gazelit's own commands."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, get_type_hints

from gazelit import __version__, processors
from gazelit.cli.faults import mistake_behind
from gazelit.cli.options import bracket_lists, complete_flags, nulls_in_groups, spell_options
from gazelit.cli.signature import described, load
from gazelit.configs import resolve_config_arguments, take_preset
from gazelit.errors import InputError, Terminated
from gazelit.trust import trust, trust_until_end

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("gazelit")

TRAINER_COMMANDS = {
    "fit": "train a stage; --ckpt_path resumes it or takes another stage's components over, --start_from begins anew",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split and write its predictions",
    "predict": "write a checkpoint's predictions without evaluating them",
    "calibrate": "fit the temperature of a checkpoint's probabilities on the validation split",
}


@dataclass(frozen=True)
class Command:
    """A command whose options are a function's parameters.

    Attributes:
        target: ``module:function``, imported when the command runs.
        help: One line for ``gazelit --help``.
        positional: Parameter of the argument (``str``) or arguments (a list) without a name, if any.
        about: Description of that argument, if it is no path.
        imports: Module whose classes may be named without their path.
        config_first: Whether a first argument without a name is the configuration.
        least: Least number of arguments without a name, for a command that takes several.
    """

    target: str
    help: str
    positional: str | None = None
    about: str = ""
    imports: str | None = None
    config_first: bool = False
    least: int = 1

    def function(self) -> Callable[..., Any]:
        """The function, or its description until it is called."""
        if self.imports:
            importlib.import_module(self.imports)
            return load(self.target)
        return described(self.target)


COMMANDS = {
    "doctor": Command(
        "gazelit.runs.doctor:doctor", "check this machine, a store and a configuration before a training"
    ),
    "synth": Command("gazelit.synthetic.cohort:write_cohort", "write a synthetic cohort in the real formats"),
    "prepare": Command(
        "gazelit.data.store.wide:prepare_wide",
        "turn a source of images and gaze into a prepared store",
        imports="gazelit.data.sources",
    ),
    "inspect": Command(
        "gazelit.data.store.inspect:inspect", "print what a store holds and draw a contact sheet", positional="store"
    ),
    "verify": Command(
        "gazelit.cli.verify:verify",
        "compare a store, a run, a checkpoint or a package with what was written",
        positional="path",
    ),
    "split": Command(
        "gazelit.data.splits.case_split:write_split",
        "split the patients of one or several stores together",
        positional="stores",
    ),
    "validate-manifest": Command("gazelit.data.sources.manifest:validate", "check your own tables of images and gaze"),
    "run": Command(
        "gazelit.runs.pipeline:run", "run a pipeline of stages, their test and the report", config_first=True
    ),
    "status": Command(
        "gazelit.runs.status:status", "print a run's steps with their state, cost and time left", positional="run"
    ),
    "configs": Command(
        "gazelit.cli.shipped:configs",
        "list, show or copy the configurations that come with gazelit",
        positional="words",
        about="list (default), show or copy, and names or parts of them",
    ),
    "completion": Command(
        "gazelit.cli.completion:completion",
        "print the script with which bash or zsh completes commands and options",
        positional="shell",
        about="bash or zsh",
    ),
    "report": Command(
        "gazelit.reporting.commands:report",
        "write the report of runs, or of trainings tested by hand",
        positional="run",
    ),
    "agreement": Command(
        "gazelit.reporting.agreement:agreement",
        "score class-activation and predicted maps against the reader's gaze and the marked regions",
        positional="ckpt",
    ),
    "phrases": Command(
        "gazelit.reporting.phrases:phrases",
        "measure whether readers look at the findings that they name, and how long before",
        positional="store",
    ),
    "compare-scanpaths": Command(
        "gazelit.reporting.scanpaths:compare",
        "score predicted scanpaths, and yardsticks that see no film, against GazeSearch's",
        positional="file",
    ),
    "encoders": Command(
        "gazelit.models.catalogue:encoders",
        "list the encoders, with parameters, channels and whether weights are at hand",
        positional="pattern",
        about="what names must contain; all unless given",
    ),
    "embed": Command(
        "gazelit.deploy.embed:embed",
        "write a frozen encoder's features of a store's films, for stages to read instead of running it",
        positional="store",
    ),
    "lineage": Command(
        "gazelit.checkpoints.ancestry:print_lineage",
        "print the chain of stages a checkpoint comes from",
        positional="file",
    ),
    "export-pysaliency": Command(
        "gazelit.data.store.pysaliency:export_pysaliency",
        "write a store's films and fixations as pysaliency reads them",
        positional="store",
    ),
    "import-reference": Command(
        "gazelit.checkpoints.importing:import_checkpoint",
        "turn a checkpoint of the paper's reference implementation into one of gazelit's",
        positional="file",
    ),
    "export-weights": Command(
        "gazelit.checkpoints.exporting:export_weights",
        "write a checkpoint's weights as safetensors with their description as JSON",
        positional="ckpt",
    ),
    "app": Command("gazelit.cli.app:app", "serve a local page that reads films, browses a store and shows reports"),
    "export": Command(
        "gazelit.release.export:export",
        "write a trained network for ONNX Runtime, torch.export or OpenVINO, with how far it is from the checkpoint",
        positional="ckpt",
    ),
    "package": Command(
        "gazelit.release.package:package",
        "pack a trained model with its model card, metrics and lineage into a folder to hand on",
        positional="ckpt",
    ),
    "push": Command(
        "gazelit.release.push:push", "upload a package to the Hugging Face Hub, closed by default", positional="folder"
    ),
    "infer": Command(
        "gazelit.deploy.infer:infer",
        "read DICOM, PNG or JPEG films with a trained model",
        positional="files",
        least=0,
    ),
    "serve-dicom": Command(
        "gazelit.deploy.dicom.serve:serve_dicom",
        "receive films over the network as a DICOM node, and send results to another",
        positional="ckpt",
    ),
    "adapt-reader": Command(
        "gazelit.deploy.new_reader:adapt_reader",
        "teach a trained model a new reader from a few readings",
        positional="ckpt",
    ),
    "guard": Command(
        "gazelit.deploy.fit_guards:guard",
        "fit guards: a score for films unlike a checkpoint's training, and prediction sets of a stated coverage",
        positional="ckpt",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``gazelit ARGUMENTS``.

    Args:
        arguments: Arguments after the program's name; the process's own arguments unless given.

    Returns:
        The exit code: 0, 2 if the input cannot be used, 130 or 143 if Ctrl-C or SIGTERM ended it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"gazelit {__version__}\n")
        return 0
    _log_to_stderr()
    processors.settle_threads()
    name, *rest = arguments
    debug = "--debug" in rest
    try:
        with trust_until_end():
            rest = _take_trust([argument for argument in rest if argument != "--debug"])
            if name in TRAINER_COMMANDS and {"-h", "--help"} & set(rest):
                from gazelit.cli.fit_help import short_help

                sys.stdout.write(short_help(name))
            elif name in TRAINER_COMMANDS:
                from gazelit.cli.run_name import with_named_config
                from gazelit.parsing import guard_parser

                rest = ["--help" if argument == "--help.all" else argument for argument in rest]
                preset, rest = take_preset(rest if name == "fit" else with_named_config(rest))
                rest = nulls_in_groups(resolve_config_arguments(rest, preset))
                guard_parser(rest, saved=name != "fit")
                # torch takes seconds to import: wrong names and files have been reported before.
                load("gazelit.cli.training:GazeCLI")(args=[name, *rest])
            elif name in COMMANDS:
                with _ends_on_sigterm():
                    _run_command(name, rest)
            else:
                raise InputError(f"unknown command '{name}'{_suggestion(name)}; `gazelit --help` lists the commands")
    except KeyboardInterrupt:
        sys.stderr.write("gazelit: interrupted\n")
        return 130
    except SystemExit as end:
        # Lightning ends with 1 after Ctrl-C, as if the command had failed.
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("gazelit: interrupted\n")
        return 130
    except Terminated as end:
        sys.stderr.write(f"gazelit: terminated by SIGTERM{f': {end}' if str(end) else ''}\n")
        return 128 + signal.SIGTERM
    except Exception as error:
        mistake = None if debug else mistake_behind(error)
        if mistake is None:
            raise
        sys.stderr.write(f"gazelit: error: {mistake}\n")
        return 2
    return 0


@contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """Lets a command clean up and end its processes before SIGTERM ends it; trainings do so themselves."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _take_trust(arguments: Sequence[str]) -> list[str]:
    """Trusts the modules that ``--trust`` names; returns the other arguments."""
    rest: list[str] = []
    expects_module = False
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        if expects_module or (flag == "--trust" and separator):
            trust(argument if expects_module else value)
            expects_module = False
        elif argument == "--trust":
            expects_module = True
        else:
            rest.append(argument)
    if expects_module:
        raise InputError("--trust: names no module; write --trust my_project.networks")
    return rest


def _run_command(name: str, arguments: list[str]) -> None:
    from jsonargparse import ActionConfigFile

    from gazelit.cli.mistakes import ExplainingParser
    from gazelit.parsing import guard_parser, with_bases

    command = COMMANDS[name]
    function = command.function()
    if command.config_first and arguments and not arguments[0].startswith("-"):
        arguments = [f"--config={arguments[0]}", *arguments[1:]]
    parser = ExplainingParser(prog=f"gazelit {name}", description=command.help)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of the options below")
    if command.positional:
        several = get_type_hints(function)[command.positional] is not str
        default = inspect.signature(function).parameters[command.positional].default
        optional = default is not inspect.Parameter.empty
        if (
            optional
            and not set(arguments) & {"-h", "--help"}
            and all(argument.startswith("-") for argument in arguments)
        ):
            # jsonargparse takes no positional argument that may be left out.
            arguments = [*([default] if isinstance(default, str) else default), *arguments]
        text = command.about or ("one or more paths" if several else "a path")
        parser.add_argument(command.positional, nargs=("+" if command.least else "*") if several else None, help=text)
    parser.add_function_arguments(
        function, as_group=False, skip={command.positional} if command.positional else None, fail_untyped=True
    )
    spell_options(parser)
    arguments = [_with_underscores(argument) for argument in resolve_config_arguments(arguments)]
    arguments = complete_flags(arguments, function)
    arguments = bracket_lists(arguments, function, sys.modules[command.imports] if command.imports else None)
    guard_parser(arguments, saved=False)
    parser.arguments = arguments
    parsed = parser.instantiate(parser.parse_args(with_bases(arguments)))
    options = {key: value for key, value in parsed.as_dict().items() if key != "config"}
    function(**options)


def _with_underscores(argument: str) -> str:
    """``--max-side`` for ``--max_side``: both spellings are accepted."""
    if not argument.startswith("--"):
        return argument
    name, separator, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{separator}{value}"


def _usage() -> str:
    commands = {**TRAINER_COMMANDS, **{name: command.help for name, command in COMMANDS.items()}}
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {text}" for name, text in commands.items()]
    return (
        "usage: gazelit COMMAND [OPTIONS]\n\n"
        "Chest X-ray diagnosis and radiologist gaze, learned together in stages.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        "`gazelit COMMAND --help` lists a command's options. --version prints the version.\n"
        "Every command takes --trust MODULE (a checkpoint or saved configuration may name classes of it; repeatable)\n"
        "and --debug (an error shows where it was raised). Those that train or evaluate, and run, take --preset:\n"
        "quick for shipped configurations that are small enough for two CPU cores.\n"
    )


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [*TRAINER_COMMANDS, *COMMANDS], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("gazelit: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
