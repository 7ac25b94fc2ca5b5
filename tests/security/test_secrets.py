"""Secrets of the environment: no folder, file or line of ours ever holds one."""

import json
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from neo_model.config.command_line import main
from neo_model.config.secrets import RedactingFilter
from neo_model.engine import Runner
from neo_model.reports import dataset
from neo_model.reports.page import write_page
from neo_model.utils.secrets import redacted, secrets_in_environment
from tests.config.conftest import one_thread  # noqa: F401
from tests.security.conftest import changed
from tests.security.test_weight_files import checkpoint_of

SECRET = "sk-0123456789abcdef"
REFERENCE = "${oc.env:MY_API_KEY}"
SHORT_RUN = [
    *("model=tiny", "epochs=1", "limit_batches=1", "data.num_train=2", "data.num_val=2"),
    *("data.resolution.width=256", "data.resolution.height=144", "hardware=cpu", "hardware.workers=0"),
]


@pytest.fixture(autouse=True)
def key_in_the_environment(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", SECRET)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"weights={SECRET}"],
        [f"weights='https://me:{SECRET}@host/weights.pth'"],
        [f"+logger.wandb.api_key={SECRET}"],
        ["logger=wandb", f"logger.wandb.project={SECRET}"],
        [f"model={SECRET}"],
        [f"+{SECRET}=1"],
        [f"seed=a({SECRET}"],
        [f"resume={SECRET}"],
        [f"optim.lr={REFERENCE}"],
        [f"++hydra.job.env_set.KEY={SECRET}"],
        [f"hydra.run.dir=runs/{SECRET}"],
        [f"data.root='{REFERENCE}'", "hydra.run.dir='${data.root}'"],
        ["-m", f"weights={SECRET},{SECRET}2"],
        ["-m", "seed=1,2", f"hydra.sweep.dir={SECRET}"],
        ["-m", "seed=1,2", f"weights={SECRET}", "weights=null"],
        ["-m", "seed=1,2", f"hydra.sweeper.max_batch_size={SECRET}", "hydra.sweeper.max_batch_size=null"],
        ["-m", "seed=1,2", f"+hydra.launcher.pre_dispatch={SECRET}"],
        ["-m", "seed=1,2", f"+hydra.sweeper.params.{SECRET}=1"],
        ["-m", "seed=1,2", f"hydra.sweep.subdir='{REFERENCE}_${{hydra.job.num}}'"],
    ],
    ids=" ".join,
)
def test_a_secret_on_the_command_line(refused_command, arguments):
    assert SECRET not in refused_command("train", *arguments)


@pytest.mark.skipif(find_spec("joblib") is None, reason="needs the extra [launchers]")
def test_a_secret_for_a_launcher(refused_command):
    said = refused_command("train", "-m", "seed=1,2", "hydra/launcher=joblib", f"hydra.launcher.pre_dispatch={SECRET}")
    assert said.startswith("error: hydra.launcher.pre_dispatch: holds the value of $MY_API_KEY, which would be written")


def test_a_secret_in_a_file(refused_command, tmp_path, saved_config):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text(f"# @package _global_\nweights: x{SECRET}\n")
    said = refused_command("train", f"--config-dir={tmp_path}")
    assert said.startswith("error: weights: holds the value of $MY_API_KEY, which would be written to files; leave it")
    path = checkpoint_of({"config": changed(saved_config, "weights", SECRET)}, tmp_path / "best.pt")
    assert refused_command("eval", f"ckpt={path}") == said


def test_a_secret_for_a_plugin_in_a_file(refused_command, tmp_path):
    """Hydra writes the nodes of its plugins to a sweep's multirun.yaml."""
    (tmp_path / "local").mkdir()
    node = f"hydra: {{sweeper: {{params: {{weights: 'x,{SECRET}'}}}}}}"
    (tmp_path / "local" / "default.yaml").write_text(f"# @package _global_\n{node}\n")
    said = refused_command("train", "-m", "seed=1,2", f"--config-dir={tmp_path}")
    assert said.startswith("error: hydra.sweeper.params.weights: holds the value of $MY_API_KEY, which would be written")


def test_a_traceback_shown_on_demand(canary, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("train", ["debug=true", f"optim.lr={REFERENCE}"]) == 2
    said = capfd.readouterr().err
    assert "Traceback" in said and "optim.lr: '$MY_API_KEY' is not a number" in said and SECRET not in said


def everything_in(folder: Path) -> str:
    """Names and contents of all files."""
    paths = sorted(folder.rglob("*"))
    return "\n".join(map(str, paths)) + "".join(path.read_bytes().decode("latin-1") for path in paths if path.is_file())


def fail(*arguments: object, **options: object) -> None:
    logging.getLogger("neo_model").warning("asking with %s", SECRET)
    raise ZeroDivisionError(f"no answer to {SECRET}")


def test_a_run_that_uses_a_secret_and_names_it_in_the_end(capfd, tmp_path, monkeypatch):
    run = Runner.run
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Runner, "run", lambda self: (run(self), fail()))
    with pytest.raises(ZeroDivisionError):
        main("train", [*SHORT_RUN, f"data.root='{REFERENCE}'", "logger=tensorboard", "hydra.run.dir=run"])
    kept = everything_in(tmp_path / "run")
    assert kept.count(REFERENCE) == 4  # config.yaml, two checkpoints and TensorBoard
    assert "asking with $MY_API_KEY" in kept and "ZeroDivisionError: no answer to $MY_API_KEY" in kept
    assert SECRET not in kept + "".join(capfd.readouterr())


def test_a_sweep_over_a_secret(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("neo_model.config.jobs.train_job", fail)
    monkeypatch.setattr("neo_model.config.sweep_checks.check_training", lambda config, problems: None)
    assert main("train", ["-m", f"data.root='{REFERENCE}',x", "hydra.sweep.dir=run"]) == 1
    kept = everything_in(tmp_path / "run")
    assert "0_root-MY_API_KEY" in kept and "failed: ZeroDivisionError: no answer to $MY_API_KEY" in kept
    assert SECRET not in kept + "".join(capfd.readouterr())


@pytest.mark.parametrize("job", ["train", "eval"])
@pytest.mark.parametrize("printed", ["job", "all"])
def test_a_configuration_printed_with_its_references_followed(capfd, tmp_path, monkeypatch, saved_config, job, printed):
    monkeypatch.chdir(tmp_path)
    path = checkpoint_of({"config": saved_config}, tmp_path / "best.pt")
    arguments = {"train": [f"weights='{REFERENCE}'"], "eval": [f"ckpt={path}", f"compare='{REFERENCE}'"]}[job]
    assert main(job, ["--cfg", printed, "--resolve", *arguments]) == 0
    said = capfd.readouterr()
    assert "$MY_API_KEY\n" in said.out and SECRET not in said.out + said.err


@pytest.mark.parametrize("option", ["--hydra-help", "--info"])
def test_what_else_hydra_prints_is_printed(capfd, option):
    assert main("train", [option]) == 0
    assert capfd.readouterr().out.strip()


def test_a_configuration_that_is_printed_and_refers_to_a_key_of_that_name(refused_command):
    said = refused_command("train", "--cfg", "job", "--resolve", f"weights='${{{REFERENCE}}}'")
    assert said.startswith("error: configuration: Interpolation key '$MY_API_KEY' not found; correct it, or set ")


ODD = "it's <my> \"secret\" \\ & password"


def test_a_page(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", ODD)
    facts, content = {f"fact of {ODD}": ODD}, {"rows": [{"class": f"a {ODD}"}], ODD: 1}
    write_page(tmp_path / "page.html", "dataset.html.j2", title=f"of {ODD}", facts=facts, pictures=[], content=content)
    text = (tmp_path / "page.html").read_text()
    assert text.count("$MY_PASSWORD") == 6 and "secret" not in text


def test_a_data_set_that_is_named_by_a_secret(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    content = {"images": [{"id": 1, "file_name": "1.png", "width": 256, "height": 144}], "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
    ], "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
    for split in ("train", "val"):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content))
    assert dataset.main(["data=custom", "data.root=.", f"data.name='{REFERENCE}'", "samples=0"]) == 0
    page = tmp_path / "outputs" / "dataset" / "$MY_API_KEY" / "dataset.html"
    assert "<title>The data set $MY_API_KEY</title>" in page.read_text()
    assert SECRET not in everything_in(tmp_path) + "".join(capfd.readouterr())


def yaml_of(content: dict) -> str:
    return yaml.safe_dump(content, allow_unicode=True)  # as OmegaConf does


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump, yaml_of])
@pytest.mark.parametrize(
    "odd",
    [
        "it's a 'password' of mine", 'a "password" of \\ mine', "# it's \"mine\", my 'password'",
        "mine in caf\u00e9 it's\ta \"secret\" one", "mine is mine " * 12 + "and mine",
        "caf\u00e9\t\"mine\" is mine " * 12 + "and mine",
    ],
)  # fmt: skip
def test_a_secret_with_characters_that_are_written_another_way(monkeypatch, write, odd):
    monkeypatch.setenv("MY_PASSWORD", odd)
    assert "mine" not in redacted(write({"of": f"it is {odd}", "by itself": odd}))


@pytest.mark.parametrize("start", ["/", "~", "."])
def test_a_key_that_begins_like_a_path(refused_command, monkeypatch, start):
    secret = f"{start}bPxRfiCYEXAMPLEKEY0123456789abcdefghijk"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    said = refused_command("train", f"weights='{secret}'")
    assert "holds the value of $AWS_SECRET_ACCESS_KEY" in said and secret not in said


def test_the_path_of_a_file_with_a_key_is_no_secret(monkeypatch, tmp_path):
    (tmp_path / "credentials.json").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GOOGLE_CREDENTIALS", str(tmp_path / "credentials.json"))
    monkeypatch.setenv("AWS_CREDENTIALS", "~/credentials.json")
    assert secrets_in_environment() == {"MY_API_KEY": SECRET}


def test_the_filter_leaves_other_messages_alone():
    record = logging.makeLogRecord({"msg": "%d of %d", "args": (1, 2)})
    assert RedactingFilter().filter(record)
    assert (record.msg, record.args) == ("%d of %d", (1, 2))
