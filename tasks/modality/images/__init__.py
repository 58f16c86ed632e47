"""Images: pixels, upright and bounded. Decoding, inspection, other views, and pictures of what a model looked at.

`from tasks.modality.images import decode` is all that a client of model.onnx needs: see `decode`.
"""

from tasks.modality.images.content import decode as decode
