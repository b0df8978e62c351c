"""Reading DICOM files faithfully or not at all: stored values -> modality LUT -> VOI LUT -> MONOCHROME1 turned -> 8 bits.

The order is that of the standard (PS3.4 N.2); the steps from stored values to gray are in `gray.py`. Files are decoded by the
first installed of a fixed order of pydicom's plug-ins, as lossy decoders differ by a gray level.
"""

from __future__ import annotations

import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.gray import gray_table
from benchmark.data.images import MAX_PIXELS
from benchmark.errors import ImageError, UserError

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

MAX_BYTES = 1 << 30  # more than MAX_PIXELS of 16 bits and any header
_DAMAGE = (  # what parsers raise on bytes that make no sense
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError, struct.error,
)  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"
_LOSSLESS = (("gdcm", "pylibjpeg"), "python-gdcm")  # pylibjpeg does it by pylibjpeg-libjpeg, which is under the GPL
_PLUGINS = {  # transfer syntax (PS3.6 A) -> plug-ins in order, and what to install
    "1.2.840.10008.1.2.4.50": (("pillow", "gdcm", "pylibjpeg"), "pillow"),  # JPEG baseline
    "1.2.840.10008.1.2.4.51": (("pylibjpeg",), "pylibjpeg pylibjpeg-libjpeg (GPL), or use dcmdjpeg"),  # JPEG of 12 bits
    "1.2.840.10008.1.2.4.57": _LOSSLESS,  # JPEG lossless
    "1.2.840.10008.1.2.4.70": _LOSSLESS,
    "1.2.840.10008.1.2.4.80": (("pyjpegls", "gdcm", "pylibjpeg"), "pyjpegls"),  # JPEG-LS
    "1.2.840.10008.1.2.4.81": (("pyjpegls", "gdcm", "pylibjpeg"), "pyjpegls"),
    "1.2.840.10008.1.2.4.90": (("pylibjpeg", "gdcm", "pillow"), "pylibjpeg pylibjpeg-openjpeg"),  # JPEG 2000
    "1.2.840.10008.1.2.4.91": (("pylibjpeg", "gdcm", "pillow"), "pylibjpeg pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.5": (("pydicom",), "pydicom"),  # RLE
}


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header declares; signed: two's complement."""

    rows: int
    columns: int
    bits: int
    signed: bool


class _Refusal(Exception):  # noqa: N818  (never leaves this file)
    """Why a file cannot be read, and the way out; `_faithful` adds the file's name."""


def read_dicom(path: Path, uid: str) -> NDArray[np.uint8]:
    """The gray values of a DICOM file of one frame; 255 is white.

    Of several windows or tables the first counts, and a table goes before a window. Without either, unsigned values are scaled
    by the smallest depth of `gray.DEPTHS` that holds the largest of them, signed ones by the declared range. Overlays in
    unused bits are left out.

    Args:
        path: the file.
        uid: the record's uid, for the error.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: missing, not DICOM, without pixel data, truncated, damaged, too large, of several frames, of color, of
            values outside the declared bits, of an unknown compression, or one without a decoder here.
        UserError: pydicom is not installed.
    """
    with _faithful(path, uid):
        dataset = _load(path, pixels=True)
        header = _header(dataset)
        patterns = _patterns(dataset, header)
        gray: NDArray[np.uint8] = gray_table(dataset, header.bits, header.signed, int(patterns.max()))[patterns]
        return gray


def dicom_shape(path: Path, uid: str) -> tuple[int, int]:
    """(H, W) that read_dicom would give, from the header alone. Raises ImageError."""
    with _faithful(path, uid):
        header = _header(_load(path, pixels=False))
    return header.rows, header.columns


def require_pydicom(name: str) -> None:
    """Raises UserError unless pydicom is installed. name: of the set that needs it."""
    try:
        import pydicom.pixels  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{name} reads DICOM files and pydicom 3 is not installed; run pip install 'cxr-vlp-benchmark[dicom]'"
        ) from error


@contextmanager
def _faithful(path: Path, uid: str) -> Iterator[None]:
    """A refusal, or what a parser makes of damaged bytes, becomes an ImageError; its warnings are silent."""
    require_pydicom("this set")
    from pydicom.errors import BytesLengthException, InvalidDicomError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of odd values of tags that are not used here
        try:
            yield
        except _Refusal as refusal:
            raise ImageError(uid, f"{path} {refusal}") from refusal.__cause__
        except (*_DAMAGE, BytesLengthException, InvalidDicomError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ImageError(uid, f"{path} is truncated or damaged ({reason}); copy or download it again") from error


def _load(path: Path, pixels: bool) -> FileDataset:
    """The parsed file; from memory, where a length that lies cannot reserve more than there is."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _Refusal("is a folder or a device, not a file; check the path in the records")
        if status.st_size > MAX_BYTES:
            raise _Refusal(f"has {status.st_size:,} bytes, more than an X-ray can have; leave its row out")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _Refusal(f"cannot be read ({reason}); check the path in the records") from error
    if raw[128:132] != b"DICM":
        raise _Refusal(_what_it_is(raw[:256]))
    if read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:  # inflates without limit when it is parsed
        raise _Refusal("is deflated; write it uncompressed, for example with dcmconv +te")
    return dcmread(BytesIO(raw), stop_before_pixels=not pixels)


def _what_it_is(head: bytes) -> str:
    if not head:
        return "is empty (0 bytes); copy or download it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "is a web page, not DICOM (a log-in or error page was saved in its place); download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not DICOM; run `git lfs pull` there"
    return "is not a DICOM file (it lacks the mark 'DICM'); download it again or leave its row out"


def _header(dataset: FileDataset) -> _Header:
    rows, columns = (int(dataset.get(name) or 0) for name in ("Rows", "Columns"))
    if rows < 1 or columns < 1:
        raise _Refusal("states no size of an image; it holds something else, leave its row out")
    if rows * columns > MAX_PIXELS:
        raise _Refusal(f"has {columns:,} x {rows:,} pixels by its header, more than {MAX_PIXELS:,}; leave its row out")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise _Refusal(f"has {frames} frames; save one of them as a file of its own")
    photometric = str(dataset.get("PhotometricInterpretation", "none"))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise _Refusal(f"is color ({photometric}), not a gray X-ray; leave its row out or save it as gray PNG")
    allocated, bits = (int(dataset.get(name) or 0) for name in ("BitsAllocated", "BitsStored"))
    high = dataset.get("HighBit")
    if allocated not in (8, 16) or not 1 <= bits <= allocated or (high is not None and int(high) != bits - 1):
        raise _Refusal(
            f"states {allocated or 'no'} bits allocated, {bits or 'no'} stored and the highest {high}, by which gray "
            "cannot be scaled; download it again or save it as 8-bit gray PNG",
        )
    return _Header(rows, columns, bits, bool(dataset.get("PixelRepresentation")))


def _patterns(dataset: FileDataset, header: _Header) -> NDArray[Any]:
    """(H, W) unsigned: the stored bits of each pixel, which index the table."""
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset:
        raise _Refusal("has no pixel data or was cut before their end; copy or download it again")
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = _plugin(syntax) if syntax.is_compressed else ""
    if is_stream := plugin not in ("", "pydicom"):  # neither plain nor RLE
        _check_stream(dataset, header)
    options: Any = {"raw": True, "decoding_plugin": plugin, "correct_unused_bits": False}
    values, _ = get_decoder(syntax).as_array(dataset, **options)
    if values.shape != (header.rows, header.columns):
        raise ValueError(f"decoded to {values.shape}, declared {(header.rows, header.columns)}")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    top = 2**header.bits - 1
    low = -(top + 1) // 2 if header.signed else 0  # a stream may hold signed values as such or as their bits
    if is_stream and not (low <= values.min() and values.max() <= top):
        raise _Refusal(f"holds values from {values.min()} to {values.max()} in {header.bits} declared bits; download it again")
    mask = np.array(top, f"u{values.dtype.itemsize}")
    patterns: NDArray[Any] = values.view(mask.dtype) & mask
    return patterns


def _plugin(syntax: Any) -> str:
    """The decoder for a compression."""
    from pydicom.pixels.decoders.base import get_decoder

    if syntax not in _PLUGINS:
        raise _Refusal(f"is compressed as {syntax.name}, which is not read here; save it as gray PNG")
    order, package = _PLUGINS[syntax]
    for name in order:
        if name in get_decoder(syntax).available_plugins:
            return name
    raise _Refusal(f"is {syntax.name} and no decoder of it is installed; run pip install {package}")


def _check_stream(dataset: FileDataset, header: _Header) -> None:
    """A stream within the file has a header of its own, and decoders reserve what that one says."""
    from pydicom.encaps import get_frame

    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    stated = _stated_size(stream)
    if stated != (header.rows, header.columns, 1):
        found = f"{stated[1]:,} x {stated[0]:,} pixels of {stated[2]} channels" if stated else "no size"
        raise _Refusal(f"declares {header.columns} x {header.rows} pixels and its stream {found}; download it again")
    if b"\xff\xd9" not in stream[-64:]:  # the end marker of JPEG, JPEG-LS and JPEG 2000; padding may follow
        raise _Refusal("has pixels that end before their end marker; copy or download it again")


def _stated_size(stream: bytes) -> tuple[int, int, int] | None:
    """(H, W, channels) by the SIZ of JPEG 2000 (ISO 15444-1 A.5.1) or the SOF of JPEG and JPEG-LS (ISO 10918-1 B.2.2)."""
    if (start := stream[:4096].find(b"\xff\x4f\xff\x51")) >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
        return bottom - top, right - left, struct.unpack_from(">H", stream, start + 40)[0]
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 < len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, channels = struct.unpack_from(">HHB", stream, at + 5)
            return rows, columns, channels
        at += 1 if marker == 0xFF else 2 + length  # 0xFF: a fill byte
    return None
