"""Read preference pairs back from Parquet: our own tables without loss, and any TRL preference table."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pairsight.errors import DataError
from pairsight.formats.image_columns import HOW, holds_image, is_no_file
from pairsight.formats.trl import from_plain
from pairsight.images.load import read_bytes
from pairsight.images.source import FileImages, ImageSource, UnpackedImages, WithImages
from pairsight.records import Completion, ImageRef, PreferencePair, Prompt, from_json

_LOG = logging.getLogger("pairsight.formats")
GIVEN = "given"
"""The annotator of preferences that came with the data, and the strategy of such pairs."""
_IMAGES = ("images", "image")
"""The columns that images are read from: a list of them, or a single one, as TRL has it."""
_NO_IMAGES = ("id", "prompt", "chosen", "rejected")


def read_pairs(path: str | Path, images: ImageSource | None = None) -> WithImages[PreferencePair]:
    """The preference pairs of a Parquet file, of a folder of shards, or of a run folder.

    Tables that Pairsight wrote give back the same records. Others need TRL's columns `prompt`, `chosen`, `rejected`
    (texts or message lists) and, with images, `images` or, for a single one, `image` (bytes, the name of a file beside
    the table, or `datasets`' {bytes, path}); `id` is kept.

    Args:
        path: a `.parquet` file, a folder with `pairs-*.parquet` or other Parquet files, or a run folder.
        images: where the images of tables that Pairsight wrote are, e.g. the run's blobs; default: all images are
            unpacked from the table into the cache folder.

    Raises:
        DataError: no Parquet file, a damaged one, a row that is not a preference pair (with file, row and id), or
            images in a column of another name, or in a form that is not read.
    """
    source = images if images is not None else UnpackedImages()
    pairs: list[PreferencePair] = []
    for file in pair_files(Path(path)):
        for number, row in _rows(file, with_images=images is None):
            location = _location(file, number, row.get("id", ""))
            unpacked = _unpack(row, source, file, location) if isinstance(source, UnpackedImages) else ()
            if "record" not in row:
                pairs.append(_from_trl(row, f"row-{len(pairs) + 1}", unpacked, location))
            elif row["record"] is not None:
                pairs.append(from_json(PreferencePair, row["record"], location))
    if not pairs:
        raise DataError(f"{path} holds no preference pairs", "empty_file")
    repeated, count = Counter(pair.id for pair in pairs).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path}: the id '{repeated}' is used {count} times: ids must be unique", "duplicate_id")
    return WithImages(tuple(pairs), source)


def pair_files(path: Path) -> list[Path]:
    """The Parquet files that hold a dataset's pairs: the file itself, or those of a folder or of its `data` folder."""
    if path.is_file():
        return [path]
    for pattern in ("pairs-*.parquet", "data/pairs-*.parquet", "*.parquet"):
        files = sorted(path.glob(pattern))
        if files:
            return files
    what = "holds no pairs-*.parquet" if path.is_dir() else "does not exist"
    raise DataError(f"{path} {what}: a run folder or a Parquet file of pairs is needed", "missing_file")


def _rows(file: Path, *, with_images: bool) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number from 1, row) of a table of pairs, a few rows at a time."""
    try:
        table = pq.ParquetFile(file)
        known = table.schema_arrow.names
        if not {"prompt", "chosen", "rejected"} - set(known):
            columns = [name for name in known if with_images or name not in _IMAGES]
            if read := [name for name in _IMAGES if name in known and not with_images and "record" not in known]:
                raise DataError(f"{file} brings its images itself, in '{read[0]}': leave `images` out", "unread_image")
            number, said = 0, set[str]()
            for batch in table.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    if "record" not in known:
                        _check_unread(row, _location(file, number, row.get("id", "")), said)
                    yield number, row
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:  # damaged bytes raise any of these
        raise DataError(f"{file} cannot be read as Parquet: {' '.join(str(error).split())}", "bad_parquet") from None
    missing = {"prompt", "chosen", "rejected"} - set(known)
    if missing:
        wanted = ", ".join(f"'{name}'" for name in sorted(missing))
        raise DataError(f"{file} is not a table of pairs: it has no column {wanted}", "missing_field")


def _location(file: Path, number: int, identity: object) -> str:
    return f"{file} row {number} (id '{identity}')"


def _check_unread(row: Mapping[str, object], location: str, said: set[str]) -> None:
    """Refuse a row whose image would not be read; beside an image that is, name once each column left aside."""
    read = next((name for name in _IMAGES if row.get(name)), "")
    for name, value in row.items():
        if name in (*_IMAGES, *_NO_IMAGES) or (read and name in said) or not holds_image(name, value):
            continue
        if not read:
            raise DataError(
                f"{location}: column '{name}' holds images and is not read: call it 'images' or 'image' "
                f"(found {value!r:.60}); {HOW}",
                "unread_image",
            )
        said.add(name)
        what = "bytes" if isinstance(value, bytes) else "images"
        _LOG.warning("%s: column '%s' holds %s and is not read; images are taken from '%s'", location, name, what, read)


def _unpack(row: Mapping[str, object], images: UnpackedImages, file: Path, location: str) -> tuple[ImageRef, ...]:
    given = {name: row[name] for name in _IMAGES if row.get(name) is not None}
    if len(given) == 2:
        raise DataError(f"{location} has both 'image' and 'images': keep one", "image_marks")
    refs = []
    for column, value in given.items():
        if column == "images" and not isinstance(value, list):
            raise DataError(
                f"{location}: 'images' must be a list, found {value!r:.60}; a single one is 'image'", "wrong_type"
            )
        for one in value if isinstance(value, list) else [value]:
            data, name = _bytes_and_name(one, f"{location}: '{column}'")
            try:
                if data is None:
                    beside = FileImages(file.parent)
                    data = read_bytes(beside.path(beside.ref(name)))
                refs.append(images.put(data, name or "without a name"))
            except DataError as error:
                raise DataError(f"{location}: {error}", error.reason) from None
    return tuple(refs)


def _bytes_and_name(value: object, location: str) -> tuple[bytes | None, str]:
    """An image's bytes, if they are in the table, and its file's name, if it has one."""
    if isinstance(value, bytes):
        return value, ""
    if isinstance(value, str) and value:
        if is_no_file(value):
            raise DataError(
                f"{location} is text {value!r:.60} instead of an image's bytes or name; {HOW}", "wrong_type"
            )
        return None, value
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        return value.get("bytes"), str(value.get("path") or "")
    raise DataError(f"{location} must hold bytes, file names or {{bytes, path}}, found {value!r:.60}", "wrong_type")


def _from_trl(row: Mapping[str, object], name: str, images: tuple[ImageRef, ...], location: str) -> PreferencePair:
    identity = str(row["id"]) if row.get("id") is not None else name
    prompt = Prompt(identity, from_plain(row["prompt"], images, f"{location}: 'prompt'"))
    chosen, rejected = (
        Completion(
            f"{identity}:{index}", identity, _completion_text(row[name], f"{location}: '{name}'"), "", "", 0, index
        )
        for index, name in enumerate(("chosen", "rejected"))
    )
    return PreferencePair(identity, prompt, chosen, (rejected,), GIVEN)


def _completion_text(value: object, location: str) -> str:
    if isinstance(value, str):
        text = value.strip()
    else:
        messages = from_plain(value, (), location)
        if len(messages) != 1:
            raise DataError(f"{location} must be one assistant message, found {len(messages)}", "wrong_type")
        text = messages[0].text
    if not text:
        raise DataError(f"{location} is empty", "empty_completion")
    return text
