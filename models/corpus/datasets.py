"""Real data from Debian packages, loaded once a process.

dataset-fashion-mnist (images), python3-sklearn (digits, wine, diabetes, breast cancer),
python3-skimage (photographs), fortunes-min, -de and -it (text), wordnet-base (definitions and a
graph), dict-freedict-fra-eng (translation pairs), scowl (names and words), pocketsphinx-testdata
(speech), python3-statsmodels (time series and tables).
"""

import collections
import functools
import gzip
import itertools
import pathlib
import re
import unicodedata

import numpy as np
import torch

_FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
_FORTUNES = pathlib.Path("/usr/share/games/fortunes")
_WORDNET = pathlib.Path("/usr/share/wordnet")
_FREEDICT = pathlib.Path("/usr/share/dictd/freedict-fra-eng.dict.dz")
_SCOWL = pathlib.Path("/usr/share/dict/scowl")
_SPEECH = pathlib.Path("/usr/share/pocketsphinx/test/data")
_STATSMODELS = pathlib.Path("/usr/lib/python3/dist-packages/statsmodels/datasets")
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
"""What `spelled` makes of a word: 1 to 27, with 0 for what follows the end."""


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
    names = ("fortunes", "literature", "riddles")
    raw = " ".join(
        _need(_FORTUNES / n, "fortunes-min").read_text("utf-8", "replace") for n in names
    )
    return _frequent(raw, size), size


def _frequent(raw: str, size: int) -> torch.Tensor:
    """The words of a text as ranks among its `size` most frequent ones; others are left out."""
    found = re.findall(r"[a-z']+", raw.lower())
    common = [w for w, _ in collections.Counter(found).most_common(size)]
    index = {w: i for i, w in enumerate(common)}
    return torch.tensor([index[w] for w in found if w in index], dtype=torch.int64)


def _synsets():
    """(number, lexicographer file, first word, numbers of its hypernyms, definition) of nouns."""
    with open(_need(_WORDNET / "data.noun", "wordnet-base"), encoding="utf-8") as f:
        for line in f:
            if not line.startswith(" "):
                facts, definition = line.split(" | ", 1)
                part = facts.split()
                above = [part[i + 1] for i, x in enumerate(part) if x in ("@", "@i")]
                yield part[0], int(part[1]), part[4].lower(), above, definition


@functools.lru_cache(None)
def definitions(size: int = 1500, synsets: int = 12000):
    """(indices of words in reading order, size): the most frequent words of definitions."""
    raw = " ".join(d for *_, d in itertools.islice(_synsets(), synsets))
    return _frequent(raw, size), size


@functools.lru_cache(None)
def noun_graph(every: int = 40):
    """(letters N×10, classes, edges 2×E) of every so many nouns and all nouns above them.

    The class is the lexicographer file, act, animal and so on: the 11 largest and the rest.
    """
    everything = {s[0]: s for s in _synsets()}
    chosen, above = set(), list(everything)[::every]
    while above:
        number = above.pop()
        if number not in chosen:
            chosen.add(number)
            above += everything[number][3]
    found = [everything[number] for number in sorted(chosen)]
    index = {s[0]: i for i, s in enumerate(found)}
    kinds = [k for k, _ in collections.Counter(s[1] for s in found).most_common(11)]
    classes = [kinds.index(s[1]) if s[1] in kinds else 11 for s in found]
    edges = [(i, index[a]) for i, s in enumerate(found) for a in s[3]]
    return spelled([s[2] for s in found], 10), torch.tensor(classes), torch.tensor(edges).T


def spelled(found: list, length: int) -> torch.Tensor:
    """Words as rows of letters, cut or filled up with 0 to the length; other signs are left out."""
    index = {c: i + 1 for i, c in enumerate(LETTERS[1:])}
    rows = [[index[c] for c in w.lower() if c in index][:length] for w in found]
    return torch.tensor([r + [0] * (length - len(r)) for r in rows], dtype=torch.int64)


@functools.lru_cache(None)
def text_bytes(each: int = 60000):
    """Bytes of fortunes in English, German and Italian, in pieces of 400 taken in turn."""
    english = (("fortunes", "-min"), ("literature", "-min"))
    sources = english + (("de/witze", "-de"), ("it/italia", "-it"))
    raw = [_need(_FORTUNES / n, "fortunes" + p).read_bytes()[:each] for n, p in sources]
    pieces = [r[i : i + 400] for i in range(0, each, 400) for r in raw]
    return torch.tensor(list(b"".join(pieces)), dtype=torch.int64)


@functools.lru_cache(None)
def translations(length: int = 12):
    """(French, English) words of a dictionary as letters, those that fit, shuffled once."""
    with gzip.open(_need(_FREEDICT, "dict-freedict-fra-eng"), "rt", encoding="utf-8") as f:
        lines = f.read().splitlines()
    pairs = []
    for head, meaning in zip(lines, lines[1:]):
        found = re.fullmatch(r"([^/]+) /[^/]+/.*", head)
        english = meaning.split(",")[0].strip()
        if found and english.isascii() and max(len(found[1]), len(english)) < length:
            plain = unicodedata.normalize("NFKD", found[1])
            pairs.append((plain, english))
    order = np.random.default_rng(0).permutation(len(pairs))
    return tuple(spelled([pairs[i][k] for i in order], length) for k in (0, 1))


@functools.lru_cache(None)
def word_kinds(each: int = 2000, length: int = 10):
    """(letters, class) of words: common ones, proper names, capitalised words, abbreviations."""
    kinds = ("words.35", "proper-names.50", "upper.50", "abbreviations.95")
    rng, words_, classes = np.random.default_rng(0), [], []
    for i, name in enumerate(kinds):
        lines = _need(_SCOWL / f"english-{name}", "scowl").read_text("latin-1").split()
        chosen = rng.choice(len(lines), min(each, len(lines)), replace=False)
        words_ += [lines[j].replace("'s", "") for j in chosen]
        classes += [i] * len(chosen)
    order = torch.from_numpy(rng.permutation(len(words_)))
    return spelled(words_, length)[order], torch.tensor(classes)[order]


def _mel(low: float = 100.0, high: float = 7000.0, bands: int = 24) -> np.ndarray:
    """Triangular filters on the mel scale, for 512-point spectra at 16 kHz."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([low, high]) / 700)), bands + 2)
    edge = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.arange(257) * 16000 / 512
    rise = (hertz[:, None] - edge[:-2]) / (edge[1:-1] - edge[:-2])
    fall = (edge[2:] - hertz[:, None]) / (edge[2:] - edge[1:-1])
    return np.clip(np.minimum(rise, fall), 0, None)


@functools.lru_cache(None)
def speech():
    """[(log-mel frames T×24, spoken words)] of recordings, 100 normalised frames a second."""
    found = []
    for group in ("cards", "librivox"):
        said = {}
        for path in sorted(_need(_SPEECH / group, "pocketsphinx-testdata").glob("*transcription")):
            for line in path.read_text().splitlines():
                said[line[line.rindex("(") + 1 : -1]] = line[: line.rindex("(")].replace("<s>", "")
        for path in sorted((_SPEECH / group).glob("*.wav")):
            sound = np.frombuffer(path.read_bytes()[44:], "<i2").astype(np.float32) / 32768
            windows = np.lib.stride_tricks.sliding_window_view(sound, 400)[::160] * np.hanning(400)
            power = np.abs(np.fft.rfft(windows, 512)) ** 2 @ _mel()
            frames = np.log(power + 1e-6)
            frames = (frames - frames.mean(0)) / (frames.std(0) + 1e-3)
            words_ = said[path.stem].replace("</s>", "").split()
            found.append((torch.tensor(frames, dtype=torch.float32), " ".join(words_)))
    return found


@functools.lru_cache(None)
def columns(name: str):
    """The numbers of a statsmodels data set, N×columns, without its header."""
    path = _need(_STATSMODELS / name / f"{name}.csv", "python3-statsmodels")
    return torch.tensor(np.genfromtxt(path, delimiter=",", skip_header=1), dtype=torch.float32)


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
