"""Real data from Debian packages, loaded once a process.

dataset-fashion-mnist (images), python3-sklearn (digits, wine, diabetes, breast cancer), python3-skimage
(photographs), fortunes-min (text).
"""

import functools
import gzip
import pathlib

import numpy as np
import torch

_FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
_FORTUNES = pathlib.Path("/usr/share/games/fortunes")


def _need(path: pathlib.Path, package: str) -> pathlib.Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: install the Debian package {package}")
    return path


@functools.lru_cache(None)
def fashion(part: str = "train", n: int = 6000, pool: int = 1):
    """(images N×1×28/pool×28/pool normalised, classes) of Fashion-MNIST."""
    stem = "train" if part == "train" else "t10k"
    with gzip.open(_need(_FASHION / f"{stem}-images-idx3-ubyte.gz", "dataset-fashion-mnist")) as f:
        x = np.frombuffer(f.read(16 + n * 784), np.uint8, offset=16).reshape(n, 1, 28, 28)
    with gzip.open(_FASHION / f"{stem}-labels-idx1-ubyte.gz") as f:
        y = np.frombuffer(f.read(8 + n), np.uint8, offset=8)
    images = torch.from_numpy(x.astype(np.float32) / 255.0)
    if pool > 1:
        images = torch.nn.functional.avg_pool2d(images, pool)
    return (images - 0.286) / 0.353, torch.from_numpy(y.astype(np.int64))


@functools.lru_cache(None)
def digits():
    """(images N×1×8×8 normalised, classes) of the digits, shuffled once and for all."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    images = torch.from_numpy(x[order].astype(np.float32)).reshape(-1, 1, 8, 8)
    return (images - 4.884) / 6.017, torch.from_numpy(y[order].astype(np.int64))


@functools.lru_cache(None)
def table(name: str):
    """(standardised features, targets) of a scikit-learn table: wine, diabetes or breast_cancer."""
    import sklearn.datasets

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = (x - x.mean(0)) / x.std(0)
    kind = torch.float32 if name == "diabetes" else torch.int64
    return torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order], dtype=kind)


@functools.lru_cache(None)
def text():
    """(symbols as one long tensor, size of the vocabulary) of the fortunes' letters."""
    names = ("fortunes", "literature", "riddles")
    raw = "".join(_need(_FORTUNES / n, "fortunes-min").read_text("utf-8", "replace") for n in names)
    letters = " abcdefghijklmnopqrstuvwxyz.,;:!?'\"-\n()%0123456789"
    index = {c: i for i, c in enumerate(letters)}
    symbols = [index[c] for c in raw.lower() if c in index]
    return torch.tensor(symbols, dtype=torch.int64), len(letters)


@functools.lru_cache(None)
def words(size: int = 600):
    """(indices of the words in reading order, size): the most frequent words of the fortunes."""
    import collections
    import re

    names = ("fortunes", "literature", "riddles")
    raw = " ".join(_need(_FORTUNES / n, "fortunes-min").read_text("utf-8", "replace") for n in names)
    found = re.findall(r"[a-z']+", raw.lower())
    common = [w for w, _ in collections.Counter(found).most_common(size)]
    index = {w: i for i, w in enumerate(common)}
    return torch.tensor([index[w] for w in found if w in index], dtype=torch.int64), size


@functools.lru_cache(None)
def photograph(name: str = "camera", side: int = 64):
    """A photograph of scikit-image as a side×side tensor in [−1, 1]."""
    from skimage import data, transform

    image = getattr(data, name)()
    if image.ndim == 3:
        image = image.mean(-1) / 255.0
    small = transform.resize(image, (side, side), anti_aliasing=True)
    small = (small - small.min()) / (small.max() - small.min())
    return torch.tensor(small * 2 - 1, dtype=torch.float32)


def text_draw(symbols: torch.Tensor, length: int, g: torch.Generator):
    """Draw (x, y) windows of a text, y being x one letter on."""

    def draw(n: int):
        start = torch.randint(len(symbols) - length - 1, (n,), generator=g)
        window = symbols[start[:, None] + torch.arange(length + 1)]
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    return draw
