"""TinyImageNet: 64x64 RGB photographs of 200 classes, as a folder of JPEG files.

The labels of its own test images are not public, so its validation images are the test split here.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketicket.data.dataset import Augmentation, Dataset, Normalisation, Split
from spiketicket.data.files import Distribution, locate
from spiketicket.errors import DataError, extra
from spiketicket.files import read_bytes

PAGE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FOLDER = Distribution("tiny-imagenet-200", "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de")
SIZE = 64


def read_tiny_imagenet(folder: Path) -> Dataset:
    """Read TinyImageNet: 100,000 + 10,000 images of 200 classes.

    Raises DataError if the files are missing or damaged, and MissingExtraError if pillow is not installed.
    """
    base, _ = locate("tiny_imagenet", folder, (FOLDER,), PAGE)
    wnids = [line for line in _lines(base / "wnids.txt") if line]
    if not wnids or len(set(wnids)) < len(wnids) or not all(wnid.isalnum() for wnid in wnids):
        raise DataError(f"{base / 'wnids.txt'}: expected one WordNet id per line, each once")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    return Dataset(
        "tiny_imagenet",
        _read_images([pair for wnid in wnids for pair in _train_files(base, wnid, label_of[wnid])]),
        _read_images(_val_files(base, label_of)),
        _class_names(base / "words.txt", wnids),
        Normalisation(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Augmentation(crop_padding=8, flip=True),
    )


def _lines(path: Path) -> list[str]:
    return read_bytes(path, "data file", DataError).decode("utf-8", errors="replace").splitlines()


def _class_names(path: Path, wnids: list[str]) -> tuple[str, ...]:
    """Return the first synonym of each class, from lines of `wnid<TAB>goldfish, Carassius auratus`."""
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)
    missing = [wnid for wnid in wnids if wnid not in words]
    if missing:
        raise DataError(f"{path}: no name for {missing[0]}")
    return tuple(words[wnid].split(",")[0].strip() for wnid in wnids)


def _train_files(base: Path, wnid: str, label: int) -> list[tuple[Path, int]]:
    folder = base / "train" / wnid / "images"
    paths = sorted(folder.glob("*.JPEG"))
    if not paths:
        raise DataError(f"{folder}: expected images *.JPEG there")
    return [(path, label) for path in paths]


def _val_files(base: Path, label_of: dict[str, int]) -> list[tuple[Path, int]]:
    """Return the validation files and their labels, from lines of `val_0.JPEG<TAB>wnid<TAB>box`."""
    path = base / "val" / "val_annotations.txt"
    files = []
    for line in _lines(path):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in label_of or Path(name).name != name:
            raise DataError(f"{path}: expected a file name and a WordNet id of wnids.txt per line, got {line!r}")
        files.append((base / "val" / "images" / name, label_of[wnid]))
    if not files:
        raise DataError(f"{path}: expected an image per line, it is empty")
    return files


def _read_images(files: list[tuple[Path, int]]) -> Split:
    paths, labels = zip(*files, strict=True)
    images = np.empty((len(paths), 3, SIZE, SIZE), dtype=np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = _decode(path)
    return Split(images, np.array(labels, dtype=np.int64))


def _decode(path: Path) -> NDArray[np.uint8]:
    """Decode a JPEG file to uint8 `[3, 64, 64]`; a grey image becomes RGB."""
    with extra("train", "data set tiny_imagenet", "pillow"):
        from PIL import Image
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            size = image.size  # known before anything is decoded
            pixels = np.asarray(image.convert("RGB")) if size == (SIZE, SIZE) else None
    except Exception as error:  # a damaged file can raise almost anything
        raise DataError(f"{path}: not a readable JPEG image: {error}") from error
    if pixels is None:
        raise DataError(f"{path}: expected an image of {SIZE}x{SIZE}, got {size[0]}x{size[1]}")
    return pixels.transpose(2, 0, 1)
