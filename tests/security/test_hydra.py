"""The command line and folders of configurations: nothing there makes Hydra, or us, call what is not ours."""

import logging.config
import os
import pickle
from importlib.util import find_spec

import pytest
from omegaconf import OmegaConf

from neo_model.config.compose import compose
from neo_model.config.hydra_guard import check_composed_hydra, permitted_overrides
from tests.security.conftest import touching
from tests.security.payloads import Call

EVIL = "{_target_: torch.utils.collect_env.run, command: 'COMMAND'}"

INTO_HYDRA = [
    "hydra.callbacks.x._target_=torch.utils.collect_env.run",
    f"+hydra.callbacks.x={EVIL}",
    f"++hydra.callbacks={{x: {EVIL}}}",
    f"hydra={{callbacks: {{x: {EVIL}}}}}",
    "hydra/callbacks=evil",
    "+hydra/callbacks@hydra.callbacks=evil",
    "~hydra.callbacks",
    "+model@hydra.callbacks.x=tiny",
    "+experiments@hydra=evil",
    "hydra/launcher@hydra.callbacks.x=basic",
    "hydra/job_logging=evil",
    "hydra/hydra_logging=default",
    "hydra.job_logging.formatters.simple.class=os.system",
    "+hydra.job_logging.handlers.x={'()': os.system, command: 'COMMAND'}",
    "+hydra.hydra_logging.handlers.x={'()': os.system, command: 'COMMAND'}",
    "+hydra.job.env_set.PATH=/evil",
    "hydra.searchpath=[file:///evil]",
    "hydra.launcher._target_=torch.utils.collect_env.run",
    f"+hydra.launcher.x={EVIL}",
    "hydra.sweeper._target_=torch.utils.collect_env.run",
    f"hydra.sweeper={EVIL}",
    f"+hydra.sweeper.params={{+hydra.callbacks.x: {EVIL}}}",
    "hydra.help.template=x",
    "hydra.run.dir@x=y",
    "+logger@_global_.hydra.job_logging=tensorboard",
    "HYDRA.callbacks.x._target_=os.system",
    "\uff48ydra.callbacks.x._target_=os.system",
    "hydra .callbacks.x._target_=os.system",
    "hydra\n.callbacks.x._target_=os.system",
    "'hydra.callbacks.x._target_'=os.system",
    "$hydra.callbacks=1",
]


@pytest.mark.parametrize("override", INTO_HYDRA, ids=ascii)
def test_an_override_that_reaches_into_hydra(refused_command, canary, override):
    override = override.replace("COMMAND", touching(canary))
    refused_command("train", override)
    if override.lstrip("+~").startswith("hydra") and "is refused" in _refusal(override):
        refused_command("train", "-m", "seed=1,2", override)
        refused_command("train", "--cfg", "job", override)
        refused_command("eval", "ckpt=x.pt", override)


def _refusal(override: str) -> str:
    try:
        permitted_overrides([override])
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize("option", ["--experimental-rerun={}", "--config-path={}", "--config-name={}"])
def test_an_option_of_hydras_that_reads_another_file(refused_command, canary, tmp_path, option):
    (tmp_path / "evil").write_bytes(pickle.dumps(Call(os.system, touching(canary))))
    assert "is not used here" in refused_command("train", option.format(tmp_path / "evil"))


TARGETS = [
    "model._target_=torch.utils.collect_env.run",
    f"+logger.evil={EVIL}",
    f"+logger.evil=[{EVIL}]",
    "++logger.evil._target_=os.system",
    f"model.backbone={EVIL}",
    f"+model.backbone.extra={EVIL}",
    f"data.resolution.train_sizes=[{EVIL}]",
    f"+optim._args_=[{EVIL}]",
    "+optim._partial_=true",
    "optim._target_=${oc.env:EVIL_TARGET}",
    "optim._target_=${oc.decode:${oc.env:EVIL_TARGET}}",
    "optim.lr=${oc.decode:os.system}",
    "+optim@model=adamw",
    f"weights={EVIL}",
    "+_target_=os.system",
]


@pytest.mark.parametrize("override", TARGETS)
def test_a_target_on_the_command_line(refused_command, canary, monkeypatch, override):
    monkeypatch.setenv("EVIL_TARGET", "torch.utils.collect_env.run")
    refused_command("train", override.replace("COMMAND", touching(canary)))


def test_a_logging_factory_is_live(tmp_path):
    factory = {"()": "torch.utils.collect_env.run", "command": touching(tmp_path / "fired")}
    with pytest.raises((ValueError, AttributeError)):  # what it gives is no handler
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "handlers": {"x": factory}})
    assert (tmp_path / "fired").exists()


WHOLE = "# @package _global_\n"
FACTORY = "{version: 1, handlers: {x: {(): torch.utils.collect_env.run, command: 'COMMAND'}}}"
ALIASES = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
# What stands in local/default.yaml, which is read without being chosen.
LOCAL = {
    "callback": f"{WHOLE}hydra: {{callbacks: {{x: {EVIL}}}}}",
    "callback by alias": f"{WHOLE}seed: 0\nlogger: {{x: &x {EVIL}}}\nhydra: {{callbacks: {{x: *x}}}}",
    "callback by reference": f"{WHOLE}logger: {{x: {EVIL}}}\nhydra: {{callbacks: {{x: '${{logger.x}}'}}}}",
    "job logging": f"{WHOLE}hydra: {{job_logging: {FACTORY}}}",
    "own logging": f"{WHOLE}hydra: {{hydra_logging: {FACTORY}}}",
    "logging by reference": f"{WHOLE}logger: {FACTORY}\nhydra: {{job_logging: '${{logger}}'}}",
    "environment": f"{WHOLE}hydra: {{job: {{env_set: {{PATH: /evil}}}}}}",
    "sweeper": f"{WHOLE}hydra: {{sweeper: {EVIL}}}",
    "sweep of a callback": f"{WHOLE}hydra: {{sweeper: {{params: {{+hydra.callbacks.x: \"{EVIL}\"}}}}}}",
    "sweep by package": (
        f"{WHOLE}hydra: {{sweeper: {{params: {{+logger@_global_.hydra.job_logging: 'choice(none,tensorboard)'}}}}}}"
    ),
    "environment by a sweep": (
        f"{WHOLE}hydra: {{sweeper: {{params: {{+logger@_global_.hydra.job.env_set: 'choice(none,tensorboard)'}}}}}}"
    ),
    "alias of itself": f"{WHOLE}logger: &a {{x: *a}}",
    "python apply": "seed: !!python/object/apply:os.system ['COMMAND']",
    "python new": "seed: !!python/object/new:os.system ['COMMAND']",
    "python name": "seed: !!python/name:os.system",
    "python module": "seed: !!python/module:os",
    "python by handle": "%TAG !p! tag:yaml.org,2002:python/\n---\nseed: !p!name:os.system",
    "python by full tag": "seed: !<tag:yaml.org,2002:python/object/apply:os.system> ['COMMAND']",
    "own tag": "seed: !run 'COMMAND'",
    "depth": "a: " + "[" * 1000 + "]" * 1000,
    "not text": "a: \0",
}
LOGGED = f"{WHOLE}hydra: {{job_logging: {FACTORY[:-1]}, root: {{handlers: [x]}}}}}}"
NODE = f"{{backbone: {EVIL}, _target_: neo_model.models.RTDETR}}"
# Files of the folder by their paths, and what is chosen of them on the command line.
FOLDERS: dict[str, tuple[dict[str, str], list[str]]] = {
    **{name: ({"local/default.yaml": text}, []) for name, text in LOCAL.items()},
    "recipe": ({"experiments/evil.yaml": f"{WHOLE}hydra: {{callbacks: {{x: {EVIL}}}}}"}, ["experiments=evil"]),
    "callback by package": ({"model/evil.yaml": f"# @package hydra.callbacks.x\n{EVIL}"}, ["model=evil"]),
    "callback in Hydra's group": (
        {"hydra/callbacks/evil.yaml": f"x: {EVIL}",
         "experiments/evil.yaml": f"{WHOLE}defaults: [{{override /hydra/callbacks: evil}}]"}, ["experiments=evil"]
    ),
    "Hydra's own configuration": ({"hydra/config.yaml": f"callbacks: {{x: {EVIL}}}"}, []),
    "Hydra's own launcher": ({"hydra/launcher/basic.yaml": EVIL}, []),
    "launcher": ({"hydra/launcher/evil.yaml": EVIL}, ["hydra/launcher=evil"]),
    "target": ({"logger/evil.yaml": f"x: {EVIL}"}, ["logger=evil"]),
    "target by alias": ({"logger/evil.yaml": f"a: &a {EVIL}\nb: *a"}, ["logger=evil"]),
    "target by merge": ({"logger/evil.yaml": f"a: &a {EVIL}\nb: {{<<: *a}}"}, ["logger=evil"]),
    "target in a list": ({"logger/evil.yaml": f"x: [[{EVIL}]]"}, ["logger=evil"]),
    "target in a node": ({"model/evil.yaml": NODE}, ["model=evil"]),
    "alias bomb": ({"experiments/evil.yaml": WHOLE + ALIASES}, ["experiments=evil"]),
    "alias bomb that is not chosen": ({"somewhere/else.yml": ALIASES}, []),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_configurations(refused_command, written, name):
    refused_command("train", *written(*FOLDERS[name]))


LATER = """_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper
max_batch_size: null
params: null
t: {MULTIRUN: torch.utils.collect_env.run, RunMode: {MULTIRUN: torch.utils.collect_env.run}}
x: {_target_: "${oc.select:hydra.sweeper.t.${hydra.mode},optuna.samplers.TPESampler}", command: 'COMMAND'}
"""


def test_a_target_that_is_another_one_once_hydra_sweeps(refused_command, written):
    chosen = f"{WHOLE}defaults: [override /hydra/sweeper: later]"
    folder = written({"hydra/sweeper/later.yaml": LATER, "local/default.yaml": chosen}, [])
    said = refused_command("train", "-m", "seed=1,2", *folder)
    assert "hydra.sweeper.x._target_: is refused" in said


@pytest.mark.parametrize("options", [["-m"], ["--cfg", "job"]], ids=" ".join)
@pytest.mark.parametrize("name", ["callback", "job logging", "launcher", "sweep of a callback"])
def test_a_folder_where_hydra_itself_takes_over(refused_command, written, name, options):
    refused_command("train", *options, *written(*FOLDERS[name]))


# What submitit would write into its script for Slurm, where a line of its own is a command.
SLURM = "hydra/launcher=submitit_slurm"
SLURM_NODE = "_target_: hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
SCRIPT: dict[str, tuple[dict[str, str], list[str], str]] = {
    "command line": (
        {}, [SLURM, "hydra.launcher.comment='x\ntouch y #'"], "a control character in hydra.launcher.comment"
    ),
    "folder": (
        {}, [SLURM, "hydra.sweep.dir='x\ntouch y #'"], "a control character in hydra.launcher.submitit_folder"
    ),
    "file": (
        {"local/default.yaml": f'{WHOLE}hydra: {{launcher: {{partition: "x\\nCOMMAND #"}}}}'}, [SLURM],
        "a control character in hydra.launcher.partition",
    ),
    "reference": (
        {"local/default.yaml": f'{WHOLE}weights: "x\\nCOMMAND #"\nhydra: {{launcher: {{qos: "${{weights}}"}}}}'},
        [SLURM],
        "hydra.launcher.qos",
    ),
    "name of a key": (
        {"hydra/launcher/evil.yaml": f'{{{SLURM_NODE}, "x\\nCOMMAND #": 1}}'}, ["hydra/launcher=evil"],
        "a control character in hydra.launcher",
    ),
    "teardown": (
        {"hydra/launcher/evil.yaml": f"{{{SLURM_NODE}, teardown: ['COMMAND']}}"}, ["hydra/launcher=evil"],
        "hydra.launcher.teardown",
    ),
}  # fmt: skip


@pytest.mark.skipif(find_spec("submitit") is None, reason="needs the extra [launchers]")
@pytest.mark.parametrize(("files", "chosen", "refused"), SCRIPT.values(), ids=SCRIPT)
def test_a_command_in_the_script_for_slurm(refused_command, written, files, chosen, refused):
    assert refused_command("train", "-m", *written(files, chosen)).startswith(f"error: {refused}: is refused; ")


# Choices of a search, of which one makes a job in which Hydra would call what its file names.
SEARCHED: dict[str, tuple[dict[str, str], list[str]]] = {
    "second choice": ({"logger/evil.yaml": LOGGED}, ["logger=choice(none,evil)"]),
    "choice of a group of the folder's own": (
        {"own/good.yaml": "{}", "own/evil.yaml": LOGGED}, ["+own=choice(good,evil)"]
    ),
    "choice in a file": (
        {"logger/evil.yaml": LOGGED,
         "local/default.yaml": f"{WHOLE}hydra: {{sweeper: {{params: {{logger: 'choice(none,evil)'}}}}}}"}, []
    ),
    "choice in a recipe": (
        {"logger/evil.yaml": LOGGED,
         "experiments/evil.yaml": f"{WHOLE}hydra: {{sweeper: {{params: {{logger: 'choice(none,evil)'}}}}}}"},
        ["experiments=evil"],
    ),
    "one value in a file": (
        {"logger/evil.yaml": LOGGED, "local/default.yaml": f"{WHOLE}hydra: {{sweeper: {{params: {{logger: evil}}}}}}"},
        ["logger=choice(none,tensorboard)"],
    ),
}  # fmt: skip


@pytest.mark.skipif(find_spec("optuna") is None, reason="needs the extra [optuna]")
@pytest.mark.parametrize("name", SEARCHED)
def test_a_choice_of_a_search(refused_command, written, name):
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6"]
    said = refused_command("train", "-m", *search, *written(*SEARCHED[name]))
    assert said.startswith("error: hydra.job_logging: is refused; ")


OUTSIDE = {
    "output_subdir": "output_subdir: /some/run",
    "job.chdir": "job: {chdir: true}",
    "sweep.subdir": "sweep: {subdir: ../../x}",
}


@pytest.mark.parametrize("key", OUTSIDE)
def test_a_file_that_has_hydra_write_elsewhere(refused_command, written, key):
    folder = written({"experiments/evil.yaml": f"{WHOLE}hydra: {{{OUTSIDE[key]}}}"}, ["experiments=evil"])
    assert refused_command("train", "-m", *folder).startswith(f"error: hydra.{key}: is ")


def test_an_alias_bomb_behind_a_link(refused_command, tmp_path):
    for name in ("folder", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "evil.yaml").write_text(WHOLE + ALIASES)
    (tmp_path / "folder" / "experiments").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "round").symlink_to(tmp_path / "folder")
    said = refused_command("train", f"--config-dir={tmp_path}/folder", "experiments=evil")
    assert "evil.yaml: expands to 1,234,567,909" in said


def test_files_in_place_of_ours_are_not_read(canary, tmp_path):
    before = compose("train", ["hydra.run.dir=x"])
    node = EVIL.replace("COMMAND", touching(canary))
    text = f"handlers: {{x: {node}}}\nbackbone: {node}\nhydra: {{callbacks: {{x: {node}}}}}\n"
    for path in ("train.yaml", "model/tiny.yaml", "hydra/job_logging/none.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    after = compose("train", ["hydra.run.dir=x"], config_dir=str(tmp_path))
    check_composed_hydra(after)
    plain = [OmegaConf.to_container(config) for config in (before, after)]
    for config in plain:
        config["hydra"].pop("runtime")  # names the folders
    assert plain[0] == plain[1]
