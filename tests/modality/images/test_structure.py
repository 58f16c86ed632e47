"""Files that look small and cost much are refused by their structure, or cost little after all."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.errors import DecodeError
from tasks.modality.images.content import decode
from tests import hostile
from tests.photos import encoded, photo

SOUND = "PNG of 100 MP, transparent"  # the most costly of the files that nobody means harm with
WORST_MB = 2000
WORST_TIMES = 4.0  # the seconds of a core that a sound file takes; up to 1.9 were seen, and machines change their speed


def cost_of(name: str) -> tuple[float, int, int, str]:
    """Seconds of processor time, megabytes, the file's bytes, and what came of it; call it in a process of its own."""
    content = hostile.HOSTILE[name]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins here
    held, spent = _memory_mb("VmRSS:"), time.process_time()
    try:
        outcome = str(decode(content).shape)
    except DecodeError as exc:
        outcome = str(exc)
    return time.process_time() - spent, _memory_mb("VmHWM:") - held, len(content), outcome


def _memory_mb(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) // 1000


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """A new process for each call, forked from one that has imported everything and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        yield processes


@pytest.fixture(scope="module")
def sound_s(processes: ProcessPoolExecutor) -> float:
    return processes.submit(cost_of, SOUND).result(120)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
@pytest.mark.parametrize("name", hostile.HOSTILE)
def test_no_file_costs_more_than_a_large_sound_one(name: str, processes: ProcessPoolExecutor, sound_s: float):
    seconds, megabytes, size, outcome = processes.submit(cost_of, name).result(120)
    print(f"\n{seconds:6.2f} s {megabytes:5d} MB {size / 1e6:7.2f} MB  {name}: {outcome[:70]}")
    assert seconds < WORST_TIMES * sound_s
    assert megabytes < WORST_MB


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (hostile.jpeg_of_scans(40, (64, 48)), "more than 32 scans"),
        (hostile.jpeg_of_segments(2000), "more than 1024 segments"),
        (hostile.png_of_chunks(70_000), "more than 65536 chunks"),
        (hostile.gif_of_comment(600_000), "before its first image"),
        (b"P3 1 1 255\n1 2 3\n", r"plain \(text\)"),
        (b"P1 1 1\n1\n", r"plain \(text\)"),
        (hostile.ppm_of_comment(5000), "first 4096 bytes"),
        (hostile.rle_bmp(2_000_000), "bmp_rle"),
        (hostile.tiff_of_shared_strips(100, 200), "cover the image more than 8 times"),
        (hostile.tiff_of_shared_tags(5, 5000), "tags overlap"),
        (hostile.tiff_of_scans(85, 3), "90 scans of 4992x4992 pixels are too many"),
        (hostile.tiff_of_many_values(300_000), "has 300000 values"),
        (hostile.flat("WEBP", side=7100, lossless=True), "more than the 50000000 allowed of WEBP: save it as JPEG"),
    ],
)
def test_what_is_refused_says_why(content, says):
    with pytest.raises(DecodeError, match=says):
        decode(content)


def test_progressive_jpegs_as_programs_write_them_are_decoded():
    content = encoded(photo(1), progressive=True)
    assert 4 <= content.count(b"\xff\xda") <= 12
    assert (decode(content) == decode(encoded(photo(1)))).all()


def test_what_follows_or_precedes_the_pixels_of_a_jpeg_does_not_count():
    """A thumbnail in a segment, and a film behind the picture (as phones append it)."""
    film = np.random.default_rng(0).bytes(8_000_000)
    assert film.count(b"\xff\xda") > 32
    thumbnail = b"\xff\xe1\x20\x02Exif\0\0" + (b"\xff\xda\0\x02" * 2048)[:8186]
    plain = encoded(photo(1))
    assert (decode(plain[:2] + thumbnail + plain[2:] + film) == decode(plain)).all()


def test_the_colours_of_an_adobe_jpeg_are_kept():
    """Adobe's segment says that CMYK is inverted, and whether RGB was transformed."""
    cmyk = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    assert np.abs(decode(cmyk)[8, 8].astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("top", [100, 255, 1023, 4095, 65535])
def test_netpbm_is_scaled_by_its_own_maximum(top):
    ramp = np.linspace(0, top, 64 * 48).round().astype(">u2" if top > 255 else "u1").reshape(48, 64)
    grey = b"P5 # a comment\n64 48\n%d\n" % top + ramp.tobytes()
    colour = b"P6 64 48 %d\n" % top + np.repeat(ramp[..., None], 3, axis=2).tobytes()
    expected = np.linspace(0, 255, 64 * 48).reshape(48, 64)
    for content in (grey, colour):
        assert np.abs(decode(content)[..., 0] - expected).max() <= 2


def test_a_small_run_length_encoded_bitmap_is_decoded():
    assert (decode(hostile.sound_rle_bmp()) == 7).all()


def test_a_tiff_of_jpegs_is_decoded():
    picture = photo(1, size=(640, 480))
    found = decode(encoded(picture, "TIFF", compression="jpeg", quality=95))
    assert np.abs(found.astype(int) - np.asarray(picture)).mean() < 5


def test_a_mosaic_tiff_of_many_tiles_is_decoded():
    picture = photo(1, size=(640, 480))
    assert (decode(encoded(picture, "TIFF", compression="tiff_lzw")) == np.asarray(picture)).all()
    assert (decode(encoded(picture, "TIFF", tile=(64, 64), strip_size=640)) == np.asarray(picture)).all()
