"""Weight files: published forms, our own, other class counts, and files that are none."""

import re

import pytest
import torch
from safetensors.torch import save_file

from neo_model.engine.checkpoint import write_checkpoint
from neo_model.models import RTDETR, ResNetVD, load_weights
from neo_model.models.class_heads import COCO_NAMES
from neo_model.models.huggingface import to_theirs
from neo_model.utils import UserError
from tests import golden

CLASS_HEADS = ("enc_score_head", "dec_score_head", "denoising_class_embed")


def is_class_head(key: str) -> bool:
    return any(head in key for head in CLASS_HEADS)


@pytest.fixture
def published(make_model):
    """The state of a small 80-class model, whose keys are those of the published files."""
    state = make_model(num_classes=80, seed=1).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("pixel_")}


@pytest.fixture
def save(tmp_path):
    def save(content, name="weights.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def assert_loaded(model, state) -> None:
    ours = model.state_dict()
    for key, value in state.items():
        torch.testing.assert_close(ours[key], value, atol=0, rtol=0)


def v1_names(state: dict) -> dict:
    """The published v1 files number the halves of the encoder's input projections."""
    pattern = re.compile(r"^(encoder\.input_proj\.\d+)\.(conv|norm)\.")
    return {pattern.sub(lambda m: f"{m[1]}.{'01'[m[2] == 'norm']}.", key): value for key, value in state.items()}


WRAPPINGS = {
    "ema": lambda state: {"ema": {"module": state, "updates": 7}, "epoch": 71},
    "model": lambda state: {"model": state},
    "bare": lambda state: state,
    "distributed": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    "v1": lambda state: {"ema": {"module": v1_names(state)}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_published_forms(make_model, published, save, wrapping):
    model = make_model(num_classes=80)
    report = load_weights(model, save(WRAPPINGS[wrapping](published)))
    assert_loaded(model, published)
    assert set(report.loaded) == set(published)
    assert not report.reheaded and not report.ignored
    assert model.pixel_std.tolist() == [[[1.0]]] * 3


def test_a_published_r18_file_fills_every_weight_of_r18(save):
    description, _ = golden.load("rtdetr_r18vd")
    sizes = {"num_decoder_layers": 3, "encoder_expansion": 0.5}
    model = RTDETR(backbone=ResNetVD(depth=18), num_classes=80, **sizes)
    state = {key: torch.full(shape, 0.25) for key, shape in description["state_dict"].items()}
    report = load_weights(model, save({"ema": {"module": v1_names(state)}}))
    assert report.fresh == ["pixel_mean", "pixel_std", "decoder.denoising_class_embed.weight"]
    assert all((p == 0.25).all() for name, p in model.named_parameters() if name not in report.fresh)


def test_a_published_v2_file_fills_every_weight_of_v2(save):
    description, _ = golden.load("rtdetrv2_r18vd")
    sizes = {"version": 2, "num_points": [4, 4, 4], "num_decoder_layers": 3, "encoder_expansion": 0.5}
    model = RTDETR(backbone=ResNetVD(depth=18), num_classes=80, **sizes)
    state = {key: torch.full(shape, 0.25) for key, shape in description["state_dict"].items()}
    of_one_size = {"decoder.anchors": torch.zeros(1, 8400, 4), "decoder.valid_mask": torch.ones(1, 8400, 1)}
    scales = {f"decoder.decoder.layers.{i}.cross_attn.num_points_scale": torch.full((12,), 0.25) for i in range(3)}
    embedding = {"decoder.denoising_class_embed.weight": torch.full((81, 256), 0.25)}
    report = load_weights(model, save({"ema": {"module": state | of_one_size | scales | embedding}}))
    assert report.fresh == ["pixel_mean", "pixel_std"] and report.ignored == list(of_one_size)
    assert all((p == 0.25).all() for p in model.parameters())
    load_weights(model, save({"model": state}))  # without constants and embedding, as older ones are


def test_averaged_weights_are_preferred(make_model, published, save):
    raw = {key: torch.zeros_like(value) for key, value in published.items()}
    model = make_model(num_classes=80)
    load_weights(model, save({"model": raw, "ema": {"module": published}}))
    assert_loaded(model, published)


def test_buffers_of_one_image_size_are_ignored_and_named(make_model, published, save):
    extra = {"decoder.anchors": torch.zeros(1, 8400, 4), "decoder.valid_mask": torch.ones(1, 8400, 1)}
    report = load_weights(make_model(num_classes=80), save({"model": published | extra}))
    assert report.ignored == list(extra)
    assert "2 ignored (decoder.anchors, decoder.valid_mask)" in str(report)


def test_position_embeddings_of_one_image_size_are_ignored(make_model, published, save):
    extra = {f"encoder.pos_embed{i}": torch.zeros(1, 400, 32) for i in (0, 2, 10)}
    model = make_model(num_classes=80)
    report = load_weights(model, save({"ema": {"module": v1_names(published) | extra}}))
    assert_loaded(model, published)
    assert report.ignored == list(extra)


@pytest.mark.parametrize("with_average", [True, False])
def test_our_own_checkpoints(make_model, save, tmp_path, with_average):
    raw, average = make_model(seed=1).state_dict(), make_model(seed=2).state_dict()
    ema = {"module": average, "n_averaged": torch.tensor(5)} if with_average else None
    path = tmp_path / "best.pt"
    write_checkpoint(path, {"config": {}, "classes": {}, "model": raw, "ema": ema})
    model = make_model()
    load_weights(model, path)
    assert_loaded(model, average if with_average else raw)


def test_another_class_count_is_refused_with_both_counts(make_model, published, save):
    model = make_model(num_classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match="has 80 classes, the data 5; .*rehead=true"):
        load_weights(model, save({"model": published}))
    assert_loaded(model, before)


def test_reheading_keeps_fresh_class_heads_and_says_so(make_model, published, save, caplog):
    model = make_model(num_classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    caplog.set_level("INFO", logger="neo_model")
    path = save({"model": published})
    report = load_weights(model, path, rehead=True)
    heads = {key for key in published if is_class_head(key)}
    assert set(report.reheaded) == heads and len(heads) == 7
    assert set(report.loaded) == set(published) - heads
    assert_loaded(model, {key: value for key, value in published.items() if key not in heads})
    assert_loaded(model, {key: before[key] for key in heads})
    (record,) = caplog.records
    assert str(path) in record.getMessage() and "7 reheaded" in record.getMessage()
    assert all(key in record.getMessage() for key in heads)


def test_reheading_starts_afresh_with_the_same_number_of_other_classes(make_model, published, save):
    model = make_model(num_classes=80)
    before = model.decoder.enc_score_head.weight.clone()
    report = load_weights(model, save({"model": published}), rehead=True)
    assert len(report.reheaded) == 7
    torch.testing.assert_close(model.decoder.enc_score_head.weight, before)


def test_reheading_takes_the_rows_of_classes_with_the_same_name(make_model, published, save, caplog):
    names = ["drone", "Traffic_Light", "person"]
    model = make_model(num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    caplog.set_level("INFO", logger="neo_model")
    report = load_weights(model, save({"model": published}), rehead=True, class_names=names)
    assert report.classes_by_name == names[1:] and report.fresh_classes == names[:1]
    assert "2 classes by name (Traffic_Light, person); 1 classes fresh (drone)" in caplog.text
    after = model.state_dict()
    for key in report.reheaded:
        # COCO's person is its first class, its traffic light the tenth.
        torch.testing.assert_close(after[key][[1, 2]], published[key][[9, 0]], atol=0, rtol=0)
        torch.testing.assert_close(after[key][0], before[key][0], atol=0, rtol=0)
    assert not after["decoder.denoising_class_embed.weight"][-1].any(), "the row for padding stays zero"


def test_other_classes_are_refused_even_if_there_are_as_many(make_model, published, save):
    path, model = save({"model": published}), make_model(num_classes=80)
    before = model.decoder.enc_score_head.weight.clone()
    exchanged = [*COCO_NAMES[:2], COCO_NAMES[3], COCO_NAMES[2], *COCO_NAMES[4:]]
    with pytest.raises(UserError, match="its class 2 is 'car', that of the data 'motorcycle'; give rehead=true"):
        load_weights(model, path, class_names=exchanged)
    torch.testing.assert_close(model.decoder.enc_score_head.weight, before, atol=0, rtol=0)
    others = {"motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "tv": "tvmonitor"}
    load_weights(model, path, class_names=[others.get(name, name.replace(" ", "_")) for name in COCO_NAMES])
    assert_loaded(model, published)
    load_weights(model, path, class_names=COCO_NAMES)


def test_a_checkpoint_of_ours_brings_its_names(make_model, tmp_path):
    source, model = make_model(num_classes=2, seed=1), make_model(num_classes=2)
    classes = {"names": ["cell", "plate"], "category_ids": [1, 7]}
    write_checkpoint(tmp_path / "best.pt", {"config": {}, "classes": classes, "model": source.state_dict()})
    fresh = model.decoder.enc_score_head.weight[0].clone()
    report = load_weights(model, tmp_path / "best.pt", rehead=True, class_names=["bottle", "cell"])
    assert report.classes_by_name == ["cell"]
    head = model.decoder.enc_score_head.weight
    torch.testing.assert_close(head[1], source.decoder.enc_score_head.weight[0], atol=0, rtol=0)
    torch.testing.assert_close(head[0], fresh, atol=0, rtol=0)
    with pytest.raises(UserError, match="its class 0 is 'cell', that of the data 'bottle'"):
        load_weights(model, tmp_path / "best.pt", class_names=["bottle", "cell"])


def test_names_that_are_unknown_or_not_as_many_as_classes_are_not_used(make_model, published, save):
    truncated = {key: value[:7] if is_class_head(key) else value for key, value in published.items()}
    for state in (truncated, truncated | {"decoder.enc_score_head.bias": torch.zeros(80)}):
        report = load_weights(
            make_model(num_classes=1), save({"model": state}), rehead=True, class_names=["person"]
        )
        assert report.classes_by_name == [] and report.fresh_classes == ["person"]


def test_a_name_that_occurs_twice_says_nothing(make_model, published, save):
    names = ["person", "Person", "car"]
    report = load_weights(make_model(), save({"model": published}), rehead=True, class_names=names)
    assert report.classes_by_name == ["car"]


def test_a_model_without_denoising_leaves_the_embedding(make_model, published, save):
    model = make_model(num_classes=80, num_denoising=0)
    report = load_weights(model, save({"model": published}))
    assert report.ignored == ["decoder.denoising_class_embed.weight"]


def test_a_reheaded_model_trains(make_model, make_targets, published, save):
    model = make_model(num_classes=5)
    load_weights(model, save({"model": published}), rehead=True)
    outputs = model.train()(torch.rand(1, 3, 64, 96), make_targets(2, num_classes=5))
    assert outputs["pred_logits"].shape[-1] == 5


def test_published_files_know_no_denoising_embedding_of_ours(make_model, published, save):
    published.pop("decoder.denoising_class_embed.weight")
    report = load_weights(make_model(num_classes=80), save({"model": published}))
    assert "decoder.denoising_class_embed.weight" in report.fresh


@pytest.mark.parametrize("rehead", [False, True])
@pytest.mark.parametrize("change", ["missing", "unexpected", "of another shape"])
def test_weights_of_another_model_are_refused(make_model, published, save, change, rehead):
    key = "encoder.lateral_convs.0.conv.weight"
    if change == "missing":
        published.pop(key)
    elif change == "unexpected":
        published[f"{key}_more"] = torch.zeros(1)
    else:
        published[key] = torch.zeros(7)
    with pytest.raises(UserError, match=f"belongs to another model .1 tensors {change} such as {key}.*; .*model="):
        load_weights(make_model(num_classes=80), save({"model": published}), rehead=rehead)


@pytest.mark.parametrize(
    ("rows", "said"), [((8, 8, 8), "of another shape"), ((8, 24, 16), "unexpected"), (None, "unexpected")]
)
def test_projections_of_queries_keys_and_values_that_do_not_fit_are_refused(make_model, published, tmp_path, rows, said):
    """In a file of Hugging Face's, where they are three; without rows they are numbers."""
    state = to_theirs(published)
    for i, part in enumerate("qkv"):
        (name,) = (key for key in state if re.search(rf"encoder\..*self_attn\.{part}_proj\.weight", key))
        state[name] = torch.zeros(rows[i], 3) if rows else torch.zeros(())
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"belongs to another model .* {said} such as [^\n]*self_attn[^\n]*; choose"):
        load_weights(make_model(num_classes=80), tmp_path / "model.safetensors")


def test_a_configuration_that_is_nested_too_deeply_is_one_line(make_model, tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json: cannot be read as JSON; download it again$"):
        load_weights(make_model(), tmp_path / "model.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_one_line_wherever_they_end(make_model, published, tmp_path, zipped):
    path, model = tmp_path / "weights.pth", make_model(num_classes=80)
    torch.save({"model": published}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in [*range(0, 60), *range(60, len(whole) - 1, len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="^[^\n]*weights.pth: [^\n]*$"):
            load_weights(model, path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80", b"PK\x03\x04", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_files_that_hold_no_weights(make_model, tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a plain weight file"):
        load_weights(make_model(), path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, {"model": {}}, {"epoch": 3}, {1: torch.zeros(2)}])
def test_torch_files_of_something_else(make_model, save, content):
    with pytest.raises(UserError, match="weights.pth: [^\n]*$"):
        load_weights(make_model(), save(content))


def test_missing_files_and_folders(make_model, tmp_path):
    for path in (tmp_path / "missing.pth", tmp_path):
        with pytest.raises(UserError, match="there is no such file"):
            load_weights(make_model(), path)
