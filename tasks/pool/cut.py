"""A published model in two: below the cut an extractor, whose rows are kept, above it a head that takes stored rows.

The very file that serves is cut, so what is predicted from rows is what it predicts, but for their rounding to float16.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tasks.errors import HeadstartError
from tasks.modality.feeds import INPUTS
from tasks.modality.texts.tokens import Tokens
from tasks.networks.classifier import Prediction, tokens_of
from tasks.networks.onnx_graph import check, part
from tasks.networks.onnx_session import open_model
from tasks.networks.outputs import FAMILIARITY, FAMILIARITY_POOLED, PROBABILITIES
from tasks.pool.published import read_champion
from tasks.records import Run
from tasks.storage.repository import MODEL, TOKENIZER
from tasks.workspace import Workspace

FEATURES = "features"  # the value that the classifier takes where the whole backbone is frozen
ROW = "row"  # where later layers were fine-tuned: what the classifier takes, and what else the familiarity does
HEAD_ROWS = 64  # some MB: what the head makes of one layer for the next stays in a core's cache
ITEMS = {name for names in INPUTS.values() for name in names}
KEY_DIGITS = 16  # as `tasks.networks.extractor.key_digest` has them


@dataclass(frozen=True, kw_only=True)
class CutModel:
    """The two parts of a model.onnx, as ONNX files, and `whole`, the file itself.

    `body` gives `output` float32 [N, D] of `image` uint8 [N, H, W, 3] or, of a model for texts, of the tokens that
    `tokens` makes; `head` gives `probabilities` float32 [N, C] of `output` and, where the model says it, `familiarity`
    float32 [N]. `key` is that of the rows in the feature store; their first `last_width` columns are the last layer's,
    which shows likeness best (None: all). Where layers were fine-tuned, `output` is two rows in one, and `whole` has it
    beside the values of the file.
    Large JPEGs are decoded for `image_size_px`, as its training did; where that is None, at full size.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    snapshot: str
    key: str
    output: str
    image_size_px: int | None
    last_width: int | None
    has_familiarity: bool
    task: Literal["image", "text"]
    tokens: Tokens | None = field(repr=False)
    whole: bytes = field(repr=False)
    body: bytes = field(repr=False)
    head: bytes = field(repr=False)


def cut_model(content: bytes, manifest: Mapping[str, Any] | None = None, tokenizer: bytes | None = None) -> CutModel:
    """Cuts a model.onnx.

    Args:
        tokenizer: of a model for texts, the bytes of its tokenizer.json.
        manifest: of a verified version of the workspace: then its rows are those that its training stored. Those of any
            other file are kept by themselves, since nothing says that its extractor is the one that it names.

    Raises:
        HeadstartError: it is no model of headstart, or has no value that its predictions depend on alone.
    """
    model = onnx.load_model_from_string(content)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    task = "text" if metadata.get("task") == "text" else "image"
    output = narrowest_value(model)
    if output is None or "labels" not in metadata:
        raise HeadstartError("the model can't be cut: no value between its input and its probabilities is one row each")
    makers = _makers(model)
    has_familiarity = FAMILIARITY in makers
    outputs = [PROBABILITIES, *([FAMILIARITY] if has_familiarity else [])]
    whole, width = content, None
    if has_familiarity and _depends_on_image(makers, FAMILIARITY, {output}):
        # Later layers were fine-tuned, and it depends on what lies below them, too.
        head, width = _head_of_both(model, output, outputs)
        model.graph.node.append(helper.make_node("Concat", [output, FAMILIARITY_POOLED], [ROW], axis=1))
        whole, output = model.SerializeToString(), ROW
    else:
        head = part(model, [output], outputs)
    lineage = (manifest or {}).get("lineage", {})
    extractor = (lineage.get("features") or {}).get("extractor") or {}
    shared = extractor.get("key") if output == FEATURES else None
    widths = extractor.get("widths") if shared else None
    return CutModel(
        name=(manifest or metadata).get("name", ""),
        version=str((manifest or metadata).get("version", "")),  # a rollback gives a file another number
        labels=tuple(json.loads(metadata["labels"])),
        snapshot=(lineage or metadata).get("snapshot", ""),
        key=shared or hashlib.sha256(content + output.encode()).hexdigest()[:KEY_DIGITS],
        output=output,
        image_size_px=extractor.get("image_size_px"),
        last_width=widths[0] if widths else width,
        has_familiarity=has_familiarity,
        task=task,
        tokens=tokens_of(metadata, tokenizer, "model.onnx") if task == "text" else None,
        whole=whole,
        body=part(model, INPUTS[task], [output]).SerializeToString(),
        head=head.SerializeToString(),
    )


def _head_of_both(model: onnx.ModelProto, output: str, outputs: list[str]) -> tuple[onnx.ModelProto, int]:
    """The head of `output` and FAMILIARITY_POOLED side by side in one row, and how many columns are the former's."""
    head = part(model, [output, FAMILIARITY_POOLED], outputs)
    widths = [each.type.tensor_type.shape.dim[1].dim_value for each in head.graph.input]
    del head.graph.input[:]
    head.graph.input.append(helper.make_tensor_value_info(ROW, TensorProto.FLOAT, ["N", sum(widths)]))
    head.graph.node.insert(0, helper.make_node("Split", [ROW, "widths"], [output, FAMILIARITY_POOLED], axis=1))
    head.graph.initializer.append(numpy_helper.from_array(np.array(widths, np.int64), "widths"))
    return check(head), widths[0]


def cut_champion(workspace: Workspace, name: str, public_key: str | None = None) -> CutModel:
    """The champion in two parts; see `read_champion` for the errors."""
    files, manifest = read_champion(workspace, name, public_key)
    return cut_model(files[MODEL], manifest, files.get(TOKENIZER))


def for_model(run: Run, model: CutModel) -> Run:
    """The run with the kind of items that a model takes: of a pool, the source does not say it."""
    return replace(run, config=run.config.with_keys({"ingest.task": model.task}))


def narrowest_value(model: onnx.ModelProto) -> str | None:
    """The first value [N, D] that the probabilities depend on alone: the pooled features, also those of layers that
    were fine-tuned. None where there is no such value."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred.value_info}
    makers = _makers(model)
    outputs = [output for node in model.graph.node for output in node.output]
    candidates = ([FEATURES] if FEATURES in makers else []) + [name for name in outputs if ranks.get(name) == 2]
    return next((name for name in candidates if not _depends_on_image(makers, PROBABILITIES, {name})), None)


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value."""
    return {output: node for node in model.graph.node for output in node.output}


def _depends_on_image(makers: dict[str, onnx.NodeProto], result: str, cuts: set[str]) -> bool:
    """Whether a result can be reached from the item without passing a cut, or doesn't depend on each of them."""
    waiting, seen = [result], set()
    while waiting:
        name = waiting.pop()
        if name in ITEMS:
            return True
        if name in seen or name in cuts:
            seen.add(name)
            continue
        seen.add(name)
        waiting += makers[name].input if name in makers else []
    return not cuts <= seen


class Head:
    """Applies the head to stored rows."""

    def __init__(self, model: CutModel) -> None:
        self._session, self._input = open_model(model.head), model.output

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Float32 [N, C] of rows [N, D] of any float."""
        [probabilities] = self._run(rows, [PROBABILITIES])
        return probabilities

    def predict(self, rows: np.ndarray) -> Prediction:
        """Probabilities float32 [N, C] and familiarity float32 [N] of rows [N, D] of any float."""
        found = self._run(rows, [each.name for each in self._session.get_outputs()])
        return Prediction(found[0], found[1] if len(found) > 1 else None)

    def _run(self, rows: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        blocks = []
        for start in range(0, max(len(rows), 1), HEAD_ROWS):
            block = rows[start : start + HEAD_ROWS].astype(np.float32, copy=False)
            blocks.append(self._session.run(outputs, {self._input: block}))
        return [np.concatenate(each) for each in zip(*blocks, strict=True)]
