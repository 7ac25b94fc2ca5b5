"""Hugging Face's files: what transformers writes loads here and predicts the same, square and 16:9."""

import json

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from neo_model.models import RTDETR, ResNetVD, load_weights
from neo_model.models.backbones.resnet_vd import BLOCKS
from neo_model.models.huggingface import to_ours, to_theirs
from neo_model.models.weights import canonical_name
from neo_model.utils import UserError

transformers = pytest.importorskip("transformers")

NAMES = ["person", "bicycle", "car", "drone", "kite"]
# Sides that 32 divides: transformers doubles its coarse maps to the size of the finer ones.
SIZES_HW = [(160, 160), (288, 512)]
SIZES_HW_IN_FULL = [(160, 256)]  # of the published variants, in float64
# Of each variant: depth and width of the backbone, and what differs from R50. The first four are small ones of the same
# two kinds of block and of version 2; of R50-m a file of theirs has the layers that predict, three.
NARROW = {"encoder_dim": 64, "encoder_feedforward_dim": 96, "decoder_dim": 32, "decoder_feedforward_dim": 48}
VARIANTS = {
    "basic": (18, 16, {**NARROW, "encoder_expansion": 0.5, "num_decoder_layers": 2}),
    "bottleneck": (50, 8, {**NARROW, "num_decoder_layers": 2}),
    "v2": (18, 16, {**NARROW, "version": 2, "num_points": 3, "num_decoder_layers": 2}),
    "v2 discrete": (18, 16, {**NARROW, "version": 2, "num_points": 3, "sampling": "discrete", "num_decoder_layers": 2}),
    "r18": (18, 64, {"encoder_expansion": 0.5, "num_decoder_layers": 3}),
    "r34": (34, 64, {"encoder_expansion": 0.5, "num_decoder_layers": 4}),
    "r50_m": (50, 64, {"encoder_expansion": 0.5, "num_decoder_layers": 3}),
    "r50": (50, 64, {}),
    "r101": (101, 64, {"encoder_dim": 384, "encoder_feedforward_dim": 2048}),
}
SMALL = list(VARIANTS)[:4]
VARIANTS |= {f"v2 {name}": (*sizes, {"version": 2, **parts}) for name, (*sizes, parts) in list(VARIANTS.items())[4:]}
PUBLISHED = [pytest.param(name, marks=pytest.mark.slow) for name in list(VARIANTS)[4:]]


def scramble(model, seed: int = 0):
    """Weights of a usual scale and statistics that differ by channel: fresh ones would hide exchanged tensors."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.7, 1.5, generator=generator)
        elif name.endswith("points_scale"):
            continue
        elif value.ndim < 2 and value.is_floating_point() and not name.startswith("pixel_"):
            mean = 1.0 if name.endswith("weight") else 0.0
            value.normal_(mean, 0.1, generator=generator)
        elif value.ndim >= 2 and not name.startswith("pixel_"):
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
    return model.eval()


def their_model(name: str):
    depth, width, sizes = VARIANTS[name]
    basic = depth < 50
    channels = [width * 2**i * (1 if basic else 4) for i in range(4)]
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=width, depths=list(BLOCKS[depth]), hidden_sizes=channels,
        layer_type="basic" if basic else "bottleneck", out_indices=[2, 3, 4],
    )  # fmt: skip
    dim = sizes.get("encoder_dim", 256)
    kind, method = "RTDetrV2" if "version" in sizes else "RTDetr", {}
    if "version" in sizes:
        method = {"decoder_method": "discrete" if "sampling" in sizes else "default"}
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone, freeze_backbone_batch_norms=not basic, encoder_in_channels=channels[1:],
        encoder_hidden_dim=dim, decoder_in_channels=[dim] * 3, d_model=sizes.get("decoder_dim", 256),
        encoder_ffn_dim=sizes.get("encoder_feedforward_dim", 1024),
        decoder_ffn_dim=sizes.get("decoder_feedforward_dim", 1024),
        hidden_expansion=sizes.get("encoder_expansion", 1.0), decoder_layers=sizes.get("num_decoder_layers", 6),
        decoder_n_points=sizes.get("num_points", 4), **method,
        id2label=dict(enumerate(NAMES)), label2id={label: i for i, label in enumerate(NAMES)},
    )  # fmt: skip
    return scramble(getattr(transformers, f"{kind}ForObjectDetection")(config))


def our_model(name: str, num_classes: int = len(NAMES)) -> RTDETR:
    depth, width, sizes = VARIANTS[name]
    backbone = ResNetVD(depth=depth, width=width, freeze_stem=depth >= 50, freeze_norm=depth >= 50)
    return RTDETR(backbone=backbone, num_classes=num_classes, **sizes)


@torch.inference_mode()
def assert_same_predictions(ours, theirs, size_hw: tuple[int, int]) -> None:
    # In float64: rounding in float32 can change which query is the last to be selected, and then its whole row.
    images = torch.rand(1, 3, *size_hw, generator=torch.Generator().manual_seed(1)).double()
    mine, other = ours.eval().double()(images), theirs.eval().double()(images)
    assert mine["pred_logits"].std() > 0.05 and mine["pred_boxes"].std() > 0.01, "nothing to tell apart"
    # Queries whose scores tie but for rounding may come in another order; those without a valid anchor are all equal.
    found = torch.cat((mine["pred_logits"], mine["pred_boxes"]), dim=2)[0]
    expected = torch.cat((other.logits, other.pred_boxes), dim=2)[0]
    _, order = linear_sum_assignment((found[:, None] - expected).abs().amax(-1))
    torch.testing.assert_close(found, expected[order], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def basic_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs")
    their_model("basic").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [*SMALL, *PUBLISHED])
def test_what_transformers_writes_predicts_the_same_here(tmp_path, name):
    theirs, ours = their_model(name), our_model(name)
    theirs.save_pretrained(tmp_path)
    report = load_weights(ours, tmp_path)
    assert set(report.fresh) <= {"pixel_mean", "pixel_std"} and not report.ignored and not report.reheaded
    for size_hw in SIZES_HW if name in SMALL else SIZES_HW_IN_FULL:
        assert_same_predictions(ours, theirs, size_hw)


def test_the_order_of_classes_is_checked_where_a_folder_names_them(basic_folder, tmp_path):
    load_weights(our_model("basic"), basic_folder, class_names=NAMES)
    turned = [NAMES[2], *NAMES[:2], *NAMES[3:]]
    with pytest.raises(UserError, match="its class 0 is 'person', that of the data 'car'; give rehead=true"):
        load_weights(our_model("basic"), basic_folder, class_names=turned)
    (tmp_path / "model.safetensors").write_bytes((basic_folder / "model.safetensors").read_bytes())
    generic = {"id2label": {str(i): f"LABEL_{i}" for i in range(len(NAMES))}}
    (tmp_path / "config.json").write_text(json.dumps(generic))
    load_weights(our_model("basic"), tmp_path, class_names=turned)


@pytest.mark.parametrize("form", ["file", "shards", "names of a running model"])
def test_forms_of_a_file_hold_the_same_weights(basic_folder, tmp_path, form):
    expected, ours = our_model("basic"), our_model("basic")
    load_weights(expected, basic_folder)
    if form == "file":
        path = basic_folder / "model.safetensors"
    else:
        theirs = transformers.RTDetrForObjectDetection.from_pretrained(basic_folder)
        if form == "shards":
            path = tmp_path
            theirs.save_pretrained(path, max_shard_size="2MB")
            assert len(list(path.glob("*.safetensors"))) > 1
        else:
            path = tmp_path / "weights.pth"
            torch.save(theirs.state_dict(), path)
    load_weights(ours, path)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, atol=0, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_names_go_there_and_back(name):
    state = {k: v for k, v in our_model(name).state_dict().items() if "pixel_" not in k}
    back = to_ours(to_theirs(state))
    assert set(back) == {canonical_name(key) for key in state}
    assert all(torch.equal(back[canonical_name(key)], value) for key, value in state.items())


def test_other_sizes_and_damage_are_one_line(basic_folder, tmp_path):
    with pytest.raises(UserError, match="belongs to another model"):
        load_weights(our_model("bottleneck"), basic_folder)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="model.safetensors: there is no such file"):
        load_weights(our_model("basic"), tmp_path)
    whole = (basic_folder / "model.safetensors").read_bytes()
    for content in (b"", whole[:100], whole[:-1]):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="^[^\n]*model.safetensors: is damaged or no safetensors file[^\n]*$"):
            load_weights(our_model("basic"), tmp_path)


@pytest.mark.parametrize(
    ("trained", "ours", "said"),
    [
        ("v2 discrete", "v2", "was trained with discrete sampling, this model has bilinear; model.sampling=discrete"),
        ("v2", "v2 discrete", "was trained with bilinear sampling, this model has discrete; model.sampling=bilinear"),
        ("v2 discrete", "v2 discrete", None),
        ("v2", "v2", None),
    ],
)
def test_another_way_of_sampling_is_said(tmp_path, caplog, trained, ours, said):
    their_model(trained).save_pretrained(tmp_path)
    load_weights(our_model(ours), tmp_path)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == bool(said) and all(said in warning for warning in warnings)


def test_an_index_may_not_lead_out_of_its_folder(basic_folder, tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "model.safetensors").write_bytes((basic_folder / "model.safetensors").read_bytes())
    index = {"weight_map": {"model.enc_score_head.bias": "../model.safetensors"}}
    (tmp_path / "inside" / "config.json").write_text("{}")
    (tmp_path / "inside" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="does not name files of this folder"):
        load_weights(our_model("basic"), tmp_path / "inside")
