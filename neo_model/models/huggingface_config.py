"""What ``transformers`` needs beside the weights: ``config.json`` and ``preprocessor_config.json`` of a model of ours."""

from torch import nn

from neo_model.models.backbones.resnet_vd import BasicBlock, ResNetVD
from neo_model.models.deformable import DeformableAttention
from neo_model.models.layers import FrozenBatchNorm2d
from neo_model.models.rtdetr import RTDETR
from neo_model.utils import UserError

STRIDE = 32


def model_config(model: RTDETR, class_names: list[str]) -> dict:
    """The content of ``config.json``, read off the model; its decoder ends at the layer that evaluation stops at.

    Raises:
        UserError: ``transformers`` has no such backbone or decoder.
    """
    encoder, decoder = model.encoder, model.decoder
    attention, layer = encoder.encoder[0]["layers"][0], decoder.decoder["layers"][0]
    backbone = _backbone_config(model.backbone)
    return {
        **_version_config(model.version, layer.cross_attn),
        "dtype": "float32",
        "torch_dtype": "float32",  # the same to versions before 5
        "backbone_config": backbone,
        "freeze_backbone_batch_norms": any(isinstance(m, FrozenBatchNorm2d) for m in model.backbone.modules()),
        "encoder_in_channels": list(model.backbone.out_channels),
        "encoder_hidden_dim": encoder.dim,
        "encoder_layers": len(encoder.encoder[0]["layers"]),
        "encoder_ffn_dim": attention.linear1.out_features,
        "encoder_attention_heads": attention.self_attn.num_heads,
        "hidden_expansion": encoder.fpn_blocks[0].conv1.conv.out_channels / encoder.dim,
        "d_model": layer.linear1.in_features,
        "decoder_in_channels": [encoder.dim] * len(decoder.input_proj),
        "decoder_ffn_dim": layer.linear1.out_features,
        "decoder_layers": decoder.eval_layer + 1,
        "decoder_attention_heads": layer.self_attn.num_heads,
        "decoder_n_points": layer.cross_attn.num_points[0],
        "num_queries": decoder.num_queries,
        "num_denoising": decoder.num_denoising,
        "label_noise_ratio": decoder.label_noise_ratio,
        "box_noise_scale": decoder.box_noise_scale,
        "id2label": {str(i): name for i, name in enumerate(class_names)},
        "label2id": {name: i for i, name in enumerate(class_names)},
    }


def _version_config(version: int, attention: DeformableAttention) -> dict:
    if version == 1:
        return {"architectures": ["RTDetrForObjectDetection"], "model_type": "rt_detr"}
    if len(set(attention.num_points)) > 1:
        cause = f"{attention.num_points} differ from map to map, which transformers' RT-DETRv2 has no counterpart for"
        raise UserError("model.num_points", cause, "convert a model with as many points on each map")
    method = "discrete" if attention.sampling == "discrete" else "default"
    return {
        "architectures": ["RTDetrV2ForObjectDetection"],
        "model_type": "rt_detr_v2",
        "decoder_method": method,
        "decoder_n_levels": len(attention.num_points),
        "decoder_offset_scale": 0.5,
    }


def processor_config(size_wh: tuple[int, int]) -> dict:
    """The content of ``preprocessor_config.json``: images stretched to ``size_wh``, sides rounded up to what 32 divides
    (their coarse maps are doubled to the size of the finer ones), pixel / 255 without mean and deviation."""
    width, height = (-(-side // STRIDE) * STRIDE for side in size_wh)
    return {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "do_pad": False,
        "format": "coco_detection",
    }


def _backbone_config(backbone: nn.Module) -> dict:
    if not isinstance(backbone, ResNetVD):
        cause = f"{type(backbone).__name__} has no counterpart in transformers' RT-DETR"
        raise UserError("model.backbone", cause, "convert a model with a ResNet-vd backbone")
    last_blocks = [stage.blocks[-1] for stage in backbone.res_layers]
    is_basic = isinstance(last_blocks[0], BasicBlock)
    last_convs = [block.branch2b if is_basic else block.branch2c for block in last_blocks]
    return {
        "model_type": "rt_detr_resnet",
        "embedding_size": backbone.conv1.conv1_3.conv.out_channels,
        "depths": [len(stage.blocks) for stage in backbone.res_layers],
        "hidden_sizes": [layer.conv.out_channels for layer in last_convs],
        "layer_type": "basic" if is_basic else "bottleneck",
        "out_features": ["stage2", "stage3", "stage4"],
    }
