import pytest

from tasks.figures import in_figures
from tasks.records import (
    Candidate,
    Catalogue,
    Decision,
    FeatureExtractor,
    Features,
    GateResult,
    Head,
    Snapshot,
)

REFUSING = GateResult(name="accuracy", passed=False, value=0.4, threshold=0.5, reason="too low")
SNAPSHOT = Snapshot(id="abc", table_path="t", labels=("a", "b"), images=1234, new=34, quarantined=0)

EXTRACTOR = FeatureExtractor(
    key="r", onnx_path="t", backbone="embedded", weights="w", boundary="avg_pool", image_size_px=32
)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (Catalogue(table_path="t", images=1234, quarantined=2, source="s"), "1,234 images, 2 files quarantined"),
        (SNAPSHOT, "abc, 1,234 images in 2 classes, 34 new"),
        (EXTRACTOR, "embedded up to avg_pool, fp32"),
        (Features(key="r", views=0, embedded=40), "40 images embedded"),
        (
            Head(keras_path="k", history_path="h", validation_path="v", digest="d" * 64, temperature=1.5),
            f"head {'d' * 12}, temperature 1.50",
        ),
        (Candidate(onnx_path="m", sha256="s", version=3), "candidate for version 3"),
        (
            Decision(promote=False, reasons=(), gates=(REFUSING,), metrics={"test": {"accuracy": 0.4}}),
            "refuse (accuracy), test accuracy 0.400",
        ),
        (Decision(promote=True, reasons=(), gates=()), "promote"),
        (7, ""),
        (None, ""),
    ],
)
def test_a_result_in_one_line(result, says):
    assert in_figures(result) == says
