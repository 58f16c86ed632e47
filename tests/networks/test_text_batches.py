from pathlib import Path

import numpy as np

from tasks.modality.texts.tokens import feed_of
from tasks.networks.onnx_description import TextDescription
from tasks.networks.onnx_session import open_session
from tasks.networks.text_backbone import build_text_extractor
from tasks.networks.text_batches import BATCH_TOKENS, batches, run_texts
from tests.texts import WORDS, encoder


def test_a_batch_holds_texts_of_one_length_and_about_so_many_tokens():
    lengths = [3, 5, 3, 300, 3] + [5] * 60
    parts = batches(lengths)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    assert all(len({lengths[place] for place in part}) == 1 for part in parts)
    assert all(len(part) == 1 or len(part) * lengths[part[0]] <= BATCH_TOKENS for part in parts)
    assert len(parts) == 4  # of 3, of 5 (61 texts in two), of 300


def test_a_text_has_the_same_bits_in_any_company(tmp_path: Path):
    model, _ = build_text_extractor(encoder(tmp_path), TextDescription(), 3)
    session = open_session(model.SerializeToString())
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, len(WORDS), length) for length in rng.integers(1, 12, 200)]
    together = run_texts(session, ["features"], tokens, workers=2)
    alone = [np.asarray(session.run(["features"], feed_of([each]))[0])[0] for each in tokens]
    assert all(np.array_equal(row, one) for [row], one in zip(together, alone, strict=True))
