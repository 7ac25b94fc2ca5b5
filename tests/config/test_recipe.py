"""A recipe beside groups chosen on the command line: what it keeps of its own is said."""

import pytest
from omegaconf import OmegaConf

from neo_model.config.compose import compose
from neo_model.config.recipe import tell_what_recipes_keep


@pytest.fixture
def mine(tmp_path) -> list[str]:
    """Arguments that choose a recipe of one's own, which sets keys in two groups."""
    folder = tmp_path / "mine" / "experiments"
    folder.mkdir(parents=True)
    (folder / "slow.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /schedule: cosine\n"
        "schedule: {warmup_steps: 7, warmup_epochs: 3}\noptim: {lr: 3e-4}\n"
    )
    return ["--config-dir", str(tmp_path / "mine"), "experiments=slow"]


def test_printing_a_configuration_names_what_the_recipe_keeps(command):
    arguments = ["experiments=bccd_cpu", "data/augment=none", "ema=default", "data.augment.until=null"]
    outcome = command("train", *arguments, "--cfg", "job")
    assert outcome.code == 0
    assert outcome.err == (
        "note: experiments=bccd_cpu keeps ema.decay=0.998, data.augment.zoom_out=0.25, data.augment.iou_crop=0.5 over "
        "the chosen ema, data/augment; give them on the command line to change them\n"
    )
    assert OmegaConf.create(outcome.out).data.augment.zoom_out == 0.25


def test_a_run_says_what_the_recipe_keeps_and_an_error_stays_one_line(command, tiny, mine, monkeypatch):
    monkeypatch.setattr("neo_model.config.jobs.train_job", lambda *arguments, **options: 0.25)
    outcome = command("train", *mine, *tiny, "schedule=constant", "schedule.warmup_steps=2")
    assert outcome.code == 0
    said = "note: experiments=slow keeps schedule.warmup_epochs=3 over the chosen schedule; give them"
    assert outcome.err.startswith(said) and outcome.err.count("\n") == 1
    assert command("train", *mine, *tiny, "schedule=constant", "epochs=0").error.startswith("error: epochs: 0 is not")


def test_a_sweep_says_it_once(command, tiny, mine, monkeypatch):
    monkeypatch.setattr("neo_model.config.sweep.hydra.main", lambda **options: lambda job: lambda: None)
    outcome = command("train", "-m", *mine, *tiny, "schedule=constant,flat_cosine")
    kept = "schedule.warmup_epochs=3, schedule.warmup_steps=7"
    give = "give them on the command line to change them"
    assert outcome.err == f"note: experiments=slow keeps {kept} over the chosen schedule; {give}\n"


def test_where_a_key_that_only_the_recipe_brings_is_changed_the_note_is_general(command, mine, tmp_path):
    recipe = tmp_path / "mine" / "experiments" / "slow.yaml"
    recipe.write_text("# @package _global_\nschedule: {warmup_steps: 7, extra: 1}\n")
    outcome = command("train", *mine, "schedule=constant", "ema=none", "schedule.extra=2", "--cfg", "job")
    assert outcome.code == 0
    assert outcome.err == (
        "note: experiments=slow may keep keys of its own in the chosen schedule, ema; see --cfg job\n"
    )


@pytest.mark.parametrize(
    "overrides",
    [["experiments=bccd_cpu"], ["ema=none"], ["experiments=overfit", "ema=none"]],
)
def test_where_nothing_is_kept_nothing_is_said(overrides, capfd):
    tell_what_recipes_keep([(overrides, compose("train", overrides))], None)
    assert capfd.readouterr().err == ""
