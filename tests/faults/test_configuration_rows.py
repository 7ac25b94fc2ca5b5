"""Faults of the command line, of weights and of sweeps: rows 16 and 21 to 29 of the README's table."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from neo_model.config import run_dir as run_dirs
from neo_model.config.run_dir import new_folder
from tests.config.conftest import CPU, SIZE
from tests.config.test_resume import last
from tests.config.test_sweep import results
from tests.data.conftest import write_json


def custom(folder: Path) -> list[str]:
    return ["model=tiny", "data=custom", f"data.root={folder}", *SIZE, *CPU, "logger=none", "epochs=1"]


def test_row_16_an_empty_validation_set(refused, make_coco):
    folder = make_coco("mine", ["crate"])
    path = folder / "instances_val.json"
    content = json.loads(path.read_text())
    write_json(path, {**content, "images": [], "annotations": []})
    assert f"error: {path}: holds no images; " in refused("train", *custom(folder))
    write_json(path, {**content, "annotations": []})
    assert f"error: {path}: holds no boxes to evaluate on; " in refused("train", *custom(folder))


MISSPELT = {
    "optm.lr=1e-4": ["optm.lr: there is no such key", "did you mean optim.lr"],
    "+optim.lrr=1e-4": ["optim.lrr: there is no such key", "did you mean optim.lr?"],
    "++optim.lrr=1e-4": ["optim.lrr: there is no such key", "did you mean optim.lr?"],
    "model.num_classes=3": ["model.num_classes: the number of classes comes from the annotations; leave it out"],
    "model=rtdetr_r51": ["model=rtdetr_r51: there is no such choice", "did you mean rtdetr_r50"],
    "data/resolution=1000x500": ["data/resolution=1000x500", "did you mean 960x540"],
}


@pytest.mark.parametrize("override", MISSPELT)
def test_row_21_a_misspelt_key_with_the_nearest_name(refused, override):
    error = refused("train", override)
    assert all(part in error for part in MISSPELT[override]), error


@pytest.mark.parametrize("sign", ["", "+"])
def test_row_21_a_misspelt_key_of_a_sweeper_with_the_nearest_name(refused, sign):
    error = refused("train", "-m", "seed=1,2", f"{sign}hydra.sweeper.max_batch_sise=2")
    known = "hydra.sweeper.max_batch_size"
    assert f"error: hydra.sweeper.max_batch_sise: there is no such key; did you mean {known}?" in error


WRONG = {
    "optim.lr=fast": ["optim.lr: 'fast' is not a number", "give a number above 0"],
    "optim.lr=nan": ["optim.lr: nan is not"],
    "optim.lr=-1": ["optim.lr: -1 is not", "above 0"],
    "optim.betas=[0.9]": ["optim.betas: [0.9] is not a list of 2, each a number between 0 and 1"],
    "optim.betas=[0.9,0.99,0.5]": ["optim.betas: [0.9, 0.99, 0.5] is not a list of 2, each a number between 0 and 1"],
    "optim.betas=[0.9,1.0]": ["optim: betas=[0.9, 1.0] must be below 1"],
    "seed=99999999999999999999": ["seed: 99999999999999999999 is not", "between 0 and 9223372036854775807"],
    "model.backbone.width=1": ["model.backbone.width: 1 is not a whole number at least 2"],
    "hardware.batch_size=0": ["hardware.batch_size: 0 is not a whole number between 1 and 2147483647"],
    "data.resolution.width=1000": ["data/resolution 1000x270: is not 16:9", "use 480x270 or 992x558"],
}


@pytest.mark.parametrize("override", WRONG)
def test_row_22_a_value_that_makes_no_sense_leaves_no_run(refused, override):
    error = refused("train", override)
    assert all(part in error for part in WRONG[override]), error


def test_row_22_a_folder_of_data_that_is_named_with_digits(refused, make_coco):
    make_coco("2024", ["crate"])
    how = """write ./2024 for a path, '"2024"' for any other text"""
    assert refused("train", *custom("2024")) == f"error: data.root: 2024 is not text; {how}\n"
    assert refused("train", *custom("null")) == "error: data.root: null is not text; give text\n"
    assert "optim.lr" in refused("train", *custom("./2024"), "optim.lr=0")


WRONG_SIZES = {
    "model.encoder_expansion=0.001": "encoder_expansion=0.001 of encoder_dim=64 is less than one channel",
    "model.num_heads=3": "num_heads=3 must divide encoder_dim=64 and decoder_dim=64",
    "model.encoder_dim=66 model.num_heads=2": "encoder_dim=66 must be a multiple of 4",
}


@pytest.mark.parametrize("overrides", WRONG_SIZES)
def test_row_22_sizes_that_only_the_model_can_refuse_leave_no_run(refused, tiny, overrides):
    error = refused("train", *tiny, *overrides.split())
    assert error == f"error: model: {WRONG_SIZES[overrides]}; change it\n"


def test_row_22_a_mode_that_wandb_does_not_know_leaves_no_run(refused, tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "foo")
    error = refused("train", *tiny, "logger=wandb")
    assert error.startswith("error: WANDB_MODE: W&B has no mode 'foo'; set the variable to one of online, offline, ")


def test_row_23_a_checkpoint_of_other_classes(command, refused, make_coco, run_of_a_step):
    best = run_of_a_step / "checkpoints" / "best.pt"
    folder = make_coco("mine", ["crate", "ball"])
    error = refused("eval", f"ckpt={best}", "data=custom", f"data.root={folder}", "overfit=0")
    assert f"{best}: has 5 classes, the data 2, first differing in 'ball' and 'crate', 'crate' and 'ball'" in error
    assert error.endswith("train on these data with weights=FILE rehead=true\n")
    error = refused("train", *custom(folder), f"weights={best}")
    assert f"{best}: has 5 classes, the data 2; give rehead=true" in error
    assert command("train", *custom(folder), f"weights={best}", "rehead=true", "limit_batches=1").code == 0


def test_row_23_the_same_classes_of_other_ids_are_evaluated_in_the_datas_ids(command, make_coco, run_of_a_step):
    best = run_of_a_step / "checkpoints" / "best.pt"
    folder = make_coco("mine", torch.load(best, weights_only=True)["classes"]["names"])
    own = [f"ckpt={best}", "data=custom", f"data.root={folder}", "overfit=0", "limit_batches=null", "conf_threshold=0"]
    assert command("eval", *own, "hydra.run.dir=as_trained").code == 0
    annotations = folder / "instances_val.json"
    content = json.loads(annotations.read_text())
    for category in content["categories"]:
        category["id"] = 10 * category["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 10 * annotation["category_id"]
    annotations.write_text(json.dumps(content))
    outcome = command("eval", *own, "hydra.run.dir=renumbered")
    assert outcome.code == 0, outcome.err
    before, after = ([json.loads(Path(at, name).read_text()) for name in ("metrics.json", "detections.json")]
                     for at in ("as_trained", "renumbered"))  # fmt: skip
    assert before[0] == after[0] and before[1]
    assert after[1] == [found | {"category_id": 10 * found["category_id"]} for found in before[1]]


def test_row_24_launches_in_one_moment_get_folders_of_their_own(tmp_path, monkeypatch):
    class Frozen:
        moments = iter([*["same"] * 8, *map(str, range(8))])

        @staticmethod
        def now():
            return Frozen()

        def strftime(self, form):
            return next(Frozen.moments)

    monkeypatch.setattr(run_dirs, "datetime", Frozen)
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(new_folder(tmp_path / "runs"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 4 and all(folder.is_dir() for folder in folders)
    assert sum(folder.name == "same" for folder in folders) == 1


@pytest.mark.slow
def test_row_25_a_failing_job_leaves_the_others_their_results(command, short, run_of_a_step):
    weights = f"weights=missing.pt,{run_of_a_step}/checkpoints/best.pt"
    outcome = command("train", "-m", weights, *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert outcome.code == 2
    failed, finished = results(Path("sweep"))
    assert failed["AP"] is None and failed["error"].startswith("missing.pt: there is no such file")
    assert finished["error"] is None and finished["AP"] >= 0
    assert "failed: missing.pt" in outcome.out and "weights=" in outcome.out.splitlines()[-1]
    assert "Traceback" not in outcome.err
    repeated = command("train", "-m", weights, *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert "already holds a sweep" in repeated.error
    assert results(Path("sweep")) == [failed, finished]


def test_row_25_a_crash_in_one_job_is_shown_and_tabled(command, short, monkeypatch):
    def crash_at_seed_1(config, open_folder, resume):
        if config.seed == 1:
            raise ZeroDivisionError("of ours")
        return 0.25

    monkeypatch.setattr("neo_model.config.jobs.train_job", crash_at_seed_1)
    outcome = command("train", "-m", "seed=1,2", *short, "data/resolution=480x270", "hydra.sweep.dir=sweep")
    assert outcome.code == 1
    assert [result["AP"] for result in results(Path("sweep"))] == [None, 0.25]
    assert "Traceback" in outcome.err and "ZeroDivisionError: of ours" in outcome.out


def test_row_26_another_machine_is_a_warning(command, run_of_a_step, monkeypatch):
    shutil.copytree(run_of_a_step, "run")
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    outcome = command("train", "resume=run", "hardware.precision=bf16")
    assert outcome.code == 0
    said = "the last bits of the weights may differ"
    (warning,) = [line for line in outcome.err.splitlines() if line.startswith(said)]
    assert "torch is 9.9.9, was 2." in warning and warning.endswith("precision is bf16, was fp32")


OTHER_AP = {
    "limit_batches=null": "1",
    "hardware.batch_size=2": "4",  # a batch is all that is evaluated of this run
    "evaluation.conf_threshold=0.5": "0.01",
    "evaluation.nms_threshold=0.7": "null",
    "evaluation.max_detections=10": "300",
}


@pytest.mark.parametrize("override", OTHER_AP)
def test_row_26_an_ap_of_another_meaning_does_not_replace_the_best_weights(refused, run_of_a_step, override):
    shutil.copytree(run_of_a_step, "run")
    key, kept = override.partition("=")[0], OTHER_AP[override]
    error = refused("train", "resume=run", "epochs=2", override)
    assert error.startswith(f"error: {key}: is ") and error.endswith(
        f"; the best AP so far was measured with it: go on with {key}={kept}, "
        f"and see python eval.py ckpt=run/checkpoints/best.pt {override} for another\n"
    )


def test_row_26_when_to_evaluate_may_change(command, run_of_a_step):
    shutil.copytree(run_of_a_step, "run")
    plan = ["every=2", "at_start=true", "patience=3", "pictures=1", "backend=pycocotools"]
    outcome = command("train", "resume=run", *[f"evaluation.{choice}" for choice in plan])
    assert outcome.code == 0 and "all 1 epochs are done" in outcome.err


NO_TENSORS = (
    "is not a plain weight file (damaged, or it holds objects other than tensors); "
    "give a file of tensors; nothing else is ever unpickled"
)
NOT_OURS = "is not a checkpoint of neo_model; start from such weights with weights=FILE in training"


@pytest.mark.parametrize("damage", ["text", "cut", "foreign", "pickle", "empty"])
def test_row_27_a_file_that_is_no_checkpoint(refused, run_of_a_step, tiny, tmp_path, damage):
    path = tmp_path / "bad.pt"
    if damage == "foreign":
        torch.save({"model": {"some.layer.weight": torch.ones(2)}}, path)
    elif damage == "pickle":
        torch.save({"model": Path("x")}, path)
    else:
        whole = (run_of_a_step / "checkpoints" / "best.pt").read_bytes()
        path.write_bytes({"text": b"not found", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    said = NOT_OURS if damage == "foreign" else NO_TENSORS
    assert refused("eval", f"ckpt={path}") == f"error: {path}: {said}\n"
    error = refused("train", *tiny, f"weights={path}", "hydra.run.dir=run")
    if damage == "foreign":
        assert f"error: {path}: belongs to another model (" in error
        assert error.endswith("; choose the model the weights were made for with model=\n")
    else:
        assert error.endswith(f"error: {path}: {said}\n")
    shutil.copytree(run_of_a_step, "resumed")
    shutil.copy(path, "resumed/checkpoints/last.pt")
    assert refused("train", "resume=resumed") == f"error: resumed/checkpoints/last.pt: {said}\n"


@pytest.mark.parametrize("progress", [None, {"step": 1, "epoch": 1, "batch": "0"}])
def test_row_27_a_checkpoint_that_does_not_say_how_far_it_was(refused, run_of_a_step, progress):
    shutil.copytree(run_of_a_step, "resumed")
    content = last("resumed")
    del content["progress"]
    torch.save(content if progress is None else content | {"progress": progress}, "resumed/checkpoints/last.pt")
    said = "its progress does not say how far training was; use a checkpoint that neo_model has written"
    assert refused("train", "resume=resumed") == f"error: resumed/checkpoints/last.pt: {said}\n"


def test_row_27_a_checkpoint_whose_optimizer_is_another_one(command, run_of_a_step):
    shutil.copytree(run_of_a_step, "resumed")
    content = last("resumed")
    content["optimizer"]["param_groups"].pop()
    torch.save(content, "resumed/checkpoints/last.pt")
    ended = command("train", "resume=resumed", "epochs=2")
    assert ended.code == 2 and "Traceback" not in ended.err
    said = "error: resumed/checkpoints/last.pt: its optimizer cannot be gone on with ("
    assert ended.err.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(
    ("bad_images", "reason"),
    [
        (["/dev/zero"], "'/dev/zero' is no training image"),
        (["../x"], "/../x' is no training image"),
        (["\0"], "' is no training image"),
        ([3], "it is no list of file names"),
        (3, "it is no list of file names"),
    ],
)
def test_row_27_a_checkpoint_whose_damaged_images_are_not_of_the_data_opens_no_file(
    command, run_of_a_step, bad_images, reason
):
    shutil.copytree(run_of_a_step, "resumed")
    torch.save(last("resumed") | {"bad_images": bad_images}, "resumed/checkpoints/last.pt")
    ended = command("train", "resume=resumed", "epochs=2")
    assert ended.code == 2 and "Traceback" not in ended.err
    error = ended.err.splitlines()[-1]
    assert error.startswith("error: resumed/checkpoints/last.pt: its bad_images cannot be gone on with (")
    assert f"{reason}); go on with another checkpoint" in error


def test_row_27_weights_of_another_model(command, refused, run_of_a_step, tiny):
    best = run_of_a_step / "checkpoints" / "best.pt"
    error = refused("eval", f"ckpt={best}", "model=rtdetr_r18")
    assert f"{best}: holds the weights of another model; leave model out, the checkpoint brings its own" in error
    error = refused("train", *tiny, "model=rtdetr_r18", f"weights={best}")
    assert f"{best}: " in error and "model" in error
    shutil.copytree(run_of_a_step, "resumed")
    content = last("resumed")
    name = next(iter(content["model"]))
    del content["model"][name]
    torch.save(content, "resumed/checkpoints/last.pt")
    ended = command("train", "resume=resumed", "epochs=2")
    assert ended.code == 2
    assert "error: resumed/checkpoints/last.pt: holds the weights of another model; go on with" in ended.err


HOSTILE = {
    "hydra.callbacks.x._target_=os.system": "hydra.callbacks.x._target_: is refused; of Hydra only",
    "hydra.job_logging.formatters.simple.class=os.system": "hydra.job_logging.formatters.simple.class: is refused",
    "optim._target_=os.system": "optim._target_: 'os.system' is not allowed here",
    "data.augment._target_=torch.utils.collect_env.run": "'torch.utils.collect_env.run' is not allowed here",
}


@pytest.mark.parametrize("override", HOSTILE)
def test_row_28_a_target_or_a_callback_of_ones_own_is_refused(refused, override):
    assert HOSTILE[override] in refused("train", override)


def test_row_28_a_checkpoint_that_names_code_to_run(refused, run_of_a_step, tmp_path):
    content = torch.load(run_of_a_step / "checkpoints" / "best.pt", weights_only=True)
    content["config"]["model"] = {"_target_": "os.system", "command": "touch ran"}
    torch.save(content, tmp_path / "hostile.pt")
    assert "model._target_: 'os.system' is not allowed here" in refused("eval", f"ckpt={tmp_path}/hostile.pt")


def test_row_29_what_comes_from_the_environment_is_in_no_file(command, refused, tiny, monkeypatch):
    secret = "0123456789abcdef0123"
    monkeypatch.setenv("MY_API_KEY", secret)
    error = refused("train", *tiny, f"data.root={secret}")
    assert "data.root: holds the value of $MY_API_KEY, which would be written to files" in error and secret not in error
    outcome = command("train", *tiny, "limit_batches=1", "data.root=${oc.env:MY_API_KEY}", "hydra.run.dir=run")
    assert outcome.code == 0 and secret not in outcome.out + outcome.err
    for path in Path("run").rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path


def test_row_29_a_data_folder_named_by_the_environment_is_in_no_finding_and_no_report(command, make_coco, monkeypatch):
    secret = "0123456789abcdef0123"
    monkeypatch.setenv("MY_SECRET_TOKEN", secret)
    path = make_coco(secret, ["crate"]) / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["id"] = 0
    write_json(path, content)
    root = f"{path.parents[1]}/${{oc.env:MY_SECRET_TOKEN}}"
    outcomes = [command("train", *custom(root), "limit_batches=1", "hydra.run.dir=run")]
    shutil.copytree("run", f"moved/{secret}")
    best = "ckpt='moved/${oc.env:MY_SECRET_TOKEN}/checkpoints/best.pt'"
    named = "data.name='my ${oc.env:MY_SECRET_TOKEN}'"
    outcomes += [command("eval", best, named, "report=true", "hydra.run.dir=evaluated")]
    for outcome in outcomes:
        assert outcome.code == 0 and secret not in outcome.out + outcome.err, outcome.err
    assert f'"where": "{path.parents[1]}/$MY_SECRET_TOKEN/' in Path("run", "data_findings.json").read_text()
    assert "on my $MY_SECRET_TOKEN</title>" in Path("evaluated", "report.html").read_text()
    for path in [*Path("run").rglob("*"), *Path("evaluated").rglob("*")]:
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
