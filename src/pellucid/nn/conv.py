"""What convolutional networks of several rooms need: padding for any size, and faster orders of work on a CPU.

`pointwise` and `enlarged_conv` give the ordinary answer within rounding, sooner on one CPU thread. Where gradients, an
export, another device or another precision is asked for, the ordinary operation runs. `doubled_conv` is sooner in
training too, and only an export keeps the ordinary operations.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_WORTH = 96  # channels from which on nine small products cost less than one large one


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution ``(B, c_in, H, W) -> (B, c_out, H, W)``.

    With one thread torch leaves it to a matrix product that takes twice as long as oneDNN's kernel.

    Args:
        x: ``(B, c_in, H, W)``, best in channels-last order.
        weight: ``(c_out, c_in, 1, 1)``.
        bias: ``(c_out,)`` or None.
    """
    if _takes_onednn(x):
        return torch.mkldnn_convolution(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return F.conv2d(x, weight, bias)


def enlarged_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3 convolution of a map enlarged twofold: ``(B, c_in, H, W) -> (B, c_out, 2H, 2W)``.

    Enlarging works on each channel alone, so it may as well come after the products of each of the nine taps: these
    then see a quarter of the pixels, and what is enlarged has fewer channels.

    Args:
        x: ``(B, c_in, H, W)``; enlarged bilinearly, corners on corners.
        weight: ``(c_out, c_in, 3, 3)``.
        bias: ``(c_out,)`` or None.
    """
    if x.shape[1] < _WORTH or not _takes_onednn(x):
        return F.conv2d(_enlarge(x), weight, bias, padding=1)
    # The middle tap covers all pixels; the others fall short of one border or two, where the padding is zero.
    out = _enlarge(pointwise(x, weight[:, :, 1:2, 1:2], bias))
    height, width = out.shape[-2:]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy or dx:
                tap = _enlarge(pointwise(x, weight[:, :, dy + 1, dx + 1, None, None]))
                to, source = _overlap(dy, height), _overlap(-dy, height)
                out[:, :, to, _overlap(dx, width)] += tap[:, :, source, _overlap(-dx, width)]
    return out


def doubled_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3 convolution of a map doubled by repeating pixels: ``(B, c_in, H, W) -> (B, c_out, 2H, 2W)``.

    Of the nine taps over a doubled map some always meet the same pixel of the small one. Added up beforehand, they
    leave four taps an output pixel, which is a transposed convolution of stride 2; see `doubled_kernel`.

    Args:
        x: ``(B, c_in, H, W)``; enlarged by the nearest pixel.
        weight: ``(c_out, c_in, 3, 3)``.
        bias: ``(c_out,)`` or None.
    """
    if torch.compiler.is_exporting():  # runtimes do an ordinary convolution faster than a transposed one
        return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    return F.conv_transpose2d(x, doubled_kernel(weight), bias, stride=2, padding=1)


def doubled_kernel(weight: Tensor) -> Tensor:
    """Kernel of the transposed convolution that `doubled_conv` is: ``(c_out, c_in, 3, 3) -> (c_in, c_out, 4, 4)``.

    Along each axis K_0 = w_2, K_1 = w_1 + w_2, K_2 = w_0 + w_1, K_3 = w_0. Gradients flow through it.
    """
    c_out, c_in = weight.shape[:2]
    sums = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    # In this order the answer is in channels-last form, which the convolution takes without copying it.
    taps = torch.kron(sums, sums) @ weight.permute(1, 2, 3, 0).reshape(c_in, 9, c_out)  # (c_in, 16, c_out)
    return taps.view(c_in, 4, 4, c_out).permute(0, 3, 1, 2)


def pad_to_stride(x: Tensor, stride: int) -> Tensor:
    """Extend ``(B, C, H, W)`` to the right and bottom by reflection, to multiples of ``stride``; any size from 1x1."""
    for dim in (-2, -1):
        size = x.shape[dim]
        wanted = -(-size // stride) * stride
        if wanted > size:
            # Reflection repeated: index 0 1 2 1 0 1 2 ..., so that even one pixel can be extended.
            period = max(2 * size - 2, 1)
            index = torch.arange(wanted, device=x.device) % period
            index = torch.where(index >= size, period - index, index)
            x = x.index_select(dim, index)
    return x


def _overlap(shift: int, size: int) -> slice:
    """Pixels of a line that still have a neighbour ``shift`` further on."""
    return slice(max(0, -shift), size - max(0, shift))


def _enlarge(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def _takes_onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and not torch.compiler.is_compiling()  # nor exporting: a graph keeps the ordinary operation
    )
