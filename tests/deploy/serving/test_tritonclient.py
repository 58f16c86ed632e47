"""`tritonclient[http]`, unchanged, against our server."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton

from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import RGB
from tests.deploy.serving.running import running


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[triton.InferenceServerClient]:
    workspace = tmp_path_factory.mktemp("served")
    publish(workspace, 1)
    with running(workspace) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"), concurrency=4)
        yield client
        client.close()


def images() -> np.ndarray:
    return np.stack([np.full((6, 5, 3), value, np.uint8) for value in RGB.values()])


def image_input(*, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("image", [3, 6, 5, 3], "UINT8")
    tensor.set_data_from_numpy(images(), binary_data=binary)
    return tensor


def test_health_metadata_configuration_and_index(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "1")
    assert not client.is_model_ready("animals")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("colours")["inputs"][0]["datatype"] == "UINT8"
    assert client.get_model_config("colours")["backend"] == "onnxruntime"
    assert client.get_model_repository_index()[0]["state"] == "READY"


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_infer_in_each_encoding(client, binary_input, binary_output):
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in ("probabilities", "label")]
    result = client.infer("colours", [image_input(binary=binary_input)], outputs=outputs, request_id="q1")
    labels = result.as_numpy("label")
    assert [label.decode() if isinstance(label, bytes) else label for label in labels] == list(RGB)
    probabilities = result.as_numpy("probabilities")
    assert probabilities.dtype == np.float32
    assert probabilities.argmax(axis=1).tolist() == [0, 1, 2]
    assert result.get_response()["id"] == "q1"


def test_infer_with_no_outputs_named(client):
    assert client.infer("colours", [image_input(binary=True)]).as_numpy("probabilities").shape == (3, 3)


def test_the_encodings_agree_to_the_bit(client):
    tensors = [
        client.infer(
            "colours",
            [image_input(binary=binary)],
            outputs=[triton.InferRequestedOutput("probabilities", binary_data=binary)],
        ).as_numpy("probabilities")
        for binary in (True, False)
    ]
    assert np.array_equal(*tensors)


def test_the_classification_extension(client):
    output = triton.InferRequestedOutput("probabilities", class_count=2)
    classes = client.infer("colours", [image_input(binary=True)], outputs=[output]).as_numpy("probabilities")
    assert classes.shape == (3, 2)
    probability, index, label = classes[2][0].decode().split(":")
    assert (index, label) == ("2", "blue")
    assert float(probability) > 0.5


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client, algorithm):
    result = client.infer("colours", [image_input(binary=True)], request_compression_algorithm=algorithm)
    assert result.as_numpy("label")[0] == b"red"


def test_asynchronous_requests(client):
    pending = [client.async_infer("colours", [image_input(binary=True)]) for _ in range(16)]
    assert all(request.get_result().as_numpy("label")[1] == b"green" for request in pending)


def test_a_refusal_reaches_the_caller_with_its_reason(client):
    tensor = triton.InferInput("image", [1, 2, 2, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 2, 2, 3), np.float32))
    with pytest.raises(triton.InferenceServerException, match="datatype UINT8"):
        client.infer("colours", [tensor])
