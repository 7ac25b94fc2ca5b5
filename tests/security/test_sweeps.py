"""Sweeps and searches: jobs stay in the sweep's folder, and a study where the command line has put it."""

from importlib.util import find_spec

import pytest

from neo_model.config.compose import compose
from neo_model.config.hydra_guard import check_composed_hydra

WHOLE = "# @package _global_\n"
SEARCH = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "seed=choice(1,2)"]
# Valid, with a value that is refused once all that is of Hydra has passed.
AFTERWARDS = ["epochs=0", "data.root=x"]

needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="needs the extra [optuna]")

NO_DATABASE = "is no database that studies may be kept in; give sqlite:///FILE, postgresql://... or mysql://..."


@needs_optuna
@pytest.mark.parametrize(
    "storage", ["redis://localhost", "rediss://localhost", "sqlite", "mssql://host/x", "3", "['sqlite:///x']", "{a: b}"]
)
def test_a_storage_that_is_no_sql_database(refused_command, storage):
    said = refused_command("train", *SEARCH, f"hydra.sweeper.storage={storage}")
    assert said == f"error: hydra.sweeper.storage: {NO_DATABASE}\n"


@needs_optuna
@pytest.mark.parametrize("storage", ["sqlite:///x", "sqlite+pysqlite:///x", "postgresql://host/x", "mysql://host/x"])
def test_a_storage_on_the_command_line(refused_command, storage):
    said = refused_command("train", *SEARCH, *AFTERWARDS, f"hydra.sweeper.storage={storage}")
    assert said.startswith("error: epochs: 0 is not ")


@needs_optuna
@pytest.mark.parametrize("chosen", ["hydra.sweeper.n_jobs=1", "hydra.sweeper.study_name=hydra.sweeper.storage"])
def test_a_storage_in_a_file(refused_command, written, tmp_path, chosen):
    node = f"hydra: {{sweeper: {{storage: 'sqlite:///{tmp_path}/canary'}}}}"
    said = refused_command("train", *SEARCH, *written({"local/default.yaml": f"{WHOLE}{node}"}, [chosen]))
    remedy = "give hydra.sweeper.storage=... on the command line"
    assert said == f"error: hydra.sweeper.storage: is set in a file; {remedy}\n"


@needs_optuna
def test_a_storage_in_a_file_that_claims_the_command_line(refused_command, written, tmp_path):
    claimed = f"hydra.sweeper.storage=sqlite:///{tmp_path}/canary"
    node = f"hydra: {{overrides: {{hydra: ['{claimed}']}}, sweeper: {{storage: 'sqlite:///{tmp_path}/canary'}}}}"
    said = refused_command("train", *SEARCH, *written({"local/default.yaml": f"{WHOLE}{node}"}, []))
    assert said.startswith("error: hydra.sweeper.storage: is set in a file; ")


@needs_optuna
def test_a_study_whose_sampler_unpickles_what_it_holds(refused_command, written):
    node = "hydra: {sweeper: {sampler: {_target_: optuna.samplers.CmaEsSampler}}}"
    folder = written({"local/default.yaml": f"{WHOLE}{node}"}, [])
    assert refused_command("train", *SEARCH, *AFTERWARDS, *folder).startswith("error: epochs: 0 is not ")
    said = refused_command("train", *SEARCH, *folder, "hydra.sweeper.storage=sqlite:///x")
    assert said.startswith("error: hydra.sweeper.sampler: would unpickle what the study holds; ")


@pytest.mark.parametrize(("launcher", "key"), [("joblib", "temp_folder"), ("submitit_local", "submitit_folder")])
def test_a_folder_of_jobs_pickles_in_a_file(refused_command, written, tmp_path, launcher, key):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    node = f"hydra: {{launcher: {{{key}: '{tmp_path}/canary'}}}}"
    sweep = ["-m", "seed=1,2", f"hydra/launcher={launcher}"]
    said = refused_command("train", *sweep, *written({"local/default.yaml": f"{WHOLE}{node}"}, []))
    assert said.startswith(f"error: hydra.launcher.{key}: is set in a file; ")
    own = refused_command("train", *sweep, *AFTERWARDS, f"hydra.launcher.{key}=x")
    assert own.startswith("error: epochs: 0 is not ")


@needs_optuna
def test_a_search_space_beside_the_params(refused_command, written):
    space = "{'+hydra.callbacks.x': {type: categorical, choices: ['{_target_: os.system}']}}"
    folder = written({"local/default.yaml": f"{WHOLE}hydra: {{sweeper: {{search_space: {space}}}}}"}, [])
    said = refused_command("train", *SEARCH, *folder)
    assert said.startswith("error: hydra.sweeper.search_space: is refused; ")


OUTSIDE = "error: hydra.sweep.subdir: is no single folder within the sweep's; write a name, with no reference but "
# Of which job 0 stays within the sweep's folder.
REFERENCES = [
    "${oc.dict.values:criterion}", "${hydra.job.override_dirname}", "${hydra.job.name}", "${hydra.job.id}",
    "${weights}", "${seed}", "${oc.select:hydra.sweeper.params.${hydra.job.num},x}", "${sweep_job_folder:.,${oc.env:NONE,}}",
]  # fmt: skip


@pytest.mark.parametrize("name", [".", "..", "''", "/x", "../x", "x/../../y", "a/${hydra.job.num}", "'x\ny'"])
def test_a_jobs_folder_that_is_none_within_the_sweeps(refused_command, name):
    said = refused_command("train", "-m", "seed=1,2", f"hydra.sweep.subdir={name}")
    assert said == OUTSIDE + "${hydra.job.num}\n"


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_jobs_folder_that_may_be_another_one_in_another_job(refused_command, written, reference):
    said = refused_command("train", "-m", "seed=1,2", "weights=null,x", f"hydra.sweep.subdir='x{reference}'")
    assert said == OUTSIDE + "${hydra.job.num}\n"
    node = f"hydra: {{sweep: {{subdir: 'x{reference}'}}}}"
    folder = written({"local/default.yaml": f"{WHOLE}{node}"}, [])
    assert refused_command("train", "-m", "seed=1,2", *folder) == said


@pytest.mark.parametrize("name", ["x", "job${hydra.job.num}", "${hydra.job.num}_of_my=2"])
def test_a_jobs_folder_of_ones_own(name):
    check_composed_hydra(compose("train", ["hydra.run.dir=x", f"hydra.sweep.subdir='{name}'"]))
