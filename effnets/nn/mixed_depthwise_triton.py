"""Triton kernels of mixed depthwise convolution: forward, input gradient, weight gradient. Imported on GPUs alone.

Maps lie in memory as ``[N, H, W, C]``. One launch computes all groups of a layer: a program takes a block of positions
and a block of channels of one group, whose kernel size, padding and weights it finds in a row of a small table. Borders
are masked, hence nothing is padded or copied. Sums are in float32, and in the same order in every run.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from effnets.nn.mixed_depthwise_plain import Geometry, empty_channels_last

# A program computes so many values at a time, of as many channels as waste few, the more the better.
_VALUES = 2048
_CHANNELS = (64, 32, 16)
_WASTE = 1.15
# Below so many programs a GPU is not full, and each takes fewer positions.
_PROGRAMS = 512
_FEWEST_POSITIONS = 8
# The values that a program of the weight gradient sums at a time, and the most parts that positions are divided into.
_SUMMED = 4096
_PARTS = 64

_COLUMNS = 8  # of the table
# Arguments that are compiled for once, whatever their value: a new shape costs no compilation.
_SIZES = ("positions", "height", "width", "out_height", "out_width", "channels", "positions_each", "weights")


@triton.jit
def _correlate(total, source, tap, image, line, column, live, channel, inside, height, width, channels, group,
               dilation, SIZE: tl.constexpr, STRIDE: tl.constexpr, ALIGN: tl.constexpr,
               TRANSPOSED: tl.constexpr):  # fmt: skip
    """Add the products of all taps of one kernel size to `total` [positions, channels].

    The first tap meets the source at `line` and `column`, the others follow; transposed they precede, and meet those
    positions alone that the stride divides.
    """
    for dy in range(SIZE):
        if TRANSPOSED:
            distance = line - dy * dilation
            y = distance // STRIDE
            within = live & (distance >= 0) & (distance % STRIDE == 0) & (y < height)
        else:
            y = line + dy * dilation
            within = live & (y >= 0) & (y < height)
        start = tl.multiple_of(((image * height + y) * width).to(tl.int64) * channels, ALIGN)
        row = source + start[:, None] + channel[None, :]
        for dx in tl.static_range(SIZE):
            if TRANSPOSED:
                distance = column - dx * dilation
                x = distance // STRIDE
                seen = within & (distance >= 0) & (distance % STRIDE == 0) & (x < width)
            else:
                x = column + dx * dilation
                seen = within & (x >= 0) & (x < width)
            offset = tl.multiple_of(x * channels, ALIGN)
            mask = seen[:, None] & inside[None, :]
            values = tl.load(row + offset[:, None], mask=mask, other=0.0)
            scale = tl.load(tap + (dy * SIZE + dx) * group, mask=inside, other=0.0)
            total += values.to(tl.float32) * scale.to(tl.float32)[None, :]
    return total


@triton.jit(do_not_specialize=_SIZES)
def _convolve_kernel(source, weight, bias, target, table, positions, height, width, out_height, out_width, channels,
                     STRIDE: tl.constexpr, LARGEST: tl.constexpr, ALIGN: tl.constexpr, TRANSPOSED: tl.constexpr,
                     BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
                     POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Convolve `source` [N, height, width, C] into `target` [N, out_height, out_width, C]; or transposed, back."""
    row = table + tl.program_id(1) * COLUMNS
    begin = tl.multiple_of(tl.load(row + 1), ALIGN)
    end = tl.multiple_of(tl.load(row + 2), ALIGN)
    size = tl.load(row + 3)
    dilation = tl.load(row + 4)
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = tl.multiple_of(tl.load(row), ALIGN) + tl.arange(0, CHANNELS)
    live = position < positions
    inside = channel < end
    column = position % out_width
    line = position // out_width
    image = line // out_height
    line = line % out_height
    if TRANSPOSED:
        line += tl.load(row + 6)
        column += tl.load(row + 7)
    else:
        line = line * STRIDE - tl.load(row + 6)
        column = column * STRIDE - tl.load(row + 7)
    total = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    tap = (
        weight + tl.multiple_of(tl.load(row + 5), ALIGN) + channel - begin
    )  # the kernel's first; the next ones are as many values on as channels
    for known in tl.static_range(1, LARGEST + 1, 2):
        if size == known:
            total = _correlate(total, source, tap, image, line, column, live, channel, inside,
                               height, width, channels, end - begin, dilation, known, STRIDE, ALIGN,
                               TRANSPOSED)  # fmt: skip
    if BIAS:
        total += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "relu" or ACTIVATION == "relu6":
        total = tl.maximum(total, 0.0)
    if ACTIVATION == "relu6":
        total = tl.minimum(total, 6.0)
    if ACTIVATION == "silu":
        total = total / (1.0 + tl.exp(-total))
    if ACTIVATION == "hard_swish":
        total = total * tl.minimum(tl.maximum(total + 3.0, 0.0), 6.0) / 6.0
    pixel = tl.multiple_of(position.to(tl.int64) * channels, ALIGN)
    mask = live[:, None] & inside[None, :]
    tl.store(target + pixel[:, None] + channel[None, :], total.to(target.dtype.element_ty), mask=mask)


@triton.jit
def _sum_row(source, gradient, part, start, stop, top, left, dy, channel, inside, tap, height, width, out_height,
             out_width, channels, group, dilation, SIZE: tl.constexpr, STRIDE: tl.constexpr, ALIGN: tl.constexpr,
             CHANNELS: tl.constexpr, SUMMED: tl.constexpr):  # fmt: skip
    """Store the sums over positions `start` to `stop` for one row of a kernel, all its taps at a time."""
    TAPS: tl.constexpr = 4 if SIZE <= 4 else (8 if SIZE <= 8 else 16)
    POSITIONS: tl.constexpr = SUMMED // (TAPS * CHANNELS)
    dx = tl.arange(0, TAPS)
    total = tl.zeros((POSITIONS, TAPS, CHANNELS), tl.float32)
    for first in range(start, stop, POSITIONS):
        position = first + tl.arange(0, POSITIONS)
        live = position < stop
        column = position % out_width
        line = position // out_width
        image = line // out_height
        y = (line % out_height) * STRIDE - top + dy * dilation
        x = (column * STRIDE - left)[:, None] + (dx * dilation)[None, :]
        within = live & (y >= 0) & (y < height)
        seen = within[:, None] & (x >= 0) & (x < width) & (dx < SIZE)[None, :]
        pixel = (((image * height + y) * width)[:, None] + x).to(tl.int64) * channels
        pixel = tl.multiple_of(pixel, [ALIGN, ALIGN])
        mask = seen[:, :, None] & inside[None, None, :]
        values = tl.load(source + pixel[:, :, None] + channel[None, None, :], mask=mask, other=0.0)
        pixel = tl.multiple_of(position.to(tl.int64) * channels, ALIGN)
        mask = live[:, None] & inside[None, :]
        slopes = tl.load(gradient + pixel[:, None] + channel[None, :], mask=mask, other=0.0)
        total += values.to(tl.float32) * slopes.to(tl.float32)[:, None, :]
    place = ((dy * SIZE + dx) * group)[:, None] + tap[None, :]
    tl.store(part + place, tl.sum(total, axis=0), mask=(dx < SIZE)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=_SIZES)
def _weight_gradient_kernel(source, gradient, parts, table, positions, positions_each, weights, height, width,
                            out_height, out_width, channels, STRIDE: tl.constexpr, LARGEST: tl.constexpr,
                            ALIGN: tl.constexpr, CHANNELS: tl.constexpr, SUMMED: tl.constexpr,
                            COLUMNS: tl.constexpr):  # fmt: skip
    """Sum the products over a part of the positions, for all taps of a kernel's row, into `parts` [parts, weights]."""
    row = table + tl.program_id(0) * COLUMNS
    dy = tl.program_id(1)
    begin = tl.multiple_of(tl.load(row + 1), ALIGN)
    end = tl.multiple_of(tl.load(row + 2), ALIGN)
    size = tl.load(row + 3)
    dilation = tl.load(row + 4)
    channel = tl.multiple_of(tl.load(row), ALIGN) + tl.arange(0, CHANNELS)
    inside = channel < end
    start = tl.program_id(2) * positions_each
    stop = tl.minimum(start + positions_each, positions)
    part = parts + tl.program_id(2) * weights + tl.multiple_of(tl.load(row + 5), ALIGN)
    top = tl.load(row + 6)
    left = tl.load(row + 7)
    for known in tl.static_range(1, LARGEST + 1, 2):
        if (size == known) & (dy < known):
            _sum_row(source, gradient, part, start, stop, top, left, dy, channel, inside, channel - begin, height,
                     width, out_height, out_width, channels, end - begin, dilation, known, STRIDE, ALIGN, CHANNELS,
                     SUMMED)  # fmt: skip


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str) -> Tensor:
    """Return the layer's output for `x`, in its dtype and channels_last; arguments as of `mixed_depthwise`."""
    height, width = geometry.output_size(x.shape[2]), geometry.output_size(x.shape[3])
    target = empty_channels_last(x, (*x.shape[:2], height, width))
    _launch(x, weight, bias, target, geometry, (x.shape[2], x.shape[3]), activation=activation)
    return target


def input_gradient(gradient: Tensor, weight: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Return the gradient of an input of `size` (height, width), in `gradient`'s dtype: a transposed convolution."""
    target = empty_channels_last(gradient, (*gradient.shape[:2], *size))
    _launch(gradient, weight, None, target, geometry, size, transposed=True)
    return target


def weight_gradient(x: Tensor, gradient: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient of the packed weights in float32: sums over parts of the positions, then over the parts."""
    x, gradient = _channels_last(x), _channels_last(gradient)
    count, channels, height, width = x.shape
    block = _block_channels(geometry)
    table = _table(geometry, (height, width), block, x.device)
    out_height, out_width = gradient.shape[2:]
    positions, largest = count * out_height * out_width, max(geometry.kernel_sizes)
    parts = max(1, min(_PARTS, positions // 64, 4 * _PROGRAMS // (len(table) * largest)))
    each = triton.cdiv(positions, parts)
    sums = torch.empty((parts, geometry.weights), device=x.device, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_gradient_kernel[(len(table), largest, parts)](
            x, gradient, sums, table, positions, each, geometry.weights, height, width, out_height, out_width, channels,
            STRIDE=geometry.stride, LARGEST=largest, ALIGN=_alignment(geometry), CHANNELS=block, SUMMED=_SUMMED,
            COLUMNS=_COLUMNS,
        )  # fmt: skip
    return sums.sum(0)


def _launch(source: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, geometry: Geometry,
            input_size: tuple[int, int], *, activation: str = "none", transposed: bool = False) -> None:  # fmt: skip
    source = _channels_last(source)
    height, width = source.shape[2:]
    count, channels, out_height, out_width = target.shape
    block = _block_channels(geometry)
    table = _table(geometry, input_size, block, source.device)
    positions, at_a_time = count * out_height * out_width, _VALUES // block
    while at_a_time > _FEWEST_POSITIONS and triton.cdiv(positions, at_a_time) * len(table) < _PROGRAMS:
        at_a_time //= 2
    with torch.cuda.device_of(source):
        _convolve_kernel[(triton.cdiv(positions, at_a_time), len(table))](
            source, weight.contiguous(), weight if bias is None else bias.contiguous(), target, table, positions,
            height, width, out_height, out_width, channels, STRIDE=geometry.stride, LARGEST=max(geometry.kernel_sizes),
            ALIGN=_alignment(geometry), TRANSPOSED=transposed, BIAS=bias is not None, ACTIVATION=activation,
            POSITIONS=at_a_time, CHANNELS=block, COLUMNS=_COLUMNS,
        )  # fmt: skip


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@functools.cache
def _block_channels(geometry: Geometry) -> int:
    """Return how many channels a program takes."""
    padded = {block: sum(triton.cdiv(c, block) * block for c in geometry.channels) for block in _CHANNELS}
    least = min(padded.values())
    return next(block for block in _CHANNELS if padded[block] <= _WASTE * least)


@functools.cache
def _alignment(geometry: Geometry) -> int:
    """Return the power of 2, at most 8, that all groups' channels are multiples of: values that one load may fetch."""
    return next(power for power in (8, 4, 2, 1) if not any(c % power for c in geometry.channels))


@functools.lru_cache(maxsize=4096)
def _table(geometry: Geometry, size: tuple[int, int], block: int, device: torch.device) -> Tensor:
    """Return the blocks of channels for an input of `size`, int32 [blocks, 8].

    Columns: first channel, begin and end of its group, kernel size, dilation, where the group's packed weights begin,
    rows and columns of padding before the input.
    """
    tops, lefts = geometry.padding_before(size[0]), geometry.padding_before(size[1])
    rows, begin, offset = [], 0, 0
    groups = zip(geometry.channels, geometry.kernel_sizes, geometry.dilations, tops, lefts, strict=True)
    for channels, kernel_size, dilation, top, left in groups:
        end = begin + channels
        rows += [[c, begin, end, kernel_size, dilation, offset, top, left] for c in range(begin, end, block)]
        begin, offset = end, offset + channels * kernel_size**2
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.int32).to(device)
