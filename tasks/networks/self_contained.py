"""A model.onnx is one file: nothing that lies beside it is ever read with it.

ONNX may keep tensors in other files (`external_data`), which a runtime reads from the model's folder, or from the
current one where it is given bytes. So any file there could become part of a prediction, signed or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tasks.errors import DamagedFileError

if TYPE_CHECKING:
    import onnx

# The key under which ONNX Runtime looks for the other file: without it there is none. Text lies in the file as it is.
EXTERNAL_KEY = b"location"


def check_self_contained(content: bytes) -> None:
    """Raises DamagedFileError where an ONNX file refers to another file, or can't be read."""
    if EXTERNAL_KEY not in content:
        return
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as exc:
        raise DamagedFileError(f"not a valid ONNX graph: {exc}") from None
    if names := sorted(external_tensors(model)):
        raise DamagedFileError(
            f"the graph keeps {', '.join(names[:3])}{' and more' if len(names) > 3 else ''} in another file "
            "(external data), and a model has to be one file; save it with all tensors inside"
        )


def external_tensors(model: onnx.ModelProto) -> Iterator[str]:
    """The names of the tensors outside the file: anywhere, also in the attributes and subgraphs of nodes."""
    import onnx

    def visit(message: Any) -> Iterator[str]:
        if isinstance(message, onnx.TensorProto):
            if message.external_data or message.data_location == onnx.TensorProto.EXTERNAL:
                yield repr(message.name)
            return
        for field, value in message.ListFields():
            if field.message_type is not None:
                for each in value if field.is_repeated else [value]:
                    yield from visit(each)

    return visit(model)
