from pathlib import Path

import numpy as np
import onnx
import pytest

from tasks.config import EMBEDDED_TEXT
from tasks.errors import ConfigError
from tasks.modality.images.augmentation import policy_of
from tasks.modality.texts.tokens import Tokens, feed_of
from tasks.networks.extractor import extractor_of
from tasks.networks.onnx_description import TextDescription, read_text_description
from tasks.networks.onnx_inspection import inspect_network
from tasks.networks.onnx_session import open_session
from tasks.networks.text_backbone import EMBEDDED, build_text_extractor, depends_on_company, read_tokenizer
from tasks.records import FeatureExtractor
from tests.runs import make_run
from tests.texts import encoder, tokenizer


def features(file: Path, ids: np.ndarray, mask: np.ndarray | None = None, layers: int = 0, **described: str):
    model, widths = build_text_extractor(file, TextDescription(**described), layers)  # type: ignore[arg-type]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids) if mask is None else mask}
    return np.asarray(open_session(model.SerializeToString()).run(["features"], feed)[0]), widths


@pytest.mark.parametrize("segments", [True, False])
def test_tokens_are_pooled_and_padding_counts_for_nothing(tmp_path: Path, segments: bool):
    file = encoder(tmp_path, segments=segments)
    tokens = onnx.load_model(file)
    [hidden] = open_session(tokens.SerializeToString()).run(
        ["last_hidden_state"],
        {each.name: np.array([[1, 3, 4]]) * (each.name == "input_ids") for each in tokens.graph.input},
    )
    plain, _ = features(file, np.array([[1, 3, 4]]))
    assert plain[0] == pytest.approx(np.asarray(hidden)[0].mean(axis=0), abs=1e-6)
    padded, _ = features(file, np.array([[1, 3, 4, 0, 0]]), np.array([[1, 1, 1, 0, 0]]))
    assert padded[0] == pytest.approx(plain[0], abs=1e-6)
    first, _ = features(file, np.array([[1, 3, 4]]), pooling="class")
    assert first[0] == pytest.approx(np.asarray(hidden)[0, 0], abs=1e-6)
    both, widths = features(file, np.array([[1, 3, 4]]), pooling="both")
    assert both.shape == (1, 16)
    assert list(widths.values()) == [16]


def test_late_blocks_are_the_normalised_sums_at_their_ends(tmp_path: Path):
    _, widths = features(encoder(tmp_path), np.array([[1, 2]]), layers=5)
    assert widths == {"last_hidden_state": 8, "norm3": 8, "norm1": 8}  # of three blocks, two beside the last


def test_an_encoder_that_rounds_by_what_is_in_the_batch_is_found(tmp_path: Path):
    for dynamic in (False, True):
        file = encoder(tmp_path / str(dynamic), dynamic=dynamic)
        model, _ = build_text_extractor(file, TextDescription(), 2)
        assert depends_on_company(model) is dynamic
        warnings = inspect_network(file)["warnings"]
        assert ["DynamicQuantizeLinear" in each for each in warnings] == [True] * dynamic


def test_what_cant_be_an_encoder_says_why(tmp_path: Path):
    file = encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json can't be used"):
        read_tokenizer(file, TextDescription())
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="needs its tokenizer beside it"):
        read_tokenizer(file, TextDescription())
    model = onnx.load_model(file)
    model.graph.input[0].name = "pixels"
    model.graph.node[0].input[1] = "pixels"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="it needs the inputs input_ids and attention_mask"):
        build_text_extractor(file, TextDescription(), 0)
    file.with_suffix(".toml").write_text("max_token = 3")
    with pytest.raises(ConfigError, match="its keys are max_tokens, pooling"):
        read_text_description(file)


def test_the_key_depends_on_the_encoder_its_tokenizer_and_its_layers(tmp_path: Path):
    file = encoder(tmp_path)

    def made(**backbone: object) -> FeatureExtractor:
        config = {"ingest": {"task": "text"}, "backbone": {"name": str(file), **backbone}}
        run = make_run(tmp_path / "w", tmp_path, config=config)
        return extractor_of(run, policy_of(run.config))

    first = made()
    assert (first.task, first.max_tokens, made().key) == ("text", 128, first.key)
    assert made(features=1).key != first.key
    file.with_suffix(".toml").write_text("max_tokens = 64")
    assert made().key != first.key
    file.with_suffix(".toml").unlink()
    (tmp_path / "tokenizer.json").write_bytes(tokenizer().replace(b'"late"', b'"soon"'))
    assert made().key != first.key
    with pytest.raises(ConfigError, match=r"backbone\.boundary is for images"):
        made(boundary="block_12_add")


def test_the_embedded_encoder_tells_what_texts_are_about():
    """As the words say it, and with every byte in less than 3 MB."""
    description = read_text_description(EMBEDDED)
    tokenizer_json = read_tokenizer(EMBEDDED, description)
    assert EMBEDDED.stat().st_size + len(tokenizer_json) < 3_000_000
    model, widths = build_text_extractor(EMBEDDED, description, 3)
    assert list(widths.values()) == [80]
    session, tokens = open_session(model.SerializeToString()), Tokens(tokenizer_json, description.max_tokens)
    texts = ("the invoice shows a wrong amount", "I was billed too much money", "my dog loves the park")
    rows = [np.asarray(session.run(["features"], feed_of([tokens.ids(text)]))[0])[0] for text in texts]
    unit = np.stack([row / np.linalg.norm(row) for row in rows])
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.1
    run = make_run("w", "s", config={"ingest": {"task": "text"}, "backbone": {"name": EMBEDDED_TEXT}})
    assert extractor_of(run, policy_of(run.config)).backbone == EMBEDDED_TEXT
