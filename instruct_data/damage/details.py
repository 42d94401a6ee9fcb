"""KADID-10k's distortions of detail, after its generation code: blur, noise, compression, sharpening and
small displacements.

Each takes (pixels, strength, rng, scale) and returns uint8[H, W, 3]. Distortions without random draws ignore
`rng`, and those without lengths in pixels ignore `scale`. `distortions.DISTORTIONS` has the strengths.
"""

import io

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from instruct_data.damage.pixels import Bytes, Floats, blur, lab_to_rgb, rgb_to_lab, to_bytes

# Noise in YCbCr (16..235 for Y, 16..240 for the colors, as in MATLAB and ITU-R BT.601) -> RGB.
_YCBCR_TO_RGB = np.array([[1.164, 0, 1.596], [1.164, -0.392, -0.813], [1.164, 2.017, 0]], np.float32)
# Brightness and two color differences. The matrix is orthonormal, so white noise stays white.
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32)
_OPPONENT /= np.linalg.norm(_OPPONENT, axis=1, keepdims=True)
_BLOCK = 8  # side in pixels of the cosine transform in `denoise`


def gaussian_blur(pixels: Bytes, sigma: float, rng: np.random.Generator, scale: float) -> Bytes:
    """`sigma` in pixels."""
    # truncate=2 gives KADID-10k's window of 2 * ceil(2 sigma) + 1 pixels. The planes are float32, since uint8
    # would be rounded down between the two passes.
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    blurred = ndimage.gaussian_filter(planes, (0, sigma * scale, sigma * scale), truncate=2.0)
    return to_bytes(blurred.transpose(1, 2, 0))


def lens_blur(pixels: Bytes, radius: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Blurs a point to a disk of `radius` pixels."""
    y, x = _offsets(radius * scale)
    return _convolve(pixels, np.clip(radius * scale + 0.5 - np.hypot(y, x), 0, 1))


def motion_blur(pixels: Bytes, length: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Blurs a point to a line of `length` pixels at a random angle; a length of 1 changes nothing."""
    angle = rng.uniform(0, np.pi)
    half = (length - 1) / 2 * scale
    y, x = _offsets(half)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    return _convolve(pixels, np.clip(1 - np.hypot(across, np.maximum(np.abs(along) - half, 0)), 0, 1))


def _offsets(reach: float) -> tuple[Floats, Floats]:
    side = int(np.ceil(reach + 0.5))
    y, x = np.mgrid[-side : side + 1, -side : side + 1].astype(np.float32)
    return y, x


def _convolve(pixels: Bytes, kernel: Floats) -> Bytes:
    """Convolution with repeated border pixels, by Fourier transform: the disks have up to 200 taps."""
    side = len(kernel) // 2
    wide = np.pad(pixels.transpose(2, 0, 1), ((0, 0), (side, side), (side, side)), "edge").astype(np.float32)
    size = [fft.next_fast_len(n, real=True) for n in wide.shape[1:]]
    spectrum = fft.rfft2(wide, size) * fft.rfft2((kernel / kernel.sum()).astype(np.float32), size)
    height, width = pixels.shape[:2]
    valid = fft.irfft2(spectrum, size)[:, 2 * side : 2 * side + height, 2 * side : 2 * side + width]
    return to_bytes(valid.transpose(1, 2, 0))


def jpeg(pixels: Bytes, quality: float, rng: np.random.Generator, scale: float) -> Bytes:
    """`quality` on libjpeg's scale, 1..100."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=round(quality))
    return np.asarray(Image.open(buffer))


def jpeg2000(pixels: Bytes, ratio: float, rng: np.random.Generator, scale: float) -> Bytes:
    """`ratio`: bytes of the raw picture per byte of the file. A copy at half the scale gets as many bytes."""
    buffer = io.BytesIO()
    rate = max(1.0, ratio * scale**2)
    halvings = min(5, min(pixels.shape[:2]).bit_length() - 1)  # OpenJPEG refuses to halve one pixel
    Image.fromarray(pixels).save(
        buffer, "JPEG2000", irreversible=True, num_resolutions=halvings + 1, quality_layers=[rate]
    )
    return np.asarray(Image.open(buffer))


def white_noise_rgb(pixels: Bytes, variance: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Gaussian noise; `variance` refers to values on 0..1."""
    grains = rng.standard_normal(pixels.shape, dtype=np.float32)
    return to_bytes(pixels + grains * np.float32(255 * variance**0.5))


def white_noise_ycbcr(pixels: Bytes, variance: float, rng: np.random.Generator, scale: float) -> Bytes:
    """The same noise in luma and chroma, where color gets more of it."""
    grains = rng.standard_normal((pixels.shape[0] * pixels.shape[1], 3), dtype=np.float32)
    noise = (grains * np.float32(255 * variance**0.5)) @ _YCBCR_TO_RGB.T
    return to_bytes(pixels + noise.reshape(pixels.shape))


def impulse_noise(pixels: Bytes, density: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Salt and pepper: a share `density` of all values becomes 0 or 255, independently in each channel."""
    chance = rng.random(pixels.shape, dtype=np.float32)
    return np.where(chance < density, np.where(chance < density / 2, np.uint8(0), np.uint8(255)), pixels)


def multiplicative_noise(pixels: Bytes, variance: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Speckle: each value times 1 + n, where n is uniform with this variance and mean 0."""
    grains = rng.random(pixels.shape, dtype=np.float32) - np.float32(0.5)
    return to_bytes(pixels * (1 + grains * np.float32((12 * variance) ** 0.5)))


def denoise(pixels: Bytes, variance: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Adds noise of this variance and removes it again, which loses fine texture.

    KADID-10k removes it with a DnCNN. Here a classical method without a network does, and it loses the same
    detail: the mean of four shifted 8 x 8 cosine transforms of brightness and two color differences, each
    without the coefficients below 3.2 standard deviations of the noise (Coifman and Donoho 1995, "cycle
    spinning").
    """
    noisy = white_noise_rgb(pixels, variance, rng, scale) @ _OPPONENT.T
    height, width = pixels.shape[:2]
    rows, columns = (-(-side // _BLOCK) * _BLOCK + _BLOCK for side in (height, width))
    margins = ((0, 0), (_BLOCK, rows - height), (_BLOCK, columns - width))
    wide = np.pad(noisy.transpose(2, 0, 1), margins, "symmetric")
    kept: Floats = np.zeros_like(wide)
    for top, left in ((0, 0), (2, 4), (4, 6), (6, 2)):
        window = np.s_[:, top : top + rows, left : left + columns]
        kept[window] += _threshold(wide[window], 3.2 * 255 * variance**0.5)
    inner = kept[:, _BLOCK : _BLOCK + height, _BLOCK : _BLOCK + width].transpose(1, 2, 0)
    return to_bytes(inner @ (_OPPONENT / 4))


def _threshold(planes: Floats, smallest: float) -> Floats:
    """float32[3, H, W] without the small coefficients of each block; H and W are multiples of the block."""
    channels, height, width = planes.shape
    grid = (channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    blocks = planes.reshape(grid).transpose(0, 1, 3, 2, 4).reshape(-1, _BLOCK**2)
    basis = fft.dct(np.eye(_BLOCK), norm="ortho", axis=0)
    transform = np.kron(basis, basis).astype(np.float32)
    coefficients = blocks @ transform.T
    coefficients[:, 1:] *= np.abs(coefficients[:, 1:]) >= np.float32(smallest)  # the mean stays
    shape = (grid[0], grid[1], grid[3], grid[2], grid[4])
    return (coefficients @ transform).reshape(shape).transpose(0, 1, 3, 2, 4).reshape(planes.shape)


def jitter(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Reads every pixel from a nearby place: five Gaussian steps of `amount` pixels.

    Two linear steps of the same total variance replace the five bicubic ones. They take a tenth of the time
    and differ by at most .015 in SSIM.
    """
    height, width = pixels.shape[:2]
    places = np.mgrid[:height, :width].astype(np.float32)
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    for _ in range(2):
        steps = np.float32(amount * scale * 2.5**0.5) * rng.standard_normal(places.shape, dtype=np.float32)
        read = places + steps
        planes = np.stack([ndimage.map_coordinates(p, read, np.float32, 1, "nearest") for p in planes])
    return to_bytes(planes.transpose(1, 2, 0))


def non_eccentricity_patch(pixels: Bytes, count: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Patches of 16 x 16 pixels copied to places up to 8 pixels away."""
    faulty = pixels.copy()
    side = min(max(1, round(16 * scale)), *pixels.shape[:2])
    room = np.array(pixels.shape[:2]) - side
    for _ in range(round(count)):
        top, left = rng.integers(0, room + 1)
        to_top, to_left = np.clip(np.rint([top, left] + (rng.random(2) - 0.5) * side).astype(int), 0, room)
        patch = faulty[top : top + side, left : left + side].copy()
        faulty[to_top : to_top + side, to_left : to_left + side] = patch
    return faulty


def pixelate(pixels: Bytes, strength: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Shrunk to a share .95 - strength ** .6 of the sides and enlarged again, without smoothing."""
    height, width = pixels.shape[:2]
    # A block of one pixel changes nothing, so `scale` multiplies only the part above one.
    block = 1 + scale * (1 / (0.95 - strength**0.6) - 1)
    small = (max(1, int(width / block)), max(1, int(height / block)))
    nearest = Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize(small, nearest).resize((width, height), nearest))


def color_block(pixels: Bytes, count: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Squares of 32 x 32 pixels, each of one random color."""
    faulty = pixels.copy()
    side = min(max(1, round(32 * scale)), *pixels.shape[:2])
    room = np.array(pixels.shape[:2]) - side
    for _ in range(round(count)):
        top, left = rng.integers(0, room + 1)
        faulty[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return faulty


def high_sharpen(pixels: Bytes, amount: float, rng: np.random.Generator, scale: float) -> Bytes:
    """Lightness plus `amount` times its difference from a blur of 3 pixels."""
    lab = rgb_to_lab(pixels)
    lab[0] += np.float32(amount) * (lab[0] - blur(lab[0], 3 * scale))
    return lab_to_rgb(lab)
