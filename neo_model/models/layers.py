"""Small layers shared by the backbones, the encoder and the decoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neo_model.models.norm_silu import normalized_silu


def rounds_as_published(x: Tensor) -> bool:
    """Whether a layer rounds exactly as the published code does: in plain float32 on a CPU.

    Random weights amplify one rounding to 1e-3 of a loss within six decoder layers. Elsewhere the faster of two
    equal expressions is worth more: half precision and a GPU's kernels round differently anyway.
    """
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened, anything else as it is: for positions, where bfloat16 is less exact than a pixel."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and fixed affine parameters, [B, C, H, W] -> the same.

    It runs as one multiply-add in the activation's dtype: float32 buffers would promote every activation behind it to
    float32 under autocast. Behind a convolution it costs nothing: `ConvNorm` folds it into the weights.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The norm as ``x * scale + shift``, both [C] float32."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift()
        scale, shift = scale.to(x.dtype)[:, None, None], shift.to(x.dtype)[:, None, None]
        # addcmul rounds once, the published product and sum twice.
        return (x * scale).add_(shift) if rounds_as_published(x) else torch.addcmul(shift, x, scale)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation; the padding keeps ``ceil(size / stride)``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        activation: type[nn.Module] | None = None,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False
        )
        self.norm = FrozenBatchNorm2d(out_channels) if frozen_norm else nn.BatchNorm2d(out_channels)
        self.act = nn.Identity() if activation is None else activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.act, nn.SiLU) and not isinstance(self.norm, FrozenBatchNorm2d):
            return normalized_silu([self.conv(x)], [self.norm])
        return self.act(normalized(x, self.conv, self.norm))


def normalized(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))`` of a convolution without bias and any batch norm."""
    if isinstance(norm, FrozenBatchNorm2d) and not rounds_as_published(x):
        # A convolution is linear: scaling its small weights equals scaling its large output, and the gradient for the
        # weights passes through the product.
        scale, shift = norm.scale_and_shift()
        return conv._conv_forward(x, conv.weight * scale[:, None, None, None], shift)
    return norm(conv(x))


class MLP(nn.Module):
    """Linear layers with ReLU between them, [..., in] -> [..., out]."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, *, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class SelfAttention(nn.MultiheadAttention):
    """Multi-head self-attention whose queries and keys carry a position embedding and whose values do not.

    Parameters are those of `nn.MultiheadAttention`, so that published weights load.
    """

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__(dim, num_heads, batch_first=True)

    def forward(self, x_BSD: Tensor, position_BSD: Tensor, blocked_SS: Tensor | None = None) -> Tensor:
        """Attend within ``x_BSD`` [B, S, D]; ``blocked_SS`` is True where a row must not see a column."""
        B, S, D = x_BSD.shape
        weight_qk, weight_v = self.in_proj_weight.split((2 * D, D))
        bias_qk, bias_v = self.in_proj_bias.split((2 * D, D))
        query, key = _project(x_BSD + position_BSD, weight_qk, bias_qk).chunk(2, dim=-1)
        value = _project(x_BSD, weight_v, bias_v)
        query, key, value = (t.reshape(B, S, self.num_heads, -1).transpose(1, 2) for t in (query, key, value))
        mixed = _attend(query, key, value, blocked_SS)
        return self.out_proj(mixed.transpose(1, 2).reshape(B, S, D))


def _project(x_BSD: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer that rounds as `nn.MultiheadAttention` does: for several images its bias follows the product."""
    if len(x_BSD) > 1 and rounds_as_published(x_BSD):
        return (x_BSD @ weight.T).add_(bias)
    return F.linear(x_BSD, weight, bias)


def _attend(query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
    """Scaled dot-product attention of [B, M, S, K] tensors.

    The fused kernel, which never stores the S x S weights, but for bfloat16 training on a CPU: its backward pass
    there takes two to five times as long as plain matrix products for up to 500 tokens.
    """
    short = query.shape[-2] <= 1024 and query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not (short and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=None if blocked is None else ~blocked)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if blocked is not None:
        # Added in place: filling would copy the weights here and once more in the backward pass.
        logits += torch.zeros_like(blocked, dtype=logits.dtype).masked_fill_(blocked, -torch.inf)
    return logits.softmax(dim=-1).to(value.dtype) @ value
