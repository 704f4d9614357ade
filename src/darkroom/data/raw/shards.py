"""Parquet shards that contain the images, as on the Hugging Face Hub, read row by row."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.data.raw.columns import LABELS, find_column, may_say_splits, plain, with_split
from darkroom.data.raw.listing import Listing
from darkroom.data.raw.names import settled, split_meant, splits_by_name
from darkroom.data.raw.placement import Folders, Placed, below_root, check_names
from darkroom.data.raw.tables import as_text
from darkroom.errors import DataError
from darkroom.files.archives import broken_as_data_error
from darkroom.project.text import first_line, shown, utf8

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIX = ".parquet"
IMAGES = ("image", "img", "picture", "photo")
_IMAGES, _ROWS = 16, 1024  # rows in memory at once, with and without the bytes of the images
NO_BYTES = "the shard has no bytes of it, only a path"  # why an image cannot be read
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")  # of images
_BUFFER_BYTES = 1 << 20  # to read a column page by page, not as a whole


class _Columns(NamedTuple):
    """The columns of a shard: image (and whether it has a path), label and others of text; splits if one has them."""

    image: str
    has_path: bool
    label: str
    splits: list[str | None] | None
    others: list[str]


def place_in_shards(listing: Listing, layout: Mapping[str, Any], *, max_archive_bytes: int) -> list[Placed]:
    """Return the rows of all shards in the order of their names, numbered over all shards.

    Classes are the names that the hub's features give to numbers, else the values themselves. The split comes from the
    names of files or directories, or from a column. The name of an image is shard/row, plus its own path if it has one.

    Args:
        layout: `root` and `skip` choose the files; image_column, label_column and split_column name columns.
        max_archive_bytes: maximum unpacked size of all shards.

    Raises:
        DataError: there are no shards, they unpack to more, or one is damaged or lacks a column; a row has no label.
    """
    shards = _shards(listing, layout)
    by_name = splits_by_name([name for name, _ in shards], where=listing.where)
    found: list[Placed] = []
    n_bytes = 0
    for (name, position), said in zip(shards, by_name, strict=True):
        with _opened(listing, position) as file:
            groups = (file.metadata.row_group(group) for group in range(file.metadata.num_row_groups))
            n_bytes += sum(group.total_byte_size for group in groups)
            if n_bytes > max_archive_bytes:
                raise DataError(
                    f"{listing.where}: the shards unpack to more than {max_archive_bytes:,} bytes; raise "
                    "preprocess.max_archive_bytes if you trust them"
                )
            found += _rows(file, name, said, layout, start=len(found), called=f"{listing.where}: {name}")
    splits = settled({image.number: image.split for image in found if image.split})
    check_names({image.label for image in found}, listing.where)
    return [image._replace(split=splits.get(image.number)) for image in found]


def read_rows(listing: Listing, layout: Mapping[str, Any], numbers: Sequence[int]) -> Iterator[bytes | None]:
    """Yield the bytes of the images with these numbers, None for a row without; ascending numbers take one pass."""
    descents = [place for place in range(1, len(numbers)) if numbers[place] < numbers[place - 1]]
    for first, end in pairwise([0, *descents, len(numbers)]):
        wanted = deque(numbers[first:end])
        row = 0
        for _, position in _shards(listing, layout):
            with _opened(listing, position) as file:
                if wanted and wanted[0] < row + file.metadata.num_rows:
                    yield from _contents(file, wanted, layout, start=row)
                row += file.metadata.num_rows


def listing_of_rows(listing: Listing, layout: Mapping[str, Any], placed: Sequence[Placed]) -> Listing:
    """Return a listing of the rows of shards, as if each were a file; reading in ascending order is fast."""
    rows = _Rows(listing, layout, n=len(placed))

    def read(number: int) -> bytes:
        if (content := rows.content(number)) is None:
            raise DataError(f"{listing.where}: {placed[number].name}: {NO_BYTES}")
        return content

    return Listing(
        listing.where,
        [(image.name, False) for image in placed],
        rows.n_bytes,
        read,
        lambda number: BytesIO(read(number)),
        lambda number: None if rows.has_bytes(number) else NO_BYTES,
    )


class _Rows:
    """The images of n rows, read in one pass as long as the numbers ascend; their sizes are remembered."""

    def __init__(self, listing: Listing, layout: Mapping[str, Any], *, n: int) -> None:
        self._listing, self._layout, self._n = listing, layout, n
        self._sizes: dict[int, int | None] = {}  # None for a row without bytes
        self._rest: Iterator[bytes | None] = iter(())
        self._number, self._content = n, None  # type: int, bytes | None

    def n_bytes(self, number: int) -> int:
        """Return the size of an image, 0 if the row has no bytes."""
        self.has_bytes(number)
        return self._sizes[number] or 0

    def has_bytes(self, number: int) -> bool:
        """Return whether a row has an image, not only a path."""
        if number not in self._sizes:
            self.content(number)
        return self._sizes[number] is not None

    def content(self, number: int) -> bytes | None:
        """Return the bytes of an image, None if the row has none."""
        if number < self._number:
            self._rest = read_rows(self._listing, self._layout, range(number, self._n))
            self._number = number - 1
        while self._number < number:
            self._content = next(self._rest)
            self._number += 1
            self._sizes[self._number] = None if self._content is None else len(self._content)
        return self._content


def holds_images(listing: Listing, position: int) -> bool:
    """Return whether a file is a shard with images in it, not with other bytes such as hashes or embeddings."""
    try:
        with _opened(listing, position) as file:
            able = [field for field in file.schema_arrow if _is_image(field.type)]
            if any(_has_field(field.type, "bytes") or field.name.casefold() in IMAGES for field in able):
                return True
            first: Any = next(file.iter_batches(batch_size=_IMAGES, columns=[field.name for field in able]), {})
            return any((column.drop_null().to_pylist() or [b""])[0].startswith(_STARTS) for column in first)
    except DataError:
        return False


def _shards(listing: Listing, layout: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the names of the shards, sorted, and their positions in the listing."""
    found = below_root(listing.names, Folders.of(layout), where=listing.where)
    shards = sorted((name, number) for number, name, is_dir in found if not is_dir and is_shard(name))
    if not shards:
        raise DataError(f"{listing.where}: no {SUFFIX} files; correct the layout")
    return shards


def is_shard(name: str) -> bool:
    """Return whether a file is parquet by its name."""
    return name.casefold().endswith(SUFFIX)


@contextmanager
def _opened(listing: Listing, position: int) -> Iterator["pq.ParquetFile"]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            broken_as_data_error(listing.where),
            listing.open(position) as stream,
            pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
        ):
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{listing.where}: {listing.names[position][0]} cannot be read: {first_line(error)}") from None


def _rows(
    file: "pq.ParquetFile", name: str, said: str | None, layout: Mapping[str, Any], *, start: int, called: str
) -> Iterator[Placed]:
    """Yield the rows of a shard without their images; `start` is the number of the first, `said` their split."""
    columns = _columns(file, layout, said=said, called=called)
    names = _class_names(file.schema_arrow).get(columns.label)
    path = [f"{columns.image}.path"] if columns.has_path else []
    texts = [columns.label, *columns.others]
    splits = columns.splits or [said] * file.metadata.num_rows
    row = 0
    for batch in file.iter_batches(batch_size=_ROWS, columns=[*texts, *path]):
        paths = [value["path"] for value in batch.column(columns.image).to_pylist()] if path else [None] * len(batch)
        values = {column: batch.column(column).to_pylist() for column in texts}
        for place, own in enumerate(paths):
            label = _label(values[columns.label][place], names, called=f"{called}, row {row + 1}")
            inside = utf8(f"/{own}".replace("\\", "/").rstrip("/")) if own else ""
            others = {column: as_text(values[column][place]) for column in columns.others}
            yield Placed(start + row, f"{name[: -len(SUFFIX)]}/{row:05d}{inside}", label, splits[row], others)
            row += 1


def _contents(
    file: "pq.ParquetFile", wanted: deque[int], layout: Mapping[str, Any], *, start: int
) -> Iterator[bytes | None]:
    """Yield the images of the next `wanted` rows and remove them there; row groups without one are not read."""
    image = _image_column(file.schema_arrow, layout, called="")
    inside = f"{image}.bytes" if _has_field(file.schema_arrow.field(image).type, "bytes") else image
    for group in range(file.metadata.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if not wanted or wanted[0] >= end:
            start = end
            continue
        for batch in file.iter_batches(batch_size=_IMAGES, row_groups=[group], columns=[inside]):
            column = batch.column(image)
            while wanted and wanted[0] < start + len(batch):
                value = column[wanted.popleft() - start].as_py()
                yield value["bytes"] if isinstance(value, dict) else value
            start += len(batch)


def _columns(file: "pq.ParquetFile", layout: Mapping[str, Any], *, said: str | None, called: str) -> _Columns:
    schema = file.schema_arrow
    image = _image_column(schema, layout, called=called)
    classes = list(_class_names(schema))
    usual = [*LABELS, *(plain(name) for name in classes if len(classes) == 1)]
    label = find_column(schema.names, layout.get("label_column"), usual, called=called, key="label_column")
    flat = [field.name for field in schema if field.name not in (image, label) and not _is_nested(field.type)]
    splits, split = None, None
    if given := layout.get("split_column"):
        find_column(schema.names, given, (), called=called, key="split_column")
    if given or not said:
        splits, split = _splits(file, given, flat, called=called)
    others = [name for name in flat if name != split]
    return _Columns(image, _has_field(schema.field(image).type, "path"), label, splits, others)


def _splits(
    file: "pq.ParquetFile", given: str | None, flat: Sequence[str], *, called: str
) -> tuple[list[str | None] | None, str | None]:
    """Return the splits of the rows and the column that says them, None and None if there is none.

    Unless it is named, is_valid is not read: whether it is about splits cannot be seen in one of several shards.
    """
    asked = [name for name in flat if may_say_splits(name, or_flag=given is not None)]
    columns = list(dict.fromkeys([*([given.strip()] if given else []), *asked]))
    rows = file.read(columns=columns).to_pylist() if columns else []
    texts = {number: {name: as_text(row[name]) for name in columns} for number, row in enumerate(rows, 1)}
    found, split = with_split(texts, given, asked=asked, called=called) if texts else (texts, None)
    if split is None:
        return None, None
    return [_split(row[split], called=f"{called}, row {number}") for number, row in found.items()], split


def _image_column(schema: "pa.Schema", layout: Mapping[str, Any], *, called: str) -> str:
    able = [field.name for field in schema if _is_image(field.type)]
    if not able:
        raise DataError(f"{called} has no images; name it in `skip` of the layout")
    usual = [plain(able[0])] if len(able) == 1 else IMAGES
    return find_column(able, layout.get("image_column"), usual, called=called, key="image_column")


def _class_names(schema: "pa.Schema") -> dict[str, list[str]]:
    """Return the names of classes by column from the schema, where the hub stores them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"] for column, feature in features.items() if isinstance(feature.get("names"), list)
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _label(value: Any, names: Sequence[str] | None, *, called: str) -> str:
    if isinstance(value, list | dict | bytes):
        raise DataError(f"{called}: the label is {type(value).__name__}; expected one label per image")
    if names is not None and isinstance(value, int) and value < len(names):
        value = names[value] if value >= 0 else None  # -1 on the hub: a test set without labels
    elif names is not None and isinstance(value, int):
        raise DataError(f"{called}: the label is {value}, but the classes are 0 to {len(names) - 1}")
    if not (text := as_text(value).strip()):
        raise DataError(f"{called}: no label; add it, or name the file in `skip` of the layout")
    return text


def _split(text: str, *, called: str) -> str | None:
    split = split_meant(text)
    if text.strip() and not split:
        raise DataError(f"{called}: the split is {shown(text)}; expected train, val, test or nothing")
    return split


def _is_image(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    kind = kind.field("bytes").type if _has_field(kind, "bytes") else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _has_field(kind: "pa.DataType", name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index(name) >= 0)


def _is_nested(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
