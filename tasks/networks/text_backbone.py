"""Any encoder of texts as the backbone: FILE.onnx and its tokenizer.json; FILE.toml beside them, where there is one.

The graph takes `input_ids` and `attention_mask` (and, of BERT's kin, `token_type_ids`), int64 [N, T], and gives tokens
[N, T, D], which are pooled here, or one row a text [N, D].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from tasks.config import EMBEDDED_TEXT
from tasks.errors import ConfigError, DamagedFileError
from tasks.modality.feeds import INPUTS
from tasks.modality.texts.tokens import MAX_BYTES, Tokens, feed_of
from tasks.networks.onnx_description import TextDescription, description_path
from tasks.networks.onnx_file import OWN, first_token, give_features, probed_shapes, read_graph
from tasks.networks.onnx_graph import check, check_names
from tasks.networks.onnx_layers import late_sums
from tasks.networks.onnx_session import open_session

IDS, MASK = INPUTS["text"]
SEGMENTS = "token_type_ids"  # of pairs of texts; one text is all zeros
PROBE_TOKENS = 8
COMPANY = (
    "gives a text other features beside other texts than alone, as encoders do whose activations are quantised while "
    "they run (DynamicQuantizeLinear): resumed runs and servers will differ a little. Prefer its float32 file, or one "
    "with quantised weights alone"
)
EMBEDDED = Path(__file__).with_name("embedded_text") / "model.onnx"


def encoder_file(backbone: str) -> Path:
    """The ONNX file that a backbone names."""
    return EMBEDDED if backbone == EMBEDDED_TEXT else Path(backbone).expanduser()


def read_tokenizer(file: Path, description: TextDescription) -> bytes:
    """The tokenizer.json of an encoder. Raises ConfigError where there is none, or it is no tokenizer."""
    path = file.parent / description.tokenizer
    if not path.is_file():
        raise ConfigError(
            f"{file} needs its tokenizer beside it, {path.name}: the file that its authors saved with it (or name "
            f"another with the key 'tokenizer' in {description_path(file).name})"
        )
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are allowed")
    content = path.read_bytes()
    try:
        Tokens(content, description.max_tokens).ids("a text")
    except DamagedFileError as exc:
        raise ConfigError(f"{path} can't be used: {exc}") from None
    return content


def build_text_extractor(
    file: Path, description: TextDescription, layers: int | Sequence[str]
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph from `input_ids` and `attention_mask`, int64 [N, T], to `features` float32 [N, D], and how many of
    those each value gives, the output first.

    Args:
        layers: a number of late blocks beside the encoder's output, or names of values in the graph.

    Raises:
        ConfigError: as `read_graph`; inputs of another kind; no such value; or the encoder does not run on tokens.
    """
    encoder = read_graph(file)
    _check_inputs(encoder, file)
    output = description.output or encoder.graph.output[0].name
    late = late_sums(encoder, output) if isinstance(layers, int) else list(layers)
    check_names(encoder, [output, *late], str(file))
    encoder = compose.add_prefix(encoder, OWN, rename_inputs=False)
    output, late = OWN + output, [OWN + name for name in late if name != output]
    _give_segments(encoder.graph)
    shapes = _shapes(encoder, [output, *late], file)
    if isinstance(layers, int):
        late = [name for name in late if len(shapes[name]) == 3 and shapes[name][1] == PROBE_TOKENS][:layers]
    _add_weights(encoder.graph)
    rows, widths = [], {}
    for name in (output, *late):
        row, widths[name.removeprefix(OWN)] = _pool(encoder.graph, name, shapes[name], description)
        rows.append(row)
    give_features(encoder.graph, rows, widths)
    return check(encoder), widths


def depends_on_company(extractor: onnx.ModelProto) -> bool:
    """Whether a text has other features, in any bit, in a batch than alone.

    Two texts of one length and of different tokens, 0 and 1, which every vocabulary has.
    """
    texts = [np.ones(PROBE_TOKENS, np.int64), np.arange(PROBE_TOKENS, dtype=np.int64) % 2]
    session = open_session(extractor.SerializeToString())
    [together] = session.run(["features"], feed_of(texts))
    alone = [np.asarray(session.run(["features"], feed_of([text]))[0])[0] for text in texts]
    return not np.array_equal(np.asarray(together), np.stack(alone), equal_nan=True)


def _check_inputs(encoder: onnx.ModelProto, file: Path) -> None:
    constants = {constant.name for constant in encoder.graph.initializer}
    inputs = {value.name: value for value in encoder.graph.input if value.name not in constants}
    whole = all(value.type.tensor_type.elem_type == TensorProto.INT64 for value in inputs.values())
    if not {IDS, MASK} <= inputs.keys() <= {IDS, MASK, SEGMENTS} or not whole:
        raise ConfigError(
            f"{file} can't be a backbone of texts: it needs the inputs {IDS} and {MASK}, int64 [N, T], and may have "
            f"{SEGMENTS}; found {', '.join(inputs) or 'none'}"
        )


def _give_segments(graph: onnx.GraphProto) -> None:
    """Makes the two inputs dynamic, and the third, where there is one, zeros."""
    had = {value.name for value in graph.input}
    kept = [value for value in graph.input if value.name not in (IDS, MASK, SEGMENTS)]
    del graph.input[:]
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in (IDS, MASK))
    graph.input.extend(kept)  # constants that are listed as inputs
    if SEGMENTS in had:
        graph.node.insert(0, helper.make_node("Sub", [IDS, IDS], [SEGMENTS]))


def _shapes(encoder: onnx.ModelProto, names: Sequence[str], file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of values, from a run on two texts of PROBE_TOKENS tokens. Raises ConfigError where it fails."""
    try:
        return probed_shapes(encoder, names, feed_of([np.ones(PROBE_TOKENS, np.int64)] * 2))
    except Exception as exc:
        raise ConfigError(
            f"{file} does not run on two texts of {PROBE_TOKENS} tokens: export it with dynamic first and second "
            f"dimensions ({str(exc).splitlines()[0]})"
        ) from exc


def _add_weights(graph: onnx.GraphProto) -> None:
    """Adds `token_weights` float32 [N, 1, T], which add up to 1 over the tokens of a text (to 0 where it has none)."""
    constants: dict[str, np.ndarray] = {"text_axis": np.array([1], np.int64), "one_token": np.array(1, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Cast", [MASK], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["mask", "text_axis"], ["tokens"], keepdims=1),
            helper.make_node("Max", ["tokens", "one_token"], ["token_count"]),
            helper.make_node("Div", ["mask", "token_count"], ["token_shares"]),
            helper.make_node("Unsqueeze", ["token_shares", "text_axis"], ["token_weights"]),
        ]
    )


def _pool(graph: onnx.GraphProto, name: str, shape: tuple[int, ...], description: TextDescription) -> tuple[str, int]:
    """Adds the nodes that make one row a text of a value: the row's name, and its width. Raises ConfigError."""
    if len(shape) == 2:
        return name, shape[1]
    if len(shape) != 3:
        raise ConfigError(f"{name.removeprefix(OWN)} has the shape {list(shape)}: rows [N, D] or tokens [N, T, D] can")
    parts = []
    if description.pooling != "mean":
        parts.append(first_token(graph, name, name))
    if description.pooling != "class":
        # A product, not a sum over the tokens: ONNX Runtime adds those up in another order in a batch of one.
        graph.node.append(helper.make_node("MatMul", ["token_weights", name], [f"{name}_row"]))
        graph.node.append(helper.make_node("Squeeze", [f"{name}_row", "text_axis"], [f"{name}_mean"]))
        parts.append(f"{name}_mean")
    if len(parts) == 1:
        return parts[0], shape[2]
    graph.node.append(helper.make_node("Concat", parts, [f"{name}_pooled"], axis=1))
    return f"{name}_pooled", 2 * shape[2]
