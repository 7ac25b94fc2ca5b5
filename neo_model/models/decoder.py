"""The RT-DETR decoder: query selection from the encoder's tokens, then layers that refine boxes step by step.

RT-DETR, Zhao et al. 2023, section 4.3. Shapes: B batch, S tokens of all maps, D width, N classes, R denoising
queries, Q matching queries.
"""

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.deformable import DeformableAttention, Tokens
from neo_model.models.denoising import DenoisingQueries, build_denoising
from neo_model.models.layers import MLP, ConvNorm, SelfAttention, at_least_float32

HALF_MAX = 65504.0  # version 1 as published clamps to float16's range before the last norm, version 2 does not


def make_anchors(sizes: list[tuple[int, int]], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """One anchor a token: logits [1, S, 4] of cxcywh boxes and whether each is inside [1, S, 1].

    Level l's anchors measure 0.05 * 2^l of the image in both directions; one whose centre is within 1% of the border
    (or that outgrows the image) is not valid and has infinite logits.
    """
    levels = []
    for level, (height, width) in enumerate(sizes):
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        centre = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).view(-1, 2)
        levels.append(torch.cat((centre, torch.full_like(centre, 0.05 * 2**level)), dim=-1))
    anchors = torch.cat(levels)[None]
    valid = ((anchors > 1e-2) & (anchors < 1 - 1e-2)).all(-1, keepdim=True)
    return torch.logit(anchors).masked_fill(~valid, math.inf), valid


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention and an MLP, each with a residual and a norm behind it."""

    def __init__(
        self,
        dim: int,
        *,
        version: Literal[1, 2],
        feedforward_dim: int,
        num_heads: int,
        num_points: list[int],
        sampling: Literal["bilinear", "discrete"],
    ) -> None:
        super().__init__()
        self.version = version
        self.self_attn = SelfAttention(dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(
            dim, num_heads=num_heads, num_points=num_points, sampling=sampling, keep_scale=version == 2
        )
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self,
        query_BQD: Tensor,
        position_BQD: Tensor,
        reference_BQ4: Tensor,
        memory: Tokens,
        blocked: Tensor | None,
    ) -> Tensor:
        x = self.norm1(query_BQD + self.self_attn(query_BQD, position_BQD, blocked))
        x = self.norm2(x + self.cross_attn(x + position_BQD, reference_BQ4, memory))
        x = x + self.linear2(F.relu(self.linear1(x)))
        return self.norm3(x.clamp(-HALF_MAX, HALF_MAX) if self.version == 1 else x)


class Decoder(nn.Module):
    """Maps of the encoder to class logits and boxes. Module names are those of the published files.

    Args:
        in_channels: channels of each map.
        num_classes: N.
        version: of RT-DETR, whose published names and rounding it has.
        dim, feedforward_dim, num_heads: sizes of a layer.
        num_points, sampling: of a head on each map, see `DeformableAttention`.
        num_layers: layers that are trained.
        eval_layer: index of the layer that evaluation stops at; None is the last.
        num_queries: Q; fewer where the maps have fewer tokens.
        num_denoising, label_noise_ratio, box_noise_scale: see `build_denoising`; ``num_denoising=0`` turns it off.
    """

    def __init__(
        self,
        *,
        in_channels: list[int],
        num_classes: int,
        version: Literal[1, 2],
        dim: int,
        feedforward_dim: int,
        num_layers: int,
        eval_layer: int | None,
        num_heads: int,
        num_points: list[int],
        sampling: Literal["bilinear", "discrete"],
        num_queries: int,
        num_denoising: int,
        label_noise_ratio: float,
        box_noise_scale: float,
    ) -> None:
        super().__init__()
        self.version = version
        self.num_queries, self.num_denoising = num_queries, num_denoising
        self.label_noise_ratio, self.box_noise_scale = label_noise_ratio, box_noise_scale
        self.eval_layer = num_layers - 1 if eval_layer is None else eval_layer
        self.input_proj = nn.ModuleList(ConvNorm(c, dim, kernel_size=1) for c in in_channels)
        self.decoder = nn.ModuleDict(
            {
                "layers": nn.ModuleList(
                    DecoderLayer(
                        dim,
                        version=version,
                        feedforward_dim=feedforward_dim,
                        num_heads=num_heads,
                        num_points=num_points,
                        sampling=sampling,
                    )
                    for _ in range(num_layers)
                )
            }
        )
        if num_denoising > 0:
            self.denoising_class_embed = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)
        self.query_pos_head = MLP(4, 2 * dim, dim, num_layers=2)
        names = ("0", "1") if version == 1 else ("proj", "norm")
        self.enc_output = nn.Sequential(OrderedDict(zip(names, (nn.Linear(dim, dim), nn.LayerNorm(dim)), strict=True)))
        self.enc_score_head = nn.Linear(dim, num_classes)
        self.enc_bbox_head = MLP(dim, dim, 4, num_layers=3)
        self.dec_score_head = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(num_layers))
        self.dec_bbox_head = nn.ModuleList(MLP(dim, dim, 4, num_layers=3) for _ in range(num_layers))
        self._anchors: dict[tuple, tuple[Tensor, Tensor, Tensor]] = {}
        self._initialise()

    def _initialise(self) -> None:
        """Scores start at probability 0.01, boxes at their references."""
        for score_head, bbox_head in zip(
            [self.enc_score_head, *self.dec_score_head], [self.enc_bbox_head, *self.dec_bbox_head], strict=True
        ):
            nn.init.constant_(score_head.bias, -math.log(0.99 / 0.01))
            nn.init.zeros_(bbox_head.layers[-1].weight)
            nn.init.zeros_(bbox_head.layers[-1].bias)
        for linear in (self.enc_output[0], *self.query_pos_head.layers):
            nn.init.xavier_uniform_(linear.weight)
        if self.version == 2:
            for projection in self.input_proj:
                nn.init.xavier_uniform_(projection.conv.weight)

    def forward(self, maps: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> dict:
        """Decode three maps.

        Returns:
            ``pred_logits`` [B, Q, N] and ``pred_boxes`` [B, Q, 4] cxcywh in 0..1. In training also ``aux_outputs``
            (every layer but the last, then the encoder's selection, which version 2 has in ``enc_aux_outputs``) and,
            with denoising, ``dn_aux_outputs`` (every layer) and ``dn_meta`` (``dn_positive_idx``, ``dn_target_idx``,
            ``dn_num_group``).
        """
        memory = Tokens.of([project(x) for project, x in zip(self.input_proj, maps, strict=True)])
        content, boxes_unact, selection = self._select(memory)
        denoising = None
        if self.training and targets is not None and self.num_denoising > 0:
            denoising = self._denoise(targets, num_queries=content.shape[1])
            content = torch.cat((denoising.content_BRD.to(content.dtype), content), dim=1)
            boxes_unact = torch.cat((denoising.boxes_unact_BR4, boxes_unact), dim=1)
        logits, boxes = self._refine(content, boxes_unact.sigmoid(), memory, denoising)
        if not self.training:
            return {"pred_logits": logits[-1], "pred_boxes": boxes[-1]}
        outputs = _training_outputs(logits, boxes, denoising)
        if self.version == 1:
            outputs["aux_outputs"].append(selection)
            return outputs
        return outputs | {"enc_aux_outputs": [selection]}

    def _select(self, memory: Tokens) -> tuple[Tensor, Tensor, dict]:
        """The Q tokens with the highest class score: their content and box logits (both detached), and the
        encoder's own predictions for them, which carry gradients."""
        anchors_S4, valid_N1, row_BS = self._cached_anchors(memory)
        num_queries = min(self.num_queries, len(anchors_S4))
        score_BS = self._best_scores(memory.rows_ND, valid_N1)[row_BS]
        token_BQ = score_BS.topk(num_queries, dim=1).indices
        row_K = row_BS.gather(1, token_BQ).flatten()
        # Every token was scored without gradients; only the selected ones are run again with them.
        selected = memory.rows_ND.index_select(0, row_K) * valid_N1.index_select(0, row_K)
        tokens = self.enc_output(selected.view(memory.batch_size, num_queries, -1))
        boxes_unact = at_least_float32(self.enc_bbox_head(tokens)) + anchors_S4[token_BQ]
        selection = {"pred_logits": self.enc_score_head(tokens), "pred_boxes": boxes_unact.sigmoid()}
        return tokens.detach(), boxes_unact.detach(), selection

    @torch.no_grad()
    def _best_scores(self, rows_ND: Tensor, valid_N1: Tensor) -> Tensor:
        """Each token's highest class logit [N]; a token whose anchor is not valid is scored as if it were zero.

        In the tokens' own precision: autocast would widen the normalised tokens, the largest tensor of the decoder.
        """
        linear, norm = self.enc_output
        dtype = rows_ND.dtype
        weights = [p.to(dtype) for m in (linear, norm, self.enc_score_head) for p in (m.weight, m.bias)]
        with torch.autocast(rows_ND.device.type, enabled=False):

            def best(x: Tensor) -> Tensor:
                x = F.layer_norm(F.linear(x, *weights[:2]), norm.normalized_shape, *weights[2:4], norm.eps)
                return F.linear(x, *weights[4:]).amax(-1)

            return torch.where(valid_N1[:, 0], best(rows_ND), best(rows_ND.new_zeros(1, rows_ND.shape[1])))

    def _cached_anchors(self, memory: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """What `_anchors_of` gives, kept by sizes and batch."""
        if torch.compiler.is_compiling():  # a graph that had met the dictionary empty would not do once it is filled
            return _anchors_of(memory)
        key = (*memory.sizes, memory.batch_size, memory.rows_ND.device)
        if key not in self._anchors:
            with torch.inference_mode(False):  # a first call under inference_mode must not spoil later training
                self._anchors[key] = _anchors_of(memory)
        return self._anchors[key]

    def _denoise(self, targets: list[dict[str, Tensor]], num_queries: int) -> DenoisingQueries:
        return build_denoising(
            targets,
            self.denoising_class_embed,
            num_queries=num_queries,
            num_denoising=self.num_denoising,
            label_noise_ratio=self.label_noise_ratio,
            box_noise_scale=self.box_noise_scale,
        )

    def _refine(
        self,
        content: Tensor,
        reference: Tensor,
        memory: Tokens,
        denoising: DenoisingQueries | None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and boxes of every layer in training, of the evaluation layer otherwise.

        References are detached between layers (in version 1's evaluation they are not), yet the box that layer i > 0 is
        trained on adds its step to the previous box with its gradient ("look forward twice", DINO).
        """
        blocked = None if denoising is None else denoising.blocked
        all_logits, all_boxes, previous = [], [], None
        for i, (layer, score_head, bbox_head) in enumerate(
            zip(self.decoder["layers"], self.dec_score_head, self.dec_bbox_head, strict=True)
        ):
            position = self.query_pos_head(reference.to(content.dtype))
            content = layer(content, position, reference, memory, blocked)
            if not self.training and i < self.eval_layer:
                reference = (at_least_float32(bbox_head(content)) + torch.logit(reference, eps=1e-5)).sigmoid()
                if self.version == 2:  # version 1 as published lets gradients through here, version 2 never does
                    reference = reference.detach()
                continue
            step = at_least_float32(bbox_head(content))
            refined = (step + torch.logit(reference, eps=1e-5)).sigmoid()
            all_logits.append(score_head(content))
            trained = refined if previous is None else (step + torch.logit(previous, eps=1e-5)).sigmoid()
            all_boxes.append(trained)
            if not self.training:
                break
            previous, reference = refined, refined.detach()
        return all_logits, all_boxes


def _anchors_of(memory: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Anchor logits [S, 4], whether each row's anchor is valid [N, 1], and the row of every image's tokens [B, S]."""
    anchors, valid = make_anchors(memory.sizes)
    firsts = memory.first_rows().unbind(1)
    rows = [first[:, None] + torch.arange(n) for first, n in zip(firsts, memory.counts, strict=True)]
    row_BS = torch.cat(rows, dim=1)
    valid_N1 = torch.empty(row_BS.numel(), 1, dtype=torch.bool)
    valid_N1[row_BS] = valid
    return tuple(x.to(memory.rows_ND.device) for x in (anchors[0], valid_N1, row_BS))


def _training_outputs(logits: list[Tensor], boxes: list[Tensor], denoising: DenoisingQueries | None) -> dict:
    """Predictions of all layers in the form the criterion reads; denoising queries are cut off the front."""
    R = 0 if denoising is None else denoising.content_BRD.shape[1]
    layers = [{"pred_logits": x[:, R:], "pred_boxes": b[:, R:]} for x, b in zip(logits, boxes, strict=True)]
    outputs = {**layers[-1], "aux_outputs": layers[:-1]}
    if denoising is not None:
        outputs["dn_aux_outputs"] = [
            {"pred_logits": x[:, :R], "pred_boxes": b[:, :R]} for x, b in zip(logits, boxes, strict=True)
        ]
        outputs["dn_meta"] = {
            "dn_positive_idx": denoising.positive_index,
            "dn_target_idx": denoising.target_index,
            "dn_num_group": denoising.num_groups,
        }
    return outputs
