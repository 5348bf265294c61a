"""Read preference pairs back from Parquet: our own tables without loss, and any TRL preference table."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsight.errors import DataError
from pairsight.formats.containers.tables import open_parquet
from pairsight.formats.image_columns import HOW, holds_image, is_no_file
from pairsight.formats.record_tables import MOST_TOGETHER, RecordTable, spooled
from pairsight.formats.rows import Row
from pairsight.formats.trl import from_plain
from pairsight.images.load import read_bytes
from pairsight.images.source import FileImages, ImageSource, UnpackedImages, WithImages
from pairsight.records import Completion, ImageRef, PreferencePair, Prompt, from_json

_LOG = logging.getLogger("pairsight.formats")
GIVEN = "given"
"""The annotator of preferences that came with the data, and the strategy of such pairs."""
_IMAGES = ("images", "image")
"""The columns that images are read from: a list of them, or a single one, as TRL has it."""
_OURS = {"id", "pair_id", "record"}
"""Columns that only our own tables have."""
_NO_IMAGES = ("id", "prompt", "chosen", "rejected")


def read_pairs(path: str | Path, images: ImageSource | None = None) -> WithImages[PreferencePair]:
    """The preference pairs of a Parquet file, of a folder of shards, or of a run folder, each made when asked for.

    Tables that Pairsight wrote give back the same records. Others need TRL's columns `prompt`, `chosen`, `rejected`
    (texts or message lists) and, with images, `images` or, for a single one, `image` (bytes, the name of a file beside
    the table, or `datasets`' {bytes, path}); `id` is kept. Their rows are checked here, ours as they are made.

    Args:
        path: a `.parquet` file, a folder with `pairs-*.parquet` or other Parquet files, or a run folder.
        images: where the images of tables that Pairsight wrote are, e.g. the run's blobs; default: all images are
            unpacked from the table into the cache folder.

    Raises:
        DataError: no Parquet file, a damaged one, a row that is not a preference pair (with file, row and id), or
            images in a column of another name, or in a form that is not read.
    """
    source = images if images is not None else UnpackedImages()
    files = pair_files(Path(path))
    our_own = [_is_our_own(file) for file in files]
    if all(our_own):
        if isinstance(source, UnpackedImages):
            for file in files:
                for row in _rows(file, ("id", *_IMAGES)):
                    _unpack(row, source, file)
        pairs = RecordTable(PreferencePair, files, sparse=True, named="id")
        ids = partial(pairs.values, "pair_id")
    else:
        pairs = spooled(PreferencePair, _converted(files, source))
        ids = partial(map, attrgetter("id"), pairs)
    if not pairs:
        raise DataError(f"{path} holds no preference pairs", "empty_file")
    if repeated := _repeated(ids, len(pairs)):
        what = f"the id '{repeated[0]}' is used {repeated[1]} times"
        raise DataError(f"{path}: {what}: ids must be unique", "duplicate_id")
    return WithImages(pairs, source)


def holds_our_pairs(path: Path) -> bool:
    """Whether a file or folder holds pairs that Pairsight wrote, with their records."""
    try:
        files = pair_files(path)
        return all(set(pq.read_schema(file).names) >= _OURS for file in files)
    except (DataError, pa.ArrowException, OSError, ValueError):
        return False


def _is_our_own(file: Path) -> bool:
    """Whether a table holds our records, a thousand rows together as we write them; DataError for no table of pairs."""
    with open_parquet(file) as table:
        known, footer = table.schema_arrow.names, table.metadata
        if missing := sorted({"prompt", "chosen", "rejected"} - set(known)):
            wanted = ", ".join(f"'{name}'" for name in missing)
            raise DataError(f"{file} is not a table of pairs: it has no column {wanted}", "missing_field")
        most = max((footer.row_group(index).num_rows for index in range(footer.num_row_groups)), default=0)
        return set(known) >= _OURS and most <= MOST_TOGETHER


def _converted(files: Sequence[Path], source: ImageSource) -> Iterator[PreferencePair]:
    """The pairs of tables that others wrote."""
    count = 0
    for file in files:
        with open_parquet(file) as table:
            known = table.schema_arrow.names
        unpacked = isinstance(source, UnpackedImages)
        if not unpacked and "record" not in known and (read := [name for name in _IMAGES if name in known]):
            raise DataError(f"{file} brings its images itself, in '{read[0]}': leave `images` out", "unread_image")
        for row in _rows(file, [name for name in known if unpacked or name not in _IMAGES]):
            if "record" not in known:
                _check_unread(row)
            refs = _unpack(row, source, file) if isinstance(source, UnpackedImages) else ()
            record = row.values.get("record")
            if "record" not in known or record is not None:
                count += 1
                yield (
                    from_json(PreferencePair, f"{record}", row.location)
                    if "record" in known
                    else _from_trl(row, f"row-{count}", refs)
                )


def _repeated(ids: Callable[[], Iterator[object]], count: int) -> tuple[str, int] | None:
    """The id that most pairs have, and how many have it; None where all differ. Eight bytes a pair are held."""
    hashes = np.sort(np.fromiter((hash(str(one)) for one in ids()), np.int64, count))
    again = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    counts = Counter(str(one) for one in ids() if hash(str(one)) in again) if again else Counter[str]()
    most = counts.most_common(1)
    return most[0] if most and most[0][1] > 1 else None


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


def _rows(file: Path, names: Sequence[str]) -> Iterator[Row]:
    """The rows of a table, those of the columns that it has; a few are in memory at once."""
    with open_parquet(file) as table:
        columns = [name for name in names if name in table.schema_arrow.names]
        number, said = 0, set[str]()
        for batch in table.iter_batches(batch_size=256, columns=columns):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{file} row {number} (id '{values.get('id', '')}')", number, values, said)


def _check_unread(row: Row) -> None:
    """Refuse a row whose image would not be read; beside an image that is, name once each column left aside."""
    read = next((name for name in _IMAGES if row.values.get(name)), "")
    for name, value in row.values.items():
        if name in (*_IMAGES, *_NO_IMAGES) or (read and name in row.said) or not holds_image(name, value):
            continue
        if not read:
            raise DataError(
                f"{row.location}: column '{name}' holds images and is not read: call it 'images' or 'image' "
                f"(found {value!r:.60}); {HOW}",
                "unread_image",
            )
        row.said.add(name)
        what = "bytes" if isinstance(value, bytes) else "images"
        _LOG.warning(
            "%s: column '%s' holds %s and is not read; images are taken from '%s'", row.location, name, what, read
        )


def _unpack(row: Row, images: UnpackedImages, file: Path) -> tuple[ImageRef, ...]:
    given = {name: row.values[name] for name in _IMAGES if row.values.get(name) is not None}
    if len(given) == 2:
        raise DataError(f"{row.location} has both 'image' and 'images': keep one", "image_marks")
    refs = []
    for column, value in given.items():
        if column == "images" and not isinstance(value, list):
            raise DataError(
                f"{row.location}: 'images' must be a list, found {value!r:.60}; a single one is 'image'", "wrong_type"
            )
        for one in value if isinstance(value, list) else [value]:
            data, name = _bytes_and_name(one, f"{row.location}: '{column}'")
            try:
                if data is None:
                    beside = FileImages(file.parent)
                    data = read_bytes(beside.path(beside.ref(name)))
                refs.append(images.put(data, name or "without a name"))
            except DataError as error:
                raise DataError(f"{row.location}: {error}", error.reason) from None
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


def _from_trl(row: Row, name: str, images: tuple[ImageRef, ...]) -> PreferencePair:
    values = row.values
    identity = str(values["id"]) if values.get("id") is not None else name
    prompt = Prompt(identity, from_plain(values["prompt"], images, f"{row.location}: 'prompt'"))
    chosen, rejected = (
        Completion(
            f"{identity}:{index}",
            identity,
            _completion_text(values[name], f"{row.location}: '{name}'"),
            "",
            "",
            0,
            index,
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
