"""Where the pixels of an `ImageRef` come from: one protocol, so that callers need not know how images are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, overload, runtime_checkable

from pairsight.records import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


@runtime_checkable
class ImageSource(Protocol):
    """Finds images by hash. Picklable, so that it travels to workers."""

    def path(self, ref: ImageRef) -> Path:
        """The file that holds the undistorted image; raises DataError when it is not here."""
        ...

    def open(self, ref: ImageRef) -> "Image":
        """The image as RGB, upright, with `ref`'s image-space distortion applied (normalised ones are not)."""
        ...


@dataclass(frozen=True, slots=True)
class WithImages(Sequence[T], Generic[T]):
    """Records together with the source of the images they refer to: what the Python interface passes on."""

    items: tuple[T, ...]
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
