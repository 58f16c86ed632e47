"""Images with a few bytes changed, cut or added are decoded or refused: no decoder's own exception gets through."""

import random

import numpy as np
import pytest

from deploy.serving.limits import Limits
from deploy.serving.requests import decode_image, opened_image
from tasks.errors import RequestError
from tests.damage import harmed, sound_files

LIMITS = Limits(max_pixels=2_000_000)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_damaged_images_are_decoded_or_refused(seed, capfd):
    rng, files, outcomes = random.Random(seed), sound_files(), set()
    for _ in range(1500):
        content = harmed(rng.choice(files), rng)
        try:
            pixels = decode_image(opened_image(content, LIMITS))
        except RequestError as exc:
            outcomes.add(exc.http_status)
            continue
        outcomes.add(200)
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
    assert outcomes == {200, 400, 413}
