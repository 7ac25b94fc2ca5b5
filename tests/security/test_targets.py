"""``_target_`` of anything but our own public classes: refused before an import, wherever and however it is written."""

import sys
from pathlib import Path

import hydra.utils
import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neo_model.config.instantiate import instantiate
from neo_model.config.restore import restore_training_config
from neo_model.deploy import load_detector
from neo_model.utils import UserError
from tests.security.conftest import changed, running, touching
from tests.security.test_weight_files import checkpoint_of

OUTSIDE = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.utils.collect_env.run",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    # Walking through a module of ours to what it imports, and to what is no class.
    "neo_model.models.weights.torch.load",
    "neo_model.config.instantiate.hydra.utils.get_method",
    "neo_model.models.rtdetr.RTDETR",
    "neo_model.engine.load_weights",
    "neo_model.engine.__loader__",
    "neo_model.engine.__class__",
    # The name of an allowed class in another dress.
    "Neo_Model.engine.TensorBoard",
    "NEO_MODEL.ENGINE.TENSORBOARD",
    "neo_model.engine.tensorboard",
    "neo_model.engine..TensorBoard",
    " neo_model.engine.TensorBoard",
    "neo_model.engine.TensorBoard\n",
    "neo_model.engine.TensorBoard\0",
    "neo_model/engine.TensorBoard",
    "neo_model\u2024engine.TensorBoard",
    "neo_model.eng\u0131ne.TensorBoard",
    "neo_model.engine.\uff34ensorBoard",
    "neo_model.engine.Tensor\u200bBoard",
    "\uff4f\uff53.system",
    "",
    ".",
    3,
    None,
    ["os.system"],
    {"_target_": "os.system"},
]


def test_the_target_is_live(tmp_path):
    hydra.utils.instantiate(running(touching(tmp_path / "fired")))
    assert (tmp_path / "fired").exists()


@pytest.mark.parametrize("target", OUTSIDE, ids=ascii)
def test_a_target_outside_the_list(refusal, canary, saved_config, target):
    node = {"_target_": target, "command": touching(canary)}
    assert "logger.evil" in refusal(lambda: instantiate({"evil": node}, key="logger"))
    assert "logger.evil" in refusal(lambda: restore_training_config(changed(saved_config, "logger.evil", node)))


@pytest.mark.parametrize("job", ["train", "eval"])
def test_nothing_is_imported_for_a_refused_target(refused_command, canary, tmp_path, monkeypatch, saved_config, job):
    """Not even if it is only seen once references are followed, and the module would run when it is imported."""
    (tmp_path / "evil_module.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EVIL_TARGET", "evil_module.Thing")
    node = {"_target_": "${oc.env:EVIL_TARGET}"}
    config = changed(changed(saved_config, "logger.evil", node), "model.backbone", node)
    checkpoint = checkpoint_of({"config": config}, tmp_path / "best.pt")
    hostile = {"train": [f"model._target_={node['_target_']}"], "eval": [f"ckpt={checkpoint}"]}
    refused = "._target_: 'evil_module.Thing' is not allowed here; use neo_model."
    assert refused in refused_command(job, *hostile[job])
    assert "evil_module" not in sys.modules
    with pytest.raises(UserError, match="evil_module.Thing"):
        instantiate(OmegaConf.create(node))
    assert "evil_module" not in sys.modules


PLACES = [
    "model",
    "model.backbone",
    "model.backbone.depth",
    "criterion",
    "criterion.matcher",
    "optim",
    "optim.lr",
    "optim._args_",
    "schedule",
    "ema",
    "evaluation",
    "data",
    "data.resolution",
    "data.augment",
    "data.extra.deeply.nested",
    "hardware",
    "logger",
    "seed",
    "unknown",
]


@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: [[node]]], ids=["node", "in lists"])
@pytest.mark.parametrize("place", PLACES)
def test_a_target_anywhere_in_a_checkpoints_config(refusal, canary, saved_config, place, wrap):
    config = changed(saved_config, place, wrap(running(touching(canary))))
    assert place.split(".")[0] in refusal(lambda: restore_training_config(config))


def references(command: str) -> dict[str, dict]:
    """Keys to add to a configuration in which the target or its node is only referred to."""
    evil = running(command)
    return {
        "to a text": {"name": evil["_target_"], "logger": {"x": {**evil, "_target_": "${name}"}}},
        "to a node": {"evil": evil, "logger": {"x": "${evil}"}},
        "to a node of nodes": {"evil": {"x": evil}, "logger": "${evil}"},
        "by a chain": {"a": "${b}", "b": "${c}", "c": evil, "logger": {"x": "${a}"}},
        "in pieces": {"logger": {"x": {**evil, "_target_": "${weights}.utils.collect_env.run"}}, "weights": "torch"},
        "to the environment": {"logger": {"x": {**evil, "_target_": "${oc.env:EVIL_TARGET}"}}},
        "decoded": {"logger": {"x": {**evil, "_target_": "${oc.decode:${oc.env:EVIL_TARGET}}"}}},
        "decoded to a node": {"logger": {"x": "${oc.decode:${oc.env:EVIL_NODE}}"}},
        "created": {"logger": {"x": "${oc.create:${oc.decode:${oc.env:EVIL_NODE}}}"}},
        "selected": {"evil": evil, "logger": {"x": "${oc.select:evil}"}},
        "relative": {"logger": {"y": evil, "x": "${.y}"}},
        "to itself": {"logger": {"x": "${logger.x}"}},
        "to what it holds": {"logger": {"x": {"_target_": "${logger}"}}},
        "by an unknown resolver": {"logger": {"x": {"_target_": "${eval:1}"}}},
        "to Hydra": {"logger": {"x": "${hydra:runtime}"}},
    }


@pytest.mark.parametrize("name", references(""))
def test_a_target_that_is_referred_to(refusal, canary, saved_config, monkeypatch, name):
    command = touching(canary)
    monkeypatch.setenv("EVIL_TARGET", running(command)["_target_"])
    monkeypatch.setenv("EVIL_NODE", f"{{_target_: torch.utils.collect_env.run, command: '{command}'}}")
    added = references(command)[name]
    refusal(lambda: restore_training_config({**saved_config, **added}))
    with pytest.raises((UserError, OmegaConfBaseException)):  # past all checks but its own
        instantiate(OmegaConf.create({**saved_config, **added}).logger, key="logger")


@pytest.mark.parametrize("key", ["_partial_", "_recursive_", "_convert_", "_args_"])
@pytest.mark.parametrize("place", ["model", "model.backbone", "data.resolution", "evaluation"])
def test_hydras_own_keys_in_a_checkpoint(refusal, tmp_path, saved_config, place, key):
    config = changed(saved_config, f"{place}.{key}", {"_args_": [1], "_convert_": "none"}.get(key, True))
    path = checkpoint_of({"config": config}, tmp_path / "best.pt")
    assert f"{place}.{key}" in refusal(lambda: load_detector(path))
    assert f"{place}.{key}" in refusal(lambda: restore_training_config(config))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model", {"backbone": {}, "_target_": "torch.utils.collect_env.run"}),
        ("model.backbone", running("true")),
        ("model.backbone", "text"),
        ("model.backbone", {"_target_": "neo_model.models.RTDETR"}),
        ("model.backbone.depth", 3),
        ("model.backbone", "${evil}"),
        ("model.unknown", 1),
        ("model.encoder_dim", "wide"),
        ("data.resolution", running("true")),
        ("data.resolution", {"_target_": "neo_model.data.ShapesData"}),
        ("data.fit", running("true")),
        ("data.fit", "crop"),
        ("evaluation", running("true")),
        ("evaluation", {"_target_": "neo_model.optim.AdamW"}),
    ],
)
def test_a_checkpoint_given_to_the_detector(refusal, tmp_path, saved_config, place, value):
    path = checkpoint_of({"config": changed(saved_config, place, value)}, tmp_path / "best.pt")
    assert place in refusal(lambda: load_detector(path))


def test_a_target_in_the_checkpoint_given_to_eval(refused_command, canary, tmp_path, saved_config):
    config = changed(saved_config, "logger.evil", running(touching(canary)))
    path = checkpoint_of({"config": config}, tmp_path / "best.pt")
    assert "logger.evil._target_: 'torch.utils.collect_env.run'" in refused_command("eval", f"ckpt={path}")


# Places of free text, by what stands there when the text is given.
PLACES_OF_TEXT = {
    "data.root": lambda text: text,
    "logger.x": lambda text: {"_target_": "neo_model.engine.WandbLogger", "project": text},
    "data.augment.extra": lambda text: {"x": [[text]]},
}


def escaped(times: int, canary: Path) -> str:
    """A reference to a node that runs a command, behind as many backslashes as leave it a text that many times."""
    node = f"{{_target_: torch.utils.collect_env.run, command: '{touching(canary)}'}}"
    return "\\" * (2**times - 1) + f"${{oc.create:{node}}}"


@pytest.fixture(params=PLACES_OF_TEXT)
def place_of_text(request):
    return request.param, PLACES_OF_TEXT[request.param]


def test_an_escaped_reference_is_live(tmp_path):
    hydra.utils.instantiate({"_target_": "builtins.dict", "root": escaped(0, tmp_path / "fired")})
    assert (tmp_path / "fired").exists()


@pytest.mark.parametrize("times", [1, 2])
def test_an_escaped_reference_in_a_checkpoint(
    refusal, refused_command, canary, tmp_path, saved_config, place_of_text, times
):
    place, around = place_of_text
    config = changed(saved_config, place, around(escaped(times, canary)))
    path = checkpoint_of({"config": config}, tmp_path / "run" / "checkpoints" / "last.pt")
    assert "oc.create" in refusal(lambda: load_detector(path))
    assert "oc.create" in refused_command("eval", f"ckpt={path}")
    assert "oc.create" in refused_command("train", f"resume={tmp_path / 'run'}")


@pytest.mark.parametrize("times", [1, 2])
def test_an_escaped_reference_in_a_folder_of_configurations(refused_command, canary, tmp_path, place_of_text, times):
    place, around = place_of_text
    file = tmp_path / "mine" / "local" / "default.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\n" + yaml.safe_dump(changed({}, place, around(escaped(times, canary)))))
    assert "oc.create" in refused_command("train", f"--config-dir={tmp_path / 'mine'}")


@pytest.mark.parametrize("times", [1, 2])
def test_an_escaped_reference_on_the_command_line(refused_command, canary, times):
    text = escaped(times, canary).replace("'", "\\'")
    assert refused_command("train", f"data.root='{text}'").startswith("error: data.root: holds a reference")


def test_an_escaped_reference_in_a_launcher(refused_command, canary, tmp_path):
    file = tmp_path / "mine" / "hydra" / "launcher" / "evil.yaml"
    file.parent.mkdir(parents=True)
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher", "x": escaped(1, canary)}
    file.write_text(yaml.safe_dump(launcher))
    said = refused_command("train", "-m", "seed=1,2", f"--config-dir={tmp_path / 'mine'}", "hydra/launcher=evil")
    assert "oc.create" in said


def test_a_reference_that_is_left_over(refusal):
    """In the names of dictionaries too, and where the caller has followed references already."""
    for extra in ({"${x}": 1}, {"x": ["a ${x}"]}):
        assert "data.extra" in refusal(lambda extra=extra: instantiate({"extra": extra}, key="data"))


BUILDERS = {
    "of YAML": "${oc.create:'a: &a [1, 1, 1]\nb: [*a, *a, *a]'}",
    "by a name in pieces": "${${create}:'a: &a [1, 1, 1]\nb: [*a, *a, *a]'}",
    "of a text that references make longer": "${oc.decode:'[[1, 1], [1, 1]]'}",
    "by a name behind a dot": "${oc.${end}:'a: &a [1, 1, 1]\nb: [*a, *a, *a]'}",
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_reference_that_makes_structures_in_a_checkpoint(refusal, refused_command, tmp_path, saved_config, builder):
    """YAML's aliases would multiply them past every count of entries and references."""
    added = {"create": "oc.create", "end": "create", "x": BUILDERS[builder]}
    path = checkpoint_of({"config": {**saved_config, **added}}, tmp_path / "best.pt")
    assert "oc.create" in refusal(lambda: load_detector(path))
    assert "oc.create" in refused_command("eval", f"ckpt={path}")


BOMBS = {
    "of nodes": lambda key: {"a": f"${{{key}}}", "b": f"${{{key}}}"},
    "of texts": lambda key: f"${{{key}}}${{{key}}}",
}


@pytest.mark.parametrize("shape", BOMBS)
def test_a_bomb_of_references(refusal, refused_command, tmp_path, saved_config, shape):
    """Each level is the one below twice over: 2^30 in all, which no test would see the end of."""
    levels = {f"x{level + 1}": BOMBS[shape](f"data.augment.extra.x{level}") for level in range(30)}
    config = changed(saved_config, "data.augment.extra", {"x0": "x", **levels})
    path = checkpoint_of({"config": config}, tmp_path / "run" / "checkpoints" / "last.pt")
    said = "has too many references (60)"
    assert said in refusal(lambda: load_detector(path))
    assert said in refused_command("eval", f"ckpt={path}")
    assert said in refused_command("train", f"resume={tmp_path / 'run'}")
    file = tmp_path / "mine" / "local" / "default.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\n" + yaml.safe_dump({"data": {"augment": {"extra": levels}}}))
    assert "has too many references" in refused_command("train", f"--config-dir={tmp_path / 'mine'}")
