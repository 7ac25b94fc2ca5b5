"""The configuration of an earlier run, with the command line on top: for resume and eval.py."""

from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from neo_model.config import schema
from neo_model.config.compose import compose_collecting, is_group, parse_overrides
from neo_model.config.problems import from_hydra, raise_all, unknown_key
from neo_model.config.validate import validate_training
from neo_model.utils import UserError
from neo_model.utils.collecting import importing
from neo_model.utils.files import is_there
from neo_model.utils.quoting import typed

DATA_VIEW = ("resolution", "augment", "fit")


def restore_training_config(
    saved: dict, overrides: list[str] = (), *, further_keys: Iterable[str] = (), training: bool = True
) -> DictConfig:
    """A saved training configuration, changed by overrides and checked.

    A group such as ``data/resolution=1280x720`` is composed as for training and replaces what is there; a value
    such as ``optim.lr=1e-4`` must name an existing key. ``data=`` changes the pictures and keeps the resolution.

    Args:
        saved: plain unresolved containers, from a checkpoint.
        overrides: as on the command line.
        further_keys: what else the command line takes, to suggest for a misspelt key.
        training: whether it is to train; if not, loggers and the user's own augmentation are checked, then left out.

    Raises:
        UserError: one error that lists everything wrong with the overrides or the saved configuration.
    """
    config = OmegaConf.create({**schema.LATER_SETTINGS, **saved})
    parsed = parse_overrides(list(overrides))
    groups = [override for override in parsed if is_group(override.key_or_group)]
    found = _replace_groups(config, groups)
    OmegaConf.set_struct(config, True)
    for override in parsed:
        if override not in groups and (problem := _set_value(config, override, further_keys)):
            found.append(problem)
    if not training:
        validate_training(config, found, building=False)
        _leave_out_what_only_trains(config)
    validate_training(config, found)
    return config


def _leave_out_what_only_trains(config: DictConfig) -> None:
    """Loggers, which may lack a service here, and the transforms of albumentations, each of which would be tried."""
    config.logger = {}
    data = OmegaConf.to_container(config.data)
    data["augment"] = OmegaConf.to_container(config.data.augment) | {"extra": None}
    OmegaConf.update(config, "data", data, merge=False)


def resumed_config(run_dir: Path, overrides: list[str]) -> DictConfig:
    """The configuration to go on with in ``run_dir``: that of its newest checkpoint, under overrides.

    Raises:
        UserError: there is no run, or the overrides change more than a resumed run may.
    """
    with importing():
        from neo_model.engine.checkpoint_folder import CheckpointFolder

    checkpoints = CheckpointFolder(run_dir)
    if checkpoints.is_empty():
        remedy = "give a folder of outputs/train"
        if is_there(run_dir / "config.yaml"):  # of a run that was killed before its first checkpoint
            remedy = f"repeat the command that started it, with {typed('hydra.run.dir', run_dir)} resume=auto"
        raise UserError("resume", f"{run_dir} holds no checkpoints/last.pt", remedy)
    checkpoint = checkpoints.newest().content
    config = restore_training_config(checkpoint["config"], overrides)
    refuse_another_training(run_dir, checkpoint, config)
    return config


def refuse_another_training(run_dir: Path, checkpoint: dict, config: DictConfig) -> None:
    """Compare the configuration to go on with with the one in the run's checkpoint.

    Raises:
        UserError: listing every difference that a resumed run may not have.
    """
    before, after = _flat(checkpoint["config"]), _flat(OmegaConf.to_container(config))
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    is_within_epoch = checkpoint["progress"]["batch"] > 0
    refused = [(key, _resume_remedy(run_dir, key, before, after, is_within_epoch=is_within_epoch)) for key in changed]
    raise_all([
        UserError(key, f"is {before.get(key)!r} in {run_dir}, not {after.get(key)!r}", remedy)
        for key, remedy in refused
        if remedy
    ])


def _resume_remedy(run_dir: Path, key: str, before: dict, after: dict, *, is_within_epoch: bool) -> str | None:
    """What to do instead of changing ``key`` in a resumed run; None if it may change."""
    kept, chosen = ("null" if settings.get(key) is None else settings[key] for settings in (before, after))
    is_part = before.get("limit_batches") is not None  # as many batches of another size are other images
    if key in schema.DECIDES_AP or (key == "hardware.batch_size" and is_part):
        measured = f"python eval.py {typed('ckpt', run_dir / 'checkpoints' / 'best.pt')} {key}={chosen}"
        return f"the best AP so far was measured with it: go on with {key}={kept}, and see {measured} for another"
    if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in schema.CHANGEABLE_ON_RESUME):
        changeable = ", ".join(schema.CHANGEABLE_ON_RESUME)
        return f"a resumed run may change {changeable}; for another {key} start a new run, with weights= if you like"
    if is_within_epoch and key in schema.FIXED_WITHIN_AN_EPOCH:
        return f"the run stopped within an epoch: go on with {key}={kept}, it may change between epochs"
    return None


def _replace_groups(config: DictConfig, groups: list[Override]) -> list[UserError]:
    """Compose the chosen groups together and put each one's node where the saved one was; returns what is wrong."""
    if not groups:
        return []
    for override in groups:
        if override.key_or_group.split("/")[0] not in config:
            raise UserError(override.input_line, "is a recipe for whole runs", "give the keys to change instead")
        if override.is_add() or override.is_delete() or override.package is not None:
            raise UserError(override.input_line, "cannot be added to a saved run", "write GROUP=CHOICE")
    composed, found = compose_collecting("train", [override.input_line for override in groups])
    for override in sorted(groups, key=lambda override: override.key_or_group):
        key = override.key_or_group.replace("/", ".")
        node = OmegaConf.select(composed, key).copy()
        if key == "data":
            # What the network sees of other pictures stays as in training unless it is chosen as well.
            node.update({name: config.data[name] for name in DATA_VIEW if name in config.data})
        OmegaConf.update(config, key, node, merge=False)
    return found


def _set_value(config: DictConfig, override: Override, further_keys: Iterable[str]) -> UserError | None:
    key = override.key_or_group
    if override.is_sweep_override():
        return UserError(key, "gives several values", "give one")
    try:
        if override.is_delete():
            OmegaConf.update(config, key, None)
        else:
            OmegaConf.update(config, key, override.value(), merge=True, force_add=override.is_add())
    except OmegaConfBaseException as error:
        exists = OmegaConf.select(config, key) is not None
        return from_hydra(error, config, []) if exists else unknown_key(key, config, further_keys=further_keys)
    return None


def _flat(plain: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in plain.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
