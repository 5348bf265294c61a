"""Where the pixels of an `ImageRef` come from: one protocol, so that callers need not know how images are kept.

`FileImages` are a user's folder, whose names become checked, hashed `ImageRef`s; `UnpackedImages` came inside a data
file and lie in the user's cache folder. A run's own images are `store.blobs.BlobStore`.
"""

import difflib
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Generic, NamedTuple, Protocol, TypeVar, overload, runtime_checkable

from PIL.Image import Image

from pairsight.errors import DataError
from pairsight.images.load import open_image, read_bytes, upright_size
from pairsight.records import ImageRef

T = TypeVar("T")


@runtime_checkable
class ImageSource(Protocol):
    """Finds images by hash. Picklable, so that it travels to workers."""

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image; raises DataError when it is not here."""
        ...

    def open(self, ref: ImageRef) -> Image:
        """The image as RGB, upright, with `ref`'s image-space distortion applied (normalised ones are not)."""
        ...


@dataclass(frozen=True, slots=True)
class WithImages(Sequence[T], Generic[T]):
    """Records together with the source of the images they refer to: what the Python interface passes on."""

    items: Sequence[T]
    images: ImageSource

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> "WithImages[T]": ...
    def __getitem__(self, index: int | slice) -> "T | WithImages[T]":
        if isinstance(index, slice):
            return WithImages(self.items[index], self.images)
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)


SETTLED_NS = 2_000_000_000
"""A file changed within this time is not remembered: it could change again unnoticed (2 s: FAT's clock)."""


def cache_folder() -> Path:
    """Where remembered hashes live: `$XDG_CACHE_HOME/pairsight`, or `~/.cache/pairsight`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pairsight"


class HashCache:
    """The hashes of one folder's images that were decoded without error before."""

    def __init__(self, root: Path) -> None:
        name = hashlib.sha256(str(root).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self._file = cache_folder() / "image-hashes" / f"{name}.jsonl"
        self._known = _read(self._file)
        self._new: list[str] = []

    def get(self, name: str, status: os.stat_result) -> str | None:
        """The hash of the file when it is unchanged since it was remembered."""
        known = self._known.get(name)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            return None
        return known[2]

    def put(self, name: str, status: os.stat_result, sha256: str, *, settled: bool = False) -> None:
        """Remember a checked image; kept on disk by the next `flush`.

        Args:
            name: relative to the root.
            status: of the file, from before it was read.
            sha256: of its bytes.
            settled: nobody changes the file any more, even if it is new.
        """
        if not settled and time.time_ns() - status.st_mtime_ns < SETTLED_NS:
            return
        self._known[name] = (status.st_size, status.st_mtime_ns, sha256)
        self._new.append(json.dumps([name, status.st_size, status.st_mtime_ns, sha256]) + "\n")

    def flush(self) -> None:
        """Append what is new to the file; a folder that cannot be written is not an error."""
        if not self._new:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as out:
                out.write("".join(self._new))
        except OSError:
            return
        self._new = []


def _read(file: Path) -> dict[str, tuple[int, int, str]]:
    known: dict[str, tuple[int, int, str]] = {}
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            name, size, mtime_ns, sha256 = json.loads(line)
            known[str(name)] = (int(size), int(mtime_ns), str(sha256))
        except (ValueError, TypeError):
            continue
    return known


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
"""File names that a folder is searched for; a name given in a dataset may end in anything."""

_CONTROL = re.compile(r"[\x00-\x1f]")
_MAX_COMPARED = 2_000
"""A missing name is compared with at most this many others (difflib takes about 10 µs a name)."""


class _Located(NamedTuple):
    """A name that was found: its real path and what the file system says of it."""

    name: str
    real_path: str
    status: os.stat_result

    @property
    def path(self) -> Path:
        return Path(self.real_path)


class FileImages:
    """Images that stay where the user has them; only names inside `root` are allowed.

    Args:
        root: the folder that names are relative to.

    Raises:
        DataError: `root` is not a folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            what = "is a file, not a folder" if self.root.exists() else "does not exist"
            raise DataError(f"images folder {self.root} {what}", reason="missing_image")
        self._real_root = self.root.resolve()
        self._names: dict[str, str] = {}
        self._cache: HashCache | None = None
        self._folders: dict[str, str] = {}
        self._listings: dict[Path, list[str]] = {}

    def ref(self, name: str) -> ImageRef:
        """Check that the image lies inside the root and decodes, hash it, and remember where it is.

        Raises:
            DataError: outside the root, missing (with the nearest file name), or not a picture; see `open_image`.
        """
        found = self.refs([name])[name]
        if isinstance(found, DataError):
            raise found
        return found

    def refs(self, names: Iterable[str]) -> dict[str, ImageRef | DataError]:
        """`ref` of many names at once on all cores, with an error for each that fails."""
        cache = self._cache = self._cache or HashCache(self._real_root)
        found: dict[str, str | DataError] = dict.fromkeys(names, "")
        unknown: list[_Located] = []
        for name in found:
            try:
                located = self._locate(name)
            except DataError as error:
                found[name] = error
                continue
            known = cache.get(name, located.status)
            if known is None:
                unknown.append(located)
            else:
                found[name] = known
        with ThreadPoolExecutor(min(os.cpu_count() or 1, len(unknown)) or 1) as pool:
            for located, checked in zip(unknown, pool.map(self._checked_hash, unknown), strict=True):
                found[located.name] = checked
                if isinstance(checked, str):
                    cache.put(located.name, located.status, checked)
        cache.flush()
        return {name: self._known(name, one) if isinstance(one, str) else one for name, one in found.items()}

    def knows(self, ref: ImageRef) -> bool:
        """Whether this image was asked for."""
        return ref.sha256 in self._names

    def name(self, ref: ImageRef) -> str:
        """The name by which this image was asked for; DataError when it was not."""
        if ref.sha256 not in self._names:
            raise DataError(
                f"image {ref.sha256[:12]}… is not among those read from {self.root}", reason="missing_image"
            )
        return self._names[ref.sha256]

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image."""
        return self._locate(self.name(ref)).path

    def open(self, ref: ImageRef) -> Image:
        """The image as upright RGB with its image-space distortion; DataError when the file has changed since `ref`."""
        name = self.name(ref)
        return open_ref(self._locate(name).path, ref, str(self.root / name))

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_real_root": self._real_root, "_names": self._names, "_folders": self._folders}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _cache=None, _listings={})

    def _known(self, name: str, sha256: str) -> ImageRef:
        self._names.setdefault(sha256, name)
        return ImageRef(sha256)

    def _checked_hash(self, located: "_Located") -> str | DataError:
        try:
            data = read_bytes(located.path, located.name)
            open_image(data, str(self.root / located.name))
        except DataError as error:
            return error
        return hashlib.sha256(data).hexdigest()

    def _locate(self, name: str) -> "_Located":
        """The real path of a name, which must be a file under the root even after following links.

        A folder is resolved once; then one system call a name is enough, which a million names need.
        """
        folder, base = os.path.split(name)
        try:
            if base in ("", ".", "..") or _CONTROL.search(name):
                raise DataError(f"image name {name[:200]!r} is not a file name", reason="missing_image")
            if folder not in self._folders:
                self._folders[folder] = str(self._inside(self._real_root / folder, name))
            path = f"{self._folders[folder]}{os.sep}{base}"  # a `Path` costs more than the call, and is seldom needed
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = str(self._inside(Path(path), name))
                status = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            raise DataError(
                f"image {self.root / name} does not exist{self._hint(name)}", reason="missing_image"
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            detail = getattr(error, "strerror", None) or str(error)
            raise DataError(
                f"image {str(self.root / name)[:300]} cannot be read: {detail}", reason="missing_image"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"image {self.root / name} is not a file", reason="missing_image")
        return _Located(name, path, status)

    def _inside(self, path: Path, name: str) -> Path:
        real = path.resolve()
        if not real.is_relative_to(self._real_root):
            message = f"image {name} lies outside the images folder {self.root}: only files inside it are read"
            raise DataError(message, reason="outside_image")
        return real

    def _hint(self, name: str) -> str:
        wanted = Path(name)
        if len(wanted.parts) > 1 and (self._real_root / wanted.name).is_file():
            return f"; did you mean {wanted.name}?"
        folder = self._real_root / wanted.parent
        if folder not in self._listings:
            try:
                self._listings[folder] = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
            except (OSError, ValueError):
                return f"; there is no folder {wanted.parent} in it"
        listing = self._listings[folder]
        same = [other for other in listing if Path(other).stem.lower() == wanted.stem.lower()]
        near = same or difflib.get_close_matches(wanted.name, listing[:_MAX_COMPARED], n=1, cutoff=0.6)
        return f"; did you mean {(wanted.parent / near[0]).as_posix()}?" if near else ""


def size_of(images: ImageSource, ref: ImageRef) -> tuple[int, int]:
    """Width and height of the picture that `images.open(ref)` gives, without decoding it where its header says them.

    A distortion keeps a picture's size, but a rendered one has its own. The file's bytes are checked against `ref`.
    """
    if ref.distortion is not None and ref.distortion.space == "rendered":
        side = int(ref.distortion.parameters["size"])
        return side, side
    try:
        path = images.path(ref)
        data = read_bytes(path, str(path))
        size = upright_size(data, str(path)) if hashlib.sha256(data).hexdigest() == ref.sha256 else None
    except DataError:
        size = None
    return size or images.open(ref).size  # which says what is wrong, if something is


def open_ref(path: Path, ref: ImageRef, name: str) -> Image:
    """The image in a file as upright RGB, its bytes checked against `ref`, with `ref`'s image-space distortion."""
    data = read_bytes(path, name)
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise DataError(f"image {name} has changed since it was first read", reason="changed_image")
    return as_seen(data, ref, name)


def as_seen(data: bytes, ref: ImageRef, name: str) -> Image:
    """The image in a file's bytes as upright RGB, with `ref`'s image-space distortion; `name` is for errors."""
    image = open_image(data, name)
    if ref.distortion is None or (ref.distortion.space == "normalised" and "+" not in ref.distortion.name):
        return image
    if ref.distortion.space == "rendered":
        from pairsight.images.rendering import render

        return render(image, ref.distortion)
    from pairsight.images.distort import before_processor

    return before_processor(image, ref.distortion)


def image_names(root: Path) -> list[str]:
    """The names of all image files under a folder, by suffix, sorted; hidden files and folders are left out."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        names += [
            (inside / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(names)


class UnpackedImages:
    """Content-addressed files `<folder>/ab/<sha256>`; an `ImageSource`, picklable.

    Args:
        folder: where the files go; default: `images` in the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "images"

    def put(self, data: bytes, name: str) -> ImageRef:
        """Keep an image's bytes, which are decoded once to check them; `name` is what an error calls it."""
        ref = ImageRef(hashlib.sha256(data).hexdigest())
        file = self._file(ref)
        if file.is_file():
            return ref
        open_image(data, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent, delete=False) as out:
            out.write(data)
        Path(out.name).replace(file)
        return ref

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image; DataError when it is not here."""
        file = self._file(ref)
        if not file.is_file():
            raise DataError(f"image {ref.sha256} is not in {self.folder}: read the data file again", "missing_image")
        return file

    def open(self, ref: ImageRef) -> Image:
        """The image as upright RGB with its image-space distortion."""
        return open_ref(self.path(ref), ref, ref.sha256)

    def _file(self, ref: ImageRef) -> Path:
        return self.folder / ref.sha256[:2] / ref.sha256
