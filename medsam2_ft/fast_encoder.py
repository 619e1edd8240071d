"""Meta's image encoder, computed with less work: the same weights, the same result to rounding.

Four things cost time in the released code and nothing in its result:

* The patch embedding leaves its features channels first, and every layer of the first stage then
  works on strided memory. Given its input in channels-last memory it does not.
* Windows that do not tile the feature map are padded before the attention, and the padding goes
  through both of its linear layers. Its queries, keys and values are the layer's bias, and what
  comes out of it is cut away: only the windows themselves need it.
* The position embedding is resized by bicubic interpolation in every pass, forward and backward.
  It is linear and separable: two small matrices do the same.
* Convolutions of one pixel are matrix products in channels-last memory, and torch has no fast
  convolution for them on one thread.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, scaled_dot_product_attention


def speed_up(core: Any) -> None:
    """Replaces methods of one model's encoder; parameters and state keys stay as they are.

    The modules get subclasses of their own: a method that is an attribute of its module would hold
    it, and the model's memory would wait for the garbage collector.

    Args:
        core: Meta's ``SAM2Base`` with a ``Hiera`` trunk, before blocks are wrapped for activation
            checkpointing.
    """
    trunk, decoder = core.image_encoder.trunk, core.sam_mask_decoder
    _replace(trunk, "_get_pos_embed", position_embedding)
    for block in trunk.blocks:
        if block.window_size > 0:
            _replace(block, "forward", windowed_block)
    for module in (*core.image_encoder.neck.modules(), decoder.conv_s0, decoder.conv_s1):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            _replace(module, "forward", pointwise)


def _replace(module: Any, name: str, method: Callable[..., Any]) -> None:
    kind: Any = type(module)
    module.__class__ = _subclass(kind, name, method)


@cache
def _subclass(kind: Any, name: str, method: Callable[..., Any]) -> Any:
    """Returns ``kind`` with one other method; its modules can be copied and pickled."""

    def reduce(module: nn.Module, _: object) -> tuple[Any, ...]:
        return _empty, (kind, name, method), module.__dict__

    return type(kind.__name__, (kind,), {name: method, "__reduce_ex__": reduce})


def _empty(kind: Any, name: str, method: Callable[..., Any]) -> Any:
    made = _subclass(kind, name, method)
    return made.__new__(made)


def pointwise(conv: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """A convolution of one pixel; the result lies in channels-last memory."""
    return linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def position_embedding(trunk: Any, hw: tuple[int, int]) -> Float[Tensor, "1 {hw[0]} {hw[1]} c"]:
    """Returns the background embedding at the size of the features plus the tiled window one."""
    background, window = trunk.pos_embed[0], trunk.pos_embed_window[0]
    side = window.shape[-1]
    with torch.autocast(background.device.type, enabled=False):  # as interpolation does
        rows, columns = (
            _bicubic(size, known, background.device)
            for size, known in zip(hw, background.shape[-2:], strict=True)
        )
        resized = torch.einsum("hi,cij,wj->hwc", rows, background, columns)
    tiles = resized.reshape(hw[0] // side, side, hw[1] // side, side, -1)
    tiled: Tensor = tiles + window.permute(1, 2, 0)[None, :, None]
    return tiled.reshape(1, *hw, -1)


@lru_cache(maxsize=16)
def _bicubic(size: int, known: int, device: torch.device) -> Float[Tensor, "{size} {known}"]:
    """The matrix by which ``interpolate(mode="bicubic")`` resizes one axis."""
    with torch.inference_mode(False):  # a later training step needs it in its backward pass
        unit = torch.eye(known, device=device)[None, None]
        return interpolate(unit, size=(size, known), mode="bicubic")[0, 0]


def windowed_block(block: Any, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j d"]:
    """``MultiScaleBlock.forward`` of a block with windows.

    Args:
        block: Meta's block; its parameters are used.
        x: Features; pooled by 2 where the block begins a stage.
    """
    normed = block.norm1(x)
    shortcut = x
    if block.dim != block.dim_out:
        shortcut = block.proj(normed)
        if block.pool is not None:
            shortcut = _pool(block.pool, shortcut)
    x = shortcut + block.drop_path(_windowed_attention(block, normed, shortcut.shape[1:3]))
    return x + block.drop_path(block.mlp(block.norm2(x)))  # type: ignore[no-any-return]


def _windowed_attention(
    block: Any, x: Float[Tensor, "b h w c"], hw_out: torch.Size
) -> Float[Tensor, "b i j d"]:
    """Attention within windows; only what lies on the feature map goes through linear layers."""
    attention, side = block.attn, block.window_size
    b, h, w, _ = x.shape
    heads = attention.num_heads
    qkv = _pad(attention.qkv(x), attention.qkv.bias, -h % side, -w % side)
    down, across = qkv.shape[1] // side, qkv.shape[2] // side
    windows = qkv.reshape(b, down, side, across, side, -1).transpose(2, 3)
    windows = windows.reshape(b * down * across, side * side, 3, heads, -1)
    q, k, v = windows.unbind(2)
    if attention.q_pool is not None:
        q = _pool(attention.q_pool, q.reshape(len(q), side, side, -1))
        side = q.shape[1]
        q = q.reshape(len(q), side * side, heads, -1)
    out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    out = out.transpose(1, 2).reshape(b, down, across, side, side, -1).transpose(2, 3)
    out = out.reshape(b, down * side, across * side, -1)[:, : hw_out[0], : hw_out[1]]
    return attention.proj(out)  # type: ignore[no-any-return]


def _pad(
    x: Float[Tensor, "b h w c"], value: Float[Tensor, " c"], below: int, right: int
) -> Float[Tensor, "b hp wp c"]:
    """Fills up rows and columns with one value per channel."""
    if right:
        x = torch.cat([x, value.to(x.dtype).expand(*x.shape[:2], right, -1)], dim=2)
    if below:
        x = torch.cat([x, value.to(x.dtype).expand(len(x), below, x.shape[2], -1)], dim=1)
    return x


def _pool(pool: nn.Module, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j c"]:
    pooled: Tensor = pool(x.permute(0, 3, 1, 2))
    return pooled.permute(0, 2, 3, 1)
