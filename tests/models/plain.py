"""Parts of the model as their equations are written, to compare the faster forms with."""

from torch import Tensor

from neo_model.models.decoder import Decoder
from neo_model.models.deformable import Tokens


def select_after_the_heads(decoder: Decoder, memory: Tokens) -> tuple[Tensor, Tensor, dict]:
    """The heads run on all tokens, with gradients, and the best are picked from what they say."""
    anchors_S4, valid_N1, row_BS = decoder._cached_anchors(memory)
    tokens = decoder.enc_output((memory.rows_ND * valid_N1)[row_BS])
    logits, boxes_unact = decoder.enc_score_head(tokens), decoder.enc_bbox_head(tokens) + anchors_S4
    best = logits.amax(-1).topk(decoder.num_queries, dim=1).indices[..., None]
    tokens, logits, boxes_unact = (x.take_along_dim(best, dim=1) for x in (tokens, logits, boxes_unact))
    return tokens.detach(), boxes_unact.detach(), {"pred_logits": logits, "pred_boxes": boxes_unact.sigmoid()}
