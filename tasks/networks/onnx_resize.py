"""Resizing in plain ONNX operators: bilinear or bicubic, and antialiased, the same in ONNX Runtime and in OpenVINO.

ONNX has an antialiased `Resize`, but runtimes disagree about it: OpenVINO 2026.4 ignores the attribute, and ONNX
Runtime 1.31 answers up to 19 of 255 levels away from Pillow. So the filter is written out here as what it is, two
products with sparse matrices of weights, computed in the graph from the image's own height and width.

A row of such a matrix has weights other than zero for few neighbouring pixels only. So the output is cut into blocks
of BLOCK rows (then columns): each block gathers the stretch of input that it needs, and multiplies it with its own
small dense matrix. Measured on one core with ONNX Runtime 1.31, 533x400 to 224: 1.0 ms, where Resize needs 1.4 ms.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper, parser

BLOCK = 16  # measured: 8 to 32 are within 20 %, 16 is the fastest

# The weights of one direction. Output i of S has its centre at (i + 1/2) * size / S; the input pixel whose middle is at
# t weighs max(0, reach - |t - centre|), normalised, with reach = max(size / S, 1): Pillow's BILINEAR, a triangle as
# wide as two output pixels where the image shrinks, and two input pixels where it grows.
#
# B blocks of R = BLOCK outputs; K = `taps` inputs are enough for each. Blocks that would begin before the image or
# end behind it are moved into it: what they then leave out does not exist.
WEIGHTS = """
{d}_shape = Shape <start = {axis}, end = {end}> (image)
{d}_int = Squeeze ({d}_shape)
{d}_size = Cast <to = 1> ({d}_int)
{d}_scale = Mul ({d}_size, one_output)
{d}_reach = Max ({d}_scale, one)
{d}_inner = Mul ({d}_size, first_to_last)
{d}_side = Mul ({d}_reach, support)
{d}_outer = Add ({d}_side, {d}_side)
{d}_width = Add ({d}_inner, {d}_outer)
{d}_wider = Add ({d}_width, two)
{d}_bounded = Min ({d}_wider, {d}_size)
{d}_taps = Floor ({d}_bounded)
{d}_begin = Mul ({d}_size, firsts)
{d}_left = Sub ({d}_begin, {d}_side)
{d}_floor = Floor ({d}_left)
{d}_last = Sub ({d}_size, {d}_taps)
{d}_first = Clip ({d}_floor, zero, {d}_last)
{d}_range = Range (half, {d}_taps, one)
{d}_steps = Unsqueeze ({d}_range, axis_1)
{d}_middles = Add ({d}_first, {d}_steps)
{d}_centres = Mul ({d}_size, centres)
{d}_offsets = Sub ({d}_middles, {d}_centres)
{d}_distances = Abs ({d}_offsets)
{filter}
{d}_sum = ReduceSum ({d}_filter, axis_1)
{d}_weights = Div ({d}_filter, {d}_sum)
{d}_column = Squeeze ({d}_middles, axis_2)
{d}_pixels = Cast <to = 7> ({d}_column)
"""  # weights float32 [B, K, R]; pixels int64 [B, K]: the cast takes the half off the middles

BILINEAR = """
{d}_heights = Sub ({d}_reach, {d}_distances)
{d}_filter = Relu ({d}_heights)
"""
# Pillow also cuts off what a cubic adds beyond 0..255, after each direction. Not here: it needs x before y, which takes
# 0.8 ms more (of 12 with EfficientNet-Lite2 at 260 px), and features differ from those of Pillow's own pixels by 2.90 %
# instead of 2.93 %, because rounding to bytes makes nearly all of that.
#
# Keys' cubic with a = -1/2 (Pillow's BICUBIC), of x = |t - centre| / reach: 1.5 x^3 - 2.5 x^2 + 1 up to 1, then
# -0.5 x^3 + 2.5 x^2 - 4 x + 2 up to 2. Both are 0 at 1, so each is computed of x clipped to its own range.
BICUBIC = """
{d}_x = Div ({d}_distances, {d}_reach)
{d}_near = Min ({d}_x, one)
{d}_far = Clip ({d}_x, one, two)
{d}_near_1 = Mul ({d}_near, cubic_3)
{d}_near_2 = Sub ({d}_near_1, cubic_2)
{d}_near_3 = Mul ({d}_near_2, {d}_near)
{d}_near_4 = Mul ({d}_near_3, {d}_near)
{d}_near_5 = Add ({d}_near_4, one)
{d}_far_1 = Mul ({d}_far, half)
{d}_far_2 = Sub (cubic_2, {d}_far_1)
{d}_far_3 = Mul ({d}_far_2, {d}_far)
{d}_far_4 = Sub ({d}_far_3, four)
{d}_far_5 = Mul ({d}_far_4, {d}_far)
{d}_far_6 = Add ({d}_far_5, two)
{d}_filter = Add ({d}_near_5, {d}_far_6)
"""
FILTERS = {"bilinear": (BILINEAR, 1), "bicubic": (BICUBIC, 2)}  # and the support, in reaches

# Bytes are gathered before the cast, which moves a quarter of the memory. ONNX Runtime fuses each Transpose into the
# product behind it; the first product so leaves the columns outermost, as the second one wants them.
PRODUCTS = """
lines = Reshape (image, n_h_wc)
line_blocks = Gather <axis = 1> (lines, y_pixels)
line_floats = Cast <to = 1> (line_blocks)
line_columns = Transpose <perm = [0, 1, 3, 2]> (line_floats)
short = MatMul (line_columns, y_weights)
columns = Reshape (short, n_b_w_cr)
column_blocks = Gather <axis = 2> (columns, x_pixels)
column_lines = Transpose <perm = [0, 1, 2, 4, 3]> (column_blocks)
small = MatMul (column_lines, x_weights)
tiles = Reshape (small, n_b_b_c_r_r)
planes = Transpose <perm = [0, 3, 1, 4, 2, 5]> (tiles)
"""
CUT = """
padded = Reshape (planes, n_c_br_br)
{output} = Slice (padded, corner, sides, height_and_width)
"""


def resize_nodes(
    side_px: int, output: str, resize: str = "bilinear"
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and constants from `image` uint8 [N, H, W, 3] to `output` float32 [N, 3, S, S], values of 0..255 (bicubic
    goes a little beyond)."""
    blocks = -(-side_px // BLOCK)
    lines, support = FILTERS[resize]
    text = "".join(
        WEIGHTS.format(d=d, axis=axis, end=axis + 1, filter=lines.format(d=d)) for d, axis in (("y", 1), ("x", 2))
    )
    text += PRODUCTS
    whole = blocks * BLOCK == side_px
    text += f"{output} = Reshape (planes, n_c_br_br)" if whole else CUT.format(output=output)
    nodes = [parser.parse_node(line) for line in text.splitlines() if line]
    used = {name for node in nodes for name in node.input}
    return nodes, [constant for constant in _constants(side_px, blocks, support) if constant.name in used]


def _constants(side_px: int, blocks: int, support: int) -> Iterator[onnx.TensorProto]:
    # The last block may have more outputs than are wanted: they repeat the last one, and are cut off.
    outputs = np.minimum(np.arange(blocks * BLOCK), side_px - 1).astype(np.float64) + 0.5
    centres = outputs / side_px
    floats = {
        "zero": 0,
        "half": 0.5,
        "one": 1,
        "two": 2,
        "four": 4,
        "support": support,
        "cubic_2": 2.5,
        "cubic_3": 1.5,
        "one_output": 1 / side_px,
        "first_to_last": (BLOCK - 1) / side_px,
        "centres": centres.reshape(blocks, 1, BLOCK),
        "firsts": centres[::BLOCK].reshape(blocks, 1, 1),
    }
    integers = {
        "axis_1": [1],
        "axis_2": [2],
        "n_h_wc": [0, 0, -1],
        "n_b_w_cr": [0, 0, -1, 3 * BLOCK],
        "n_b_b_c_r_r": [0, blocks, blocks, 3, BLOCK, BLOCK],
        "n_c_br_br": [0, 3, blocks * BLOCK, blocks * BLOCK],
        "corner": [0, 0],
        "sides": [side_px, side_px],
        "height_and_width": [2, 3],
    }
    for name, value in floats.items():
        yield numpy_helper.from_array(np.array(value, np.float32), name)
    for name, value in integers.items():
        yield numpy_helper.from_array(np.array(value, np.int64), name)
