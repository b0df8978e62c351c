"""DICOM files written by pydicom in every transfer syntax at hand: read as they were written, or refused with a reason."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmark.data import dicom
from benchmark.data.dicom import dicom_shape, read_dicom
from benchmark.errors import ImageError, UserError

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate, get_frame  # noqa: E402
from pydicom.pixels.decoders.base import get_decoder  # noqa: E402
from pydicom.pixels.processing import apply_modality_lut, apply_windowing  # noqa: E402

H, W = 40, 50
LITTLE, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG, LOSSLESS, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"
JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
DEFLATED = "1.2.840.10008.1.2.1.99"


def picture(bits: int = 8, signed: bool = False) -> NDArray[Any]:
    """A ramp with noise that does not reach the largest value, and is not symmetric in any way."""
    top = 2**bits - 1
    noise = np.random.default_rng(0).integers(0, top // 8 + 1, (H, W))
    values = (np.linspace(0, 0.7 * top, H)[:, None] + noise).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def dataset(values: NDArray[Any], bits: int = 8, **tags: Any) -> Dataset:
    """An uncompressed image as a Secondary Capture would hold it."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = LITTLE
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * values.dtype.itemsize, bits, bits - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    made["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def saved(made: Dataset, path: Path, syntax: str = "") -> Path:
    if syntax in (JPEG_LS, JPEG_2000, RLE):
        made.compress(syntax, encoding_plugin={JPEG_LS: "pyjpegls", JPEG_2000: "pylibjpeg", RLE: "pydicom"}[syntax])
    elif syntax:
        made.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd values, which are what some of these tests want
        made.save_as(path, enforce_file_format=True)
    return path


def jpeg(values: NDArray[np.uint8], **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def wrapped(stream: bytes, syntax: str = JPEG, bits: int = 8, **tags: Any) -> Dataset:
    """A compressed stream in a file that declares (H, W)."""
    made = dataset(picture(bits), bits, PixelData=encapsulate([stream]), **tags)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    return made


def scaled(values: NDArray[Any], bits: int, signed: bool = False) -> NDArray[np.uint8]:
    """What read_dicom should give where a file has neither tables nor windows."""
    low = -(2 ** (bits - 1)) if signed else 0
    return np.array([[round((int(v) - low) * 255 / (2**bits - 1)) for v in row] for row in values], np.uint8)


def encodable(syntax: str) -> bool:
    needed = {JPEG_LS: "pyjpegls", JPEG_2000: "pylibjpeg", JPEG: "pillow"}
    return syntax not in needed or needed[syntax] in get_decoder(syntax).available_plugins


@pytest.mark.parametrize("syntax", [LITTLE, IMPLICIT, RLE, JPEG_LS, JPEG_2000])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (12, True), (16, True)])
def test_lossless(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    if not encodable(syntax) or (signed and syntax == JPEG_LS):  # JPEG-LS has no signed values
        pytest.skip("cannot be written here")
    values = picture(bits, signed)
    path = saved(dataset(values, bits), tmp_path / "a.dcm", syntax)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_dicom(path, "a")
    assert (found.shape, found.dtype) == ((H, W), np.uint8)
    np.testing.assert_array_equal(found, scaled(values, bits, signed))
    assert dicom_shape(path, "a") == (H, W)


def test_eight_bits_are_kept_and_never_stretched(tmp_path: Path) -> None:
    values = picture()
    assert 100 < values.max() < 255  # scaling by the maximum would change every value
    np.testing.assert_array_equal(read_dicom(saved(dataset(values), tmp_path / "a"), "a"), values)


def test_big_endian(tmp_path: Path) -> None:
    made = dataset(picture(12), 12, PixelData=picture(12).astype(">u2").tobytes())
    made.file_meta.TransferSyntaxUID = BIG
    made.save_as(tmp_path / "a", enforce_file_format=True)
    np.testing.assert_array_equal(read_dicom(tmp_path / "a", "a"), scaled(picture(12), 12))


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    stream = jpeg(picture(), quality=80)
    path = saved(wrapped(stream), tmp_path / "a")
    np.testing.assert_array_equal(read_dicom(path, "a"), np.asarray(Image.open(BytesIO(stream))))


@pytest.mark.parametrize("syntax", [JPEG_LS, JPEG_2000])
def test_signed_values_in_unsigned_streams(tmp_path: Path, syntax: str) -> None:
    """What encoders without signed values make of them: their bits."""
    values = picture(12, signed=True)
    made = wrapped(stream_of(syntax, values.view(np.uint16) & np.uint16(0xFFF), 12), syntax, 12, PixelRepresentation=1)
    np.testing.assert_array_equal(read_dicom(saved(made, tmp_path / "a"), "a"), scaled(values, 12, True))


def test_odd_size_and_excess_padding(tmp_path: Path) -> None:
    values = picture()[:39, :49]
    np.testing.assert_array_equal(read_dicom(saved(dataset(values), tmp_path / "a"), "a"), values)
    padded = dataset(values, PixelData=values.tobytes() + b"\7" * 901)  # as some files of VinDr-CXR have it
    np.testing.assert_array_equal(read_dicom(saved(padded, tmp_path / "b"), "b"), values)


def test_unused_bits_hold_overlays(tmp_path: Path) -> None:
    values = picture(12)
    for syntax in (LITTLE, RLE):
        path = saved(dataset(values | np.uint16(0xA000), 12), tmp_path / "a", syntax)
        np.testing.assert_array_equal(read_dicom(path, "a"), scaled(values, 12))


# ------------------------------------------------------------------------------------ gray values


def test_monochrome1_is_turned_after_everything_else(tmp_path: Path) -> None:
    tags = {"WindowCenter": 1000, "WindowWidth": 900}
    plain = read_dicom(saved(dataset(picture(12), 12, **tags), tmp_path / "a"), "a")
    turned = read_dicom(saved(dataset(picture(12), 12, PhotometricInterpretation="MONOCHROME1", **tags), tmp_path / "b"), "b")
    np.testing.assert_array_equal(turned, 255 - plain)
    assert len(np.unique(plain)) > 50


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", ""])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -100), (-1, 4095)])
@pytest.mark.parametrize("signed", [False, True])
def test_windows_match_pydicom(tmp_path: Path, function: str, slope: float, intercept: float, signed: bool) -> None:
    tags: dict[str, Any] = {"WindowCenter": [700, 1], "WindowWidth": [900, 1]}  # the first counts
    tags |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    made = dataset(picture(12, signed), 12, **tags, **({"VOILUTFunction": function} if function else {}))
    found = read_dicom(saved(made, tmp_path / "a"), "a")
    values = apply_windowing(apply_modality_lut(picture(12, signed), made), made)
    ends = np.array([-(2**11), 2**11 - 1] if signed else [0, 2**12 - 1]) * slope + intercept
    expected = (values - ends[0]) / (ends[1] - ends[0]) * 255
    np.testing.assert_allclose(found, expected, atol=0.5 + 1e-6)


def test_rescaling_alone_changes_nothing_but_its_sign(tmp_path: Path) -> None:
    plain = scaled(picture(12), 12)
    for slope, expected in ((0.25, plain), (-3, 255 - plain)):
        made = dataset(picture(12), 12, RescaleSlope=slope, RescaleIntercept=-1000)
        np.testing.assert_allclose(read_dicom(saved(made, tmp_path / "a"), "a").astype(int), expected, atol=1)


def test_a_window_of_one_value_is_a_threshold(tmp_path: Path) -> None:
    made = dataset(picture(), WindowCenter=100, WindowWidth=1)
    np.testing.assert_array_equal(read_dicom(saved(made, tmp_path / "a"), "a"), np.where(picture() > 99.5, 255, 0))


def lookup(entries: list[int], first: int, bits: int, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries) % 65536, first, bits])
    item.add_new(0x00283006, vr, entries if vr == "US" else struct.pack(f"<{len(entries)}H", *entries))
    return item


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("tag", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables(tmp_path: Path, tag: str, vr: str) -> None:
    curve = [int(255 * (v / 3000) ** 0.5) for v in range(3000)]  # 8 bits from 12: where pydicom 3.0 overflows
    made = dataset(picture(12), 12, **{tag: [lookup(curve, 500, 8, vr)]})
    if tag == "VOILUTSequence":
        made.WindowCenter, made.WindowWidth = 1, 2  # the table goes first
    expected = np.array(curve)[np.clip(picture(12).astype(int) - 500, 0, 2999)]
    np.testing.assert_array_equal(read_dicom(saved(made, tmp_path / "a"), "a"), expected)


def test_tables_of_more_bits_are_scaled_by_their_own(tmp_path: Path) -> None:
    made = dataset(picture(), ModalityLUTSequence=[lookup([4 * v for v in range(256)], 0, 12)])
    expected = np.floor(4 * picture().astype(int) * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(read_dicom(saved(made, tmp_path / "a"), "a"), expected)


# ------------------------------------------------------------------------------------ refused


def stream_of(syntax: str, values: NDArray[Any], bits: int = 8) -> bytes:
    if not encodable(syntax):
        pytest.skip("cannot be written here")
    made = dataset(values, bits)
    made.compress(syntax, encoding_plugin="pyjpegls" if syntax == JPEG_LS else "pylibjpeg")
    return get_frame(made.PixelData, 0, number_of_frames=1)


def without(name: str) -> Dataset:
    made = dataset(picture())
    del made[name]
    return made


def color() -> Dataset:
    rgb = np.repeat(picture()[..., None], 3, 2)
    return dataset(rgb, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)


def deflated(values: NDArray[np.uint8]) -> Dataset:
    """pydicom deflates as it saves."""
    made = dataset(values)
    made.file_meta.TransferSyntaxUID = DEFLATED
    return made


def bomb() -> bytes:
    """A JPEG of a few bytes whose own header says 60,000 x 60,000."""
    stream = bytearray(jpeg(picture()))
    at = stream.index(b"\xff\xc0")
    stream[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(stream)


BAD: dict[str, tuple[Callable[[], Dataset], str]] = {
    "header bomb": (lambda: dataset(picture(), Rows=65535, Columns=65535), "65,535 x 65,535 pixels by its header"),
    "stream bomb": (lambda: wrapped(bomb()), "its stream 60,000 x 60,000 pixels"),
    "no pixels": (lambda: without("PixelData"), "no pixel data"),
    "short pixels": (lambda: dataset(picture(), PixelData=picture().tobytes()[:1000]), "less than expected"),
    "frames beyond the declared": (lambda: dataset(picture(), PixelData=picture().tobytes() * 2), "decoded to (2, 40, 50)"),
    "no rows": (lambda: without("Rows"), "states no size"),
    "no bits stored": (lambda: without("BitsStored"), "no stored"),
    "odd high bit": (lambda: dataset(picture(12), 12, HighBit=15), "the highest 15"),
    "32 bits": (lambda: dataset(picture().astype(np.uint32), 32), "32 bits allocated"),
    "frames": (lambda: dataset(picture(), NumberOfFrames=2, PixelData=picture().tobytes() * 2), "has 2 frames"),
    "color": (color, "is color"),
    "palette": (lambda: dataset(picture(), PhotometricInterpretation="PALETTE COLOR"), "is color"),
    "window of no width": (lambda: dataset(picture(), WindowCenter=5, WindowWidth=0), "width -1"),
    "unknown window": (lambda: dataset(picture(), WindowCenter=5, WindowWidth=9, VOILUTFunction="CUBIC"), "CUBIC"),
    "slope of 0": (lambda: dataset(picture(), RescaleSlope=0, RescaleIntercept=5), "gray from 5"),
    "short table": (lambda: dataset(picture(), VOILUTSequence=[lookup([1, 2], 0, 20)]), "entries of 20 bits"),
    "cut jpeg": (lambda: wrapped(jpeg(picture(), quality=95)[:700]), "before their end marker"),
    "color jpeg": (lambda: wrapped(jpeg(np.repeat(picture()[..., None], 3, 2))), "of 3 channels"),
    "not a jpeg": (lambda: wrapped(b"\0" * 600), "no size"),
    "jpeg of another size": (lambda: wrapped(jpeg(picture()[:20])), "its stream 50 x 20"),
    "values beyond the bits": (lambda: wrapped(jpeg(picture()), bits=6), "in 6 declared bits"),
    "12 bits declared, 8 in the stream": (lambda: wrapped(jpeg(picture()), bits=12), "truncated or damaged"),
    "deflated": (lambda: deflated(np.zeros((2000, 2000), np.uint8)), "is deflated"),
    "video": (lambda: wrapped(b"\0" * 100, "1.2.840.10008.1.2.4.100"), "is not read here"),
    "cut jpeg 2000": (lambda: wrapped(stream_of(JPEG_2000, picture())[:600], JPEG_2000), "before their end marker"),
    "cut jpeg-ls": (lambda: wrapped(stream_of(JPEG_LS, picture())[:600], JPEG_LS), "before their end marker"),
    "cut rle": (lambda: wrapped(struct.pack("<2I", 1, 64) + b"\0" * 56 + b"\x7f" * 200, RLE), "truncated or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    path = saved(make(), tmp_path / "bad.dcm")
    with pytest.raises(ImageError, match="image 'bad'") as caught:
        read_dicom(path, "bad")
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "; " in str(caught.value)  # the way out
    assert "\n" not in str(caught.value)


def whole(syntax: str = "") -> bytes:
    buffer = BytesIO()
    made = dataset(picture())
    if syntax:
        made.compress(syntax)
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "web page": (lambda: b"<!DOCTYPE html><title>Log in</title>", "is a web page"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 200, "not a DICOM file"),
    "preamble alone": (lambda: b"\0" * 128 + b"DICM", "image 'x'"),
    "cut in the header": (lambda: whole()[:400], "image 'x'"),
    "cut in the pixels": (lambda: whole()[:-900], "less than expected"),
    "cut rle": (lambda: whole(RLE)[:-900], "image 'x'"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_refused(tmp_path: Path, name: str) -> None:
    make, reason = FILES[name]
    (tmp_path / "x").write_bytes(make())
    with pytest.raises(ImageError, match=reason):
        read_dicom(tmp_path / "x", "x")


def test_paths_refused(tmp_path: Path) -> None:
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for path in (tmp_path / "none", tmp_path, tmp_path / "loop", Path("/dev/null")):
        with pytest.raises(ImageError, match="check the path"):
            dicom_shape(path, "x")


def test_every_cut_is_refused_or_harmless(tmp_path: Path) -> None:
    """A file cut anywhere never crashes and never gives other pixels."""
    for raw in (whole(), whole(RLE)):
        for size in range(0, len(raw) - 2, 37):
            (tmp_path / "x").write_bytes(raw[:size])
            with pytest.raises(ImageError):
                read_dicom(tmp_path / "x", "x")


def test_files_of_real_scanners(capfd: pytest.CaptureFixture[str]) -> None:
    """Those that pydicom brings: read or refused; one MR slice in six encodings is the same."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted(folder.glob("*.dcm"))
    read = {}
    for path in files:
        with contextlib.suppress(ImageError):
            read[path.stem] = read_dicom(path, path.stem)
    slices = [image for name, image in read.items() if name.startswith("MR_small") and "padded" not in name]
    assert "MR_truncated" not in read
    assert not any(name.startswith("SC_rgb") for name in read)
    if files:
        assert len(slices) >= 4
        assert slices[0].std() > 1
        assert all(np.array_equal(slices[0], other) for other in slices)
    assert capfd.readouterr() == ("", "")


def test_flipped_header_bytes_never_crash(tmp_path: Path) -> None:
    raw = whole()
    draw = np.random.default_rng(1)
    for _ in range(150):
        changed = bytearray(raw)
        changed[draw.integers(132, 640)] = draw.integers(256)
        (tmp_path / "x").write_bytes(changed)
        with contextlib.suppress(ImageError):
            assert read_dicom(tmp_path / "x", "x").dtype == np.uint8


@pytest.mark.parametrize(
    ("syntax", "package"), [(JPEG, "pillow"), (LOSSLESS, "python-gdcm"), (JPEG_LS, "pyjpegls"), (JPEG_2000, "openjpeg")]
)
def test_a_missing_decoder_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, package: str
) -> None:
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    path = saved(wrapped(jpeg(picture()), syntax), tmp_path / "a")
    with pytest.raises(ImageError, match=f"no decoder of it is installed; run pip install .*{package}"):
        read_dicom(path, "a")


def test_pydicom_itself_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(dataset(picture()), tmp_path / "a")
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(UserError, match=r"pip install 'cxr-vlp-benchmark\[dicom\]'"):
        read_dicom(path, "a")


def test_copyleft_decoders_are_never_needed() -> None:
    for order, package in dicom._PLUGINS.values():
        if "GPL" not in package:  # JPEG of 12 bits alone, which has no other decoder
            assert set(package.split()) <= {"pillow", "pydicom", "pyjpegls", "python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg"}
            assert len(order) > (package not in ("pydicom",))
    assert sum("GPL" in package for _, package in dicom._PLUGINS.values()) == 1
