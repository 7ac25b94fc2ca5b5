"""Detections of `load_detector` are evaluation's, in pixels of each source image."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import neo_model
from neo_model.config.command_line import main
from neo_model.utils import UserError
from tests.deploy.conftest import CLASSES, SIZES


@pytest.fixture
def detector(make_checkpoint):
    return neo_model.load_detector(make_checkpoint())


def rgb(path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def assert_same(first, second) -> None:
    """The same detections; those whose scores are equal to the last bits may have changed places."""
    assert len(first) == len(second) > 5
    rows = [torch.column_stack((d.labels, 100 * d.scores, d.boxes)).numpy() for d in (first, second)]
    i, j = linear_sum_assignment(np.abs(rows[0][:, None] - rows[1][None]).max(-1))
    np.testing.assert_allclose(rows[0][i], rows[1][j], atol=1e-3, rtol=0)
    torch.testing.assert_close(first.scores, second.scores, atol=1e-5, rtol=0)
    assert [first.class_names[k] for k in i] == [second.class_names[k] for k in j]


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_the_boxes_are_those_that_evaluation_writes(fit, make_checkpoint, image_paths, tmp_path, capsys):
    checkpoint = make_checkpoint(f"data.fit={fit}", "evaluation.nms_threshold=0.9")
    run_dir = tmp_path / "evaluation"
    arguments = [f"ckpt={checkpoint}", "hardware.precision=fp32", "hardware.workers=0", f"hydra.run.dir={run_dir}"]
    assert main("eval", arguments) == 0, capsys.readouterr().err
    written = json.loads((run_dir / "detections.json").read_text())
    found = neo_model.load_detector(checkpoint).predict(image_paths, conf_threshold=0)
    assert len(found) == len(image_paths)
    for image_id, detections in enumerate(found, start=1):
        expected = [entry for entry in written if entry["image_id"] == image_id]
        boxes_xywh = torch.tensor([entry["bbox"] for entry in expected])
        boxes_xyxy = torch.cat((boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]), dim=1)
        assert len(detections) == len(expected) > 10
        torch.testing.assert_close(detections.boxes, boxes_xyxy.float(), atol=1e-3, rtol=0)
        torch.testing.assert_close(detections.scores.tolist(), [e["score"] for e in expected], atol=1e-5, rtol=0)
        ids = [CLASSES["category_ids"][label] for label in detections.labels.tolist()]
        assert ids == [entry["category_id"] for entry in expected]


@pytest.mark.slow
def test_a_compiled_detector_is_compiled_once_and_finds_the_same(make_checkpoint, image_paths, monkeypatch):
    """What torch traces is run as it is: to compile it takes two minutes."""
    torch._dynamo.reset()
    compiled = []

    def trace_only(graph, inputs, *, config_patches):
        assert config_patches == {"freezing": True}
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", trace_only)
    checkpoint = make_checkpoint()
    plain, fast = (neo_model.load_detector(checkpoint, compile=chosen) for chosen in (False, True))
    graphs_after = []
    for path in image_paths:
        assert_same(*(detector.predict(path, conf_threshold=0) for detector in (plain, fast)))
        graphs_after.append(len(compiled))
    assert len(image_paths) > 1 and graphs_after[0] == graphs_after[-1] > 0


def test_one_image_gives_one_result_and_a_list_a_list(detector, image_paths):
    alone = detector.predict(image_paths[0])
    assert isinstance(alone, neo_model.Detections)
    listed = detector.predict([image_paths[0]])
    assert isinstance(listed, list) and len(listed) == 1
    assert_same(alone, listed[0])
    assert detector.predict([]) == []


def test_paths_strings_and_arrays_give_the_same_whatever_the_batch(detector, image_paths):
    arrays = [rgb(path) for path in image_paths]
    mixed = [image_paths[0], str(image_paths[1]), *arrays[2:]]
    for ours, theirs in zip(detector.predict(arrays), detector.predict(mixed, batch_size=3), strict=True):
        assert_same(ours, theirs)


def test_a_reversed_view_of_a_bgr_array_is_rgb(detector, image_paths):
    assert_same(detector.predict(image_paths[0]), detector.predict(cv2.imread(str(image_paths[0]))[..., ::-1]))


def test_boxes_lie_inside_the_source_image(detector, image_paths):
    for (width, height), found in zip(SIZES, detector.predict(image_paths, conf_threshold=0), strict=True):
        assert found.boxes.dtype == torch.float32 and found.boxes.shape == (len(found), 4)
        left, top, right, bottom = found.boxes.unbind(1)
        assert (0 <= left).all() and (left <= right).all() and (right <= width).all()
        assert (0 <= top).all() and (top <= bottom).all() and (bottom <= height).all()
        # Something reaches further than the network's input is large: these are the image's own pixels.
        assert right.max() > 0.8 * width and bottom.max() > 0.8 * height


def test_the_threshold_drops_low_scores_only(detector, image_paths):
    everything = detector.predict(image_paths[0], conf_threshold=0)
    assert everything.scores.tolist() == sorted(everything.scores.tolist(), reverse=True)
    middle = everything.scores.median().item()
    above = detector.predict(image_paths[0], conf_threshold=middle)
    count = int((everything.scores >= middle).sum())
    assert 0 < count < len(everything)
    torch.testing.assert_close(above.scores, everything.scores[:count])
    assert len(above.class_names) == count == len(above)
    assert above.class_names == [CLASSES["names"][label] for label in above.labels.tolist()]
    nothing = detector.predict(image_paths[0], conf_threshold=1)
    assert nothing.boxes.shape == (0, 4) and nothing.class_names == []


def test_the_average_is_used_where_there_is_one(make_checkpoint, image_paths):
    weights = torch.load(make_checkpoint(), weights_only=True)["model"]
    shifted = weights | {"decoder.dec_score_head.1.bias": weights["decoder.dec_score_head.1.bias"] - 1}
    plain = neo_model.load_detector(make_checkpoint(model=shifted)).predict(image_paths[0], conf_threshold=0)
    averaged = neo_model.load_detector(make_checkpoint(ema={"module": shifted, "n_averaged": torch.tensor(3)}))
    assert_same(averaged.predict(image_paths[0], conf_threshold=0), plain)
    unshifted = neo_model.load_detector(make_checkpoint()).predict(image_paths[0], conf_threshold=0)
    assert plain.scores.max() < unshifted.scores.max()


def test_another_machine_needs_neither_the_data_nor_the_weights_that_training_started_from(
    make_checkpoint, image_paths, monkeypatch
):
    path = make_checkpoint("model/backbone=torchvision_resnet18")
    content = torch.load(path, weights_only=True)
    content["config"]["model"]["backbone"]["weights"] = "imagenet"
    content["config"]["data"]["root"] = "${oc.env:NO_SUCH_VARIABLE}"
    torch.save(content, path)
    assert len(neo_model.load_detector(path).predict(image_paths[0], conf_threshold=0)) > 0


def test_references_within_the_configuration_are_followed(make_checkpoint, image_paths):
    path = make_checkpoint("model.decoder_dim=${model.encoder_dim}", "data.resolution.width=${model.encoder_dim}")
    detector = neo_model.load_detector(path)
    assert detector.size_wh == (64, 96)
    assert len(detector.predict(image_paths[0], conf_threshold=0)) > 0


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (np.zeros((90, 160, 3), np.float32), "float32"),
        (np.zeros((90, 160), np.uint8), r"\[90, 160\]"),
        (np.zeros((90, 160, 4), np.uint8), r"\[90, 160, 4\]"),
        (np.zeros((3, 90, 160), np.uint8), r"\[3, 90, 160\]"),
        (np.zeros((0, 160, 3), np.uint8), r"\[0, 160, 3\]"),
        (torch.zeros(90, 160, 3, dtype=torch.uint8), "Tensor"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_rgb_image_is_refused_with_its_place_in_the_list(detector, image_paths, content, cause):
    with pytest.raises(UserError, match=f"image 1: .*{cause}.*RGB"):
        detector.predict([image_paths[0], content], batch_size=1)


def test_files_that_are_no_images_are_named(detector, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    for name in ("text.jpg", "empty.jpg", "missing.jpg", "."):
        with pytest.raises(UserError, match=str(tmp_path / name)) as error:
            detector.predict(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_thresholds_outside_0_to_1_are_refused(detector, image_paths, threshold):
    with pytest.raises(UserError, match="conf_threshold"):
        detector.predict(image_paths[0], conf_threshold=threshold)


def test_weights_that_are_not_finite_are_an_error_not_boxes(make_checkpoint, image_paths):
    weights = torch.load(make_checkpoint(), weights_only=True)["model"]
    weights["decoder.dec_score_head.1.bias"][:] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        neo_model.load_detector(make_checkpoint(model=weights)).predict(image_paths[0])


def test_unusable_checkpoints_are_one_line(make_checkpoint, tmp_path):
    whole = make_checkpoint()
    content = torch.load(whole, weights_only=True)
    half = tmp_path / "half.pt"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    bare = tmp_path / "bare.pt"
    torch.save(content["model"], bare)
    no_data = tmp_path / "no_data.pt"
    torch.save(content | {"config": {"model": content["config"]["model"]}}, no_data)
    misfit = tmp_path / "misfit.pt"
    torch.save(content | {"classes": {"names": ["a"], "category_ids": [1]}}, misfit)
    for path in (half, bare, no_data, misfit, tmp_path / "missing.pt", tmp_path):
        with pytest.raises(UserError, match=f"^{path}: ") as error:
            neo_model.load_detector(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps"])
def test_devices_that_are_not_there_are_refused(make_checkpoint, device):
    with pytest.raises(UserError, match=device):
        neo_model.load_detector(make_checkpoint(), device=device)


def test_importing_neo_model_is_instant_and_knows_its_names():
    code = "import sys, neo_model; print('torch' in sys.modules, 'load_detector' in dir(neo_model))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "True"]
