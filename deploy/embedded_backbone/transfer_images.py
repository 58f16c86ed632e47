"""The images that the embedded feature extractor is distilled on: crops of photographs, and images made by formula.

A transfer image needs no label, because the teacher's features are the target. It only has to be varied
enough that agreeing with the teacher on it means agreeing elsewhere ('Extrapolating from a Single Image to a
Thousand Classes using Distillation', arXiv 2112.00725). So photographs are cut at many scales, turned,
recoloured and mixed, and a share of the images comes from no photograph at all: fractals (arXiv 2101.08515),
dead leaves and coloured noise (arXiv 2106.05963), gratings, shapes and glyphs.

Every image is uint8 RGB, (size, size, 3). Randomness comes from the generator that is passed in, nothing
else.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

Rng = np.random.Generator
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}
PHOTO_SHORT_SIDE_PX = 288  # a crop of 44 % of the short side is then at its own resolution at 128 px


def list_photos(folder: Path) -> list[Path]:
    """All photographs below `folder`, in the order of a hash of their names: any tail is a fair sample."""
    photos = [path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES]
    if not photos:
        raise ValueError(f"{folder} holds no photographs: expected files ending in {sorted(PHOTO_SUFFIXES)}")
    return sorted(photos, key=lambda path: hashlib.sha256(str(path.relative_to(folder)).encode()).digest())


def read_photo(path: Path) -> np.ndarray:
    """One photograph, uint8 RGB, its short side at most PHOTO_SHORT_SIDE_PX."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} can't be decoded as an image: remove it from the folder of photographs")
    shrink = PHOTO_SHORT_SIDE_PX / min(image.shape[:2])
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def render(rng: Rng, photos: Sequence[np.ndarray], count: int, size: int, formula_share: float) -> np.ndarray:
    """`count` transfer images, (count, size, size, 3) uint8; half of them a mixture of two."""
    plain = [
        formula_image(rng, size) if rng.random() < formula_share else photo_crop(rng, photos, size)
        for _ in range(count)
    ]
    images = np.stack([recolour(rng, image) for image in plain])
    return mix(rng, images)


def photo_crop(rng: Rng, photos: Sequence[np.ndarray], size: int) -> np.ndarray:
    """A crop of a random photograph: from 30 % of its short side to all of it, turned and sheared."""
    photo = photos[int(rng.integers(len(photos)))]
    height, width = photo.shape[:2]
    side = min(height, width) * np.exp(rng.uniform(np.log(0.3), np.log(1.35)))
    if side > 1.6 * size:  # shrinking much further by bilinear sampling alone would alias
        photo = cv2.resize(photo, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        height, width, side = photo.shape[0], photo.shape[1], side / 2
    scale = size / side
    turn = np.deg2rad(rng.normal(0, 12) if rng.random() < 0.8 else rng.uniform(-180, 180))
    aspect = np.exp(rng.uniform(-0.25, 0.25))
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = scale * np.array([[cos * aspect, -sin], [sin + rng.normal(0, 0.08), cos / aspect]])
    if rng.random() < 0.5:
        matrix[:, 0] *= -1
    margin = min(side / 2, min(height, width) / 2)
    centre = np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)])
    shift = np.full(2, size / 2) - matrix @ centre
    border = cv2.BORDER_REFLECT_101 if rng.random() < 0.8 else cv2.BORDER_CONSTANT
    affine = np.hstack([matrix, shift[:, None]])
    fill = tuple(int(v) for v in rng.integers(0, 256, 3))
    return cv2.warpAffine(photo, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=fill)


def recolour(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Jitters light, contrast and hue; now and then swaps or inverts channels, greys, blurs or adds noise."""
    pixels = image.astype(np.float32) / 255
    if rng.random() < 0.8:
        blend = np.eye(3) + rng.normal(0, 0.08, (3, 3))
        pixels = pixels @ blend.astype(np.float32)
        pixels = (pixels - 0.5) * np.float32(np.exp(rng.normal(0, 0.25))) + np.float32(0.5 + rng.normal(0, 0.1))
    if rng.random() < 0.15:
        pixels = pixels[..., rng.permutation(3)]
    if rng.random() < 0.05:
        pixels = 1 - pixels
    if rng.random() < 0.08:
        pixels = np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)
    if rng.random() < 0.12:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.8)))
    if rng.random() < 0.12:
        pixels = pixels + rng.normal(0, rng.uniform(0.01, 0.08), pixels.shape).astype(np.float32)
    return _to_uint8(pixels)


def mix(rng: Rng, images: np.ndarray) -> np.ndarray:
    """A quarter of the images blended with another (mixup), a quarter with a patch of another (cutmix)."""
    count, size = images.shape[:2]
    mixed = images.copy()
    for row, (partner, choice) in enumerate(zip(rng.permutation(count), rng.random(count), strict=True)):
        if choice < 0.25:
            weight = rng.beta(1, 1)
            mixed[row] = cv2.addWeighted(images[row], weight, images[partner], 1 - weight, 0)
        elif choice < 0.5:
            height, width = rng.integers(size // 4, size * 3 // 4 + 1, 2)
            top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
            patch = (slice(top, top + height), slice(left, left + width))
            mixed[row][patch] = images[partner][patch]
    return mixed


def formula_image(rng: Rng, size: int) -> np.ndarray:
    """One image made by a random formula, often laid over another so that edges meet textures."""
    image = _random_formula(rng)(rng, size)
    if rng.random() < 0.5:
        other = _random_formula(rng)(rng, size)
        mask = (coloured_noise(rng, size).mean(-1, keepdims=True) > 0.5).astype(np.float32)
        image = image * mask + other * (1 - mask)
    return _to_uint8(image)


# Formulae: each returns float32 (size, size, 3), values about [0, 1].


def fractal(rng: Rng, size: int, points: int = 12_000) -> np.ndarray:
    """An iterated function system of 2-4 contractions, drawn by the chaos game from many starts at once."""
    maps = int(rng.integers(2, 5))
    rotations = np.linalg.qr(rng.normal(size=(maps, 2, 2)))[0] * rng.uniform(0.3, 0.85, (maps, 1, 2))
    shifts = rng.uniform(-1, 1, (maps, 2))
    steps, walkers = 24, points // 12
    position, hits = rng.uniform(-1, 1, (walkers, 2)), []
    for step in range(steps):
        chosen = rng.integers(maps, size=walkers)
        position = np.einsum("nij,nj->ni", rotations[chosen], position) + shifts[chosen]
        if step >= steps // 2:
            hits.append(position)
    cloud = np.concatenate(hits)
    low, high = cloud.min(0), cloud.max(0)
    cells = ((cloud - low) / (high - low + 1e-6) * (size - 1)).astype(int)
    density = np.bincount(cells[:, 0] * size + cells[:, 1], minlength=size * size).reshape(size, size)
    ink = np.clip(np.log1p(density) / 2, 0, 1)[..., None].astype(np.float32)
    return ink * _colour(rng) + (1 - ink) * gradient(rng, size)


def dead_leaves(rng: Rng, size: int) -> np.ndarray:
    """Discs, boxes and polygons that cover one another, radii by a power law as in photographs."""
    canvas = gradient(rng, size)
    for _ in range(int(rng.integers(15, 90))):
        radius = int(np.clip(2 * (1 - rng.random()) ** -0.7, 2, size / 2))
        centre, colour = rng.integers(0, size, 2), _colour(rng).tolist()
        corners = int(rng.integers(2, 7))
        if corners == 2:
            cv2.circle(canvas, tuple(int(v) for v in centre), radius, colour, -1, cv2.LINE_AA)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            polygon = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(canvas, [polygon.astype(np.int32)], colour, cv2.LINE_AA)
    return canvas


def gradient(rng: Rng, size: int) -> np.ndarray:
    """A smooth passage between four random corner colours."""
    corners = rng.random((2, 2, 3)).astype(np.float32)
    return cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)


def grating(rng: Rng, size: int) -> np.ndarray:
    """Sum of 1-4 waves, straight or round, sometimes cut hard into stripes or checks."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    wave = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 5))):
        angle, cycles, phase = rng.uniform(0, np.pi), np.exp(rng.uniform(0.5, 3.5)), rng.uniform(0, 6.28)
        along = np.cos(angle) * rows + np.sin(angle) * columns
        if rng.random() < 0.25:
            along = np.hypot(rows - rng.random(), columns - rng.random())
        wave += np.sin(2 * np.pi * cycles * along + phase).astype(np.float32)
    if rng.random() < 0.5:
        wave = np.sign(wave)
    share = (wave - wave.min()) / (np.ptp(wave) + 1e-6)
    return share[..., None] * _colour(rng) + (1 - share[..., None]) * _colour(rng)


def coloured_noise(rng: Rng, size: int) -> np.ndarray:
    """Noise whose amplitude falls as 1 / frequency^k, k from 0.5 (rough) to 2.5 (clouds)."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.normal(size=(3, size, size))) * frequency ** -rng.uniform(0.5, 2.5)
    noise = np.fft.irfft2(spectrum, s=(size, size)).transpose(1, 2, 0)
    if rng.random() < 0.6:  # fewer colours: most textures are of one or two
        noise = noise @ rng.normal(size=(3, 3)) * 0.5 + noise[..., :1]
    noise = (noise - noise.mean()) / (noise.std() + 1e-6)
    return (0.5 + 0.22 * noise).astype(np.float32)


def glyphs(rng: Rng, size: int) -> np.ndarray:
    """Letters, digits and strokes of many sizes and weights."""
    canvas = _to_uint8(gradient(rng, size))  # OpenCV writes text on bytes only
    for _ in range(int(rng.integers(1, 12))):
        text = "".join(chr(c) for c in rng.integers(33, 127, int(rng.integers(1, 6))))
        origin = (int(rng.integers(-10, size)), int(rng.integers(0, size + 20)))
        font, scale, width = (
            int(rng.integers(0, 8)),
            float(np.exp(rng.uniform(-1, 1.4))),
            int(rng.integers(1, 7)),
        )
        cv2.putText(canvas, text, origin, font, scale, (255 * _colour(rng)).tolist(), width, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 6))):
        curve = np.cumsum(rng.normal(0, size / 8, (12, 2)), 0) + rng.integers(0, size, 2)
        colour, width = (255 * _colour(rng)).tolist(), int(rng.integers(1, 6))
        cv2.polylines(canvas, [curve.astype(np.int32)], False, colour, width, cv2.LINE_AA)
    return canvas.astype(np.float32) / 255


FORMULAE: tuple[Callable[[Rng, int], np.ndarray], ...] = (
    fractal,
    dead_leaves,
    dead_leaves,
    grating,
    coloured_noise,
    glyphs,
)


def _random_formula(rng: Rng) -> Callable[[Rng, int], np.ndarray]:
    return FORMULAE[rng.integers(len(FORMULAE))]


def _colour(rng: Rng) -> np.ndarray:
    return rng.random(3).astype(np.float32)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
