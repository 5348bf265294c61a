"""The subset of Office Open XML that MMBench's server uses: one sheet of text and numbers, read and written.

Source: ECMA-376 part 1 (SpreadsheetML). Cells are written as inline strings or numbers; shared strings are read too.
"""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, iterparse
from xml.sax.saxutils import escape

from pairsight.errors import DataError
from pairsight.store.durable import write_file

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0d\x0e-\x1f\ud800-\udfff\ufffe\uffff]|_x[0-9A-Fa-f]{4}_")
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
_MAX_BYTES = 1 << 30  # a part that would unpack to more is refused

_PARTS = {
    "[Content_Types].xml": f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/xl/workbook.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>',
    "_rels/.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def write_xlsx(path: Path, rows: Iterable[Sequence[str | int | float | None]]) -> Path:
    """Write rows of cells as a workbook with one sheet; None is an empty cell. Equal rows give equal bytes."""
    sheet = io.StringIO()
    sheet.write(f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>')
    for number, row in enumerate(rows, start=1):
        cells = "".join(_cell(f"{_column(index)}{number}", value) for index, value in enumerate(row))
        sheet.write(f'<row r="{number}">{cells}</row>')
    sheet.write("</sheetData></worksheet>")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in {**_PARTS, "xl/worksheets/sheet1.xml": sheet.getvalue()}.items():
            book.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    write_file(path, data.getvalue())
    return path


def read_xlsx(path: Path) -> Iterator[list[str | None]]:
    """The rows of a workbook's first sheet as text, numbers as they are stored; None for an empty cell.

    Raises:
        DataError: the file is missing, not a workbook, damaged, or unpacks to more than a gibibyte.
    """
    try:
        with zipfile.ZipFile(path) as book:
            names = sorted(n for n in book.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", n))
            if not names:
                raise DataError(f"{path} is not an .xlsx workbook: it has no sheet")
            shared = list(_shared(book)) if "xl/sharedStrings.xml" in book.namelist() else []
            for element in _elements(book, min(names, key=lambda n: (len(n), n)), "row"):
                yield _row(element, shared)
    except (OSError, zipfile.BadZipFile, ParseError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable .xlsx workbook: {' '.join(str(error).split())}") from None


def _cell(name: str, value: str | int | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return f'<c r="{name}"><v>{value}</v></c>'
    text = _NOT_XML.sub(_escaped, value)
    return f'<c r="{name}" t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    return f"_x{ord(found):04X}_" if len(found) == 1 else f"_x005F{found}"


def _column(index: int) -> str:
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _shared(book: zipfile.ZipFile) -> Iterator[str]:
    for element in _elements(book, "xl/sharedStrings.xml", "si"):
        yield _text(element)


def _elements(book: zipfile.ZipFile, name: str, tag: str) -> Iterator[Element]:
    if book.getinfo(name).file_size > _MAX_BYTES:
        raise DataError(f"{book.filename}: {name} would unpack to {book.getinfo(name).file_size} bytes, too many")
    with book.open(name) as part:
        if b"<!DOCTYPE" in part.read(4096):
            raise DataError(f"{book.filename}: {name} declares a document type, which workbooks do not")
    with book.open(name) as part:
        for _, element in iterparse(part):  # noqa: S314 - no document type, so no entities
            if element.tag == f"{{{_MAIN}}}{tag}":
                yield element
                element.clear()


def _row(row: Element, shared: Sequence[str]) -> list[str | None]:
    cells: list[str | None] = []
    for cell in row.iter(f"{{{_MAIN}}}c"):
        letters = re.match(r"[A-Z]+", cell.get("r", ""))
        index = _index(letters[0]) if letters else len(cells)
        if not len(cells) <= index < 16384:
            raise ValueError(f"unexpected cell {cell.get('r')}")
        cells += [None] * (index - len(cells)) + [_value(cell, shared)]
    return cells


def _value(cell: Element, shared: Sequence[str]) -> str | None:
    if cell.get("t") == "inlineStr":
        return _text(cell)
    value = cell.find(f"{{{_MAIN}}}v")
    if value is None or value.text is None:
        return None
    if cell.get("t") == "s":
        return shared[int(value.text)]
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value.text)


def _text(element: Element) -> str:
    """The text of a string item: its runs joined, without phonetic hints."""
    hints = {id(part) for hint in element.iter(f"{{{_MAIN}}}rPh") for part in hint.iter()}
    parts = [part.text or "" for part in element.iter(f"{{{_MAIN}}}t") if id(part) not in hints]
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), "".join(parts))


def _index(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number - 1
