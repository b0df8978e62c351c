"""Manifests: what was written is what is read, the same records give the same bytes, and an altered file is refused."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.dataset import Dataset
from benchmark.data.manifest import FORMAT, KEY, read_manifest, write_manifest
from benchmark.data.rows import canonical_row, split_digests
from benchmark.data.sources import SOURCES, SourceOptions
from benchmark.errors import UserError
from benchmark.types import SPLITS, Box, Record, Source, digest
from tests.small_sets import SETS, Rows, by_hand

NAN = math.nan


def same(one: Record, other: Record) -> bool:
    """Equal in every field, nan being equal to nan."""
    labels = [tuple(None if value != value else value for value in record.labels) for record in (one, other)]
    return labels[0] == labels[1] and replace(one, labels=()) == replace(other, labels=())


def assert_round_trip(source: Source, path: Path) -> None:
    written = write_manifest(source, path)
    read = read_manifest(path)
    assert read.facts == written
    assert len(read.records) == len(source.records)
    assert all(same(one, other) for one, other in zip(read.records, source.records))


def rows(*records: Record) -> Rows:
    return Rows(root=Path("nowhere"), records=records, classes=("a", "b"))


def record(uid: str = "u", **values: Any) -> Record:
    return Record(**{"uid": uid, "patient": "p", "study": "s", "split": "train", "image": "i.png", **values})


@pytest.mark.parametrize("name", SETS)
def test_a_source_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    assert_round_trip(SETS[name](tmp_path), tmp_path / "manifest.parquet")


def test_the_phantom_comes_back_as_it_was(tmp_path: Path) -> None:
    source = SOURCES.load("phantom")("train=20,val=5,test=5,size=32", SourceOptions())
    assert_round_trip(source, tmp_path / "manifest.parquet")


def test_unknown_stays_unknown_and_empty_stays_empty(tmp_path: Path) -> None:
    source = rows(
        record("none", labels=(NAN, NAN)),
        record("empty", boxes=(), sections={"findings": ""}, labels=()),
        record("full", labels=(1.0, 0.0), boxes=(Box("x", 0.1, 0.2, 1e9, 4.25),), masks={"b": "2", "a": "1"}, age=0.0, sex="F",
               sections={"findings": "ä\n|\0"}, attributes={"z": "", "a": "1"}, view="PA", split="test"),
    )  # fmt: skip
    path = tmp_path / "m.parquet"
    assert_round_trip(source, path)
    none, empty, full = read_manifest(path).records
    assert (none.boxes, empty.boxes) == (None, ())
    assert (none.age, full.age) == (None, 0.0)
    assert [math.isnan(value) for value in none.labels] == [True, True]
    assert empty.labels == ()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_records_hold_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
    number = st.floats(allow_nan=False, allow_infinity=False)
    mapping = st.dictionaries(text, text, max_size=3)
    made = st.builds(
        Record, uid=text, patient=text, study=text, split=st.sampled_from(SPLITS), image=text, view=text, sections=mapping,
        labels=st.lists(st.sampled_from((0.0, 1.0, NAN, 2.0)), max_size=3).map(tuple), masks=mapping, attributes=mapping,
        boxes=st.none() | st.lists(st.builds(Box, text, number, number, number, number), max_size=2).map(tuple),
        age=st.none() | number, sex=text,
    )  # fmt: skip
    source = rows(*data.draw(st.lists(made, max_size=4)))
    assert_round_trip(source, tmp_path_factory.getbasetemp() / "any.parquet")


def test_types_are_those_of_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(by_hand(tmp_path / "set"), path)
    schema = pq.read_schema(path)
    assert schema.names == [item.name for item in fields(Record)]
    assert schema.field("labels").type == pa.list_(pa.float32())
    assert schema.field("sections").type == schema.field("attributes").type == pa.map_(pa.string(), pa.string())
    assert [item.name for item in schema.field("boxes").type.value_type] == [item.name for item in fields(Box)]


def test_the_file_says_what_it_is_and_its_digests_are_those_of_results(tmp_path: Path) -> None:
    source = by_hand(tmp_path / "set")
    facts = write_manifest(source, tmp_path / "m.parquet")
    assert (facts.dataset, facts.version, facts.classes) == (source.name, source.version, source.classes)
    assert (facts.mask_names, facts.box_classes, facts.flags) == (source.mask_names, source.box_classes, source.flags)
    assert facts.format == FORMAT
    assert facts.splits == Dataset(source).splits
    # and those are what they were before rows were encoded one by one
    for split in SPLITS:
        assert facts.splits[split] == digest([canonical_row(item) for item in source.records if item.split == split])
    assert split_digests(()) == dict.fromkeys(SPLITS, digest([]))


def test_the_same_records_give_the_same_bytes_whatever_the_order_of_their_keys(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path, sections in zip(paths, ({"x": "1", "y": "2"}, {"y": "2", "x": "1"})):
        write_manifest(rows(record(sections=sections, attributes=sections)), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


CHANGES: dict[str, Any] = {
    "uid": "v", "patient": "q", "study": "t", "split": "val", "image": "j.png", "view": "AP", "labels": (1.0, 1.0), "boxes": (),
    "sections": {"findings": "Other."}, "masks": {"m": "2"}, "age": 41.0, "sex": "M", "attributes": {"a": "2"},
}  # fmt: skip


def test_each_field_is_under_the_digest(tmp_path: Path) -> None:
    assert set(CHANGES) == {item.name for item in fields(Record)}
    base = record(labels=(1.0, NAN), masks={"m": "1"}, attributes={"a": "1"})
    known = {write_manifest(rows(base), tmp_path / "m").digest}
    for name, value in CHANGES.items():
        known.add(write_manifest(rows(replace(base, **{name: value})), tmp_path / "m").digest)
    known.add(write_manifest(replace(rows(base), version="2"), tmp_path / "m").digest)
    known.add(write_manifest(replace(rows(base), flags=("x",)), tmp_path / "m").digest)
    assert len(known) == len(CHANGES) + 3


def test_a_table_that_was_edited_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(by_hand(tmp_path / "set"), path)
    table = pq.read_table(path)
    sex = pa.array(["M"] * len(table), pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("sex"), table.schema.field("sex"), sex), path)
    with pytest.raises(UserError, match="was altered: its records are not those of its digest"):
        read_manifest(path)


def test_a_table_with_another_column_or_without_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(by_hand(tmp_path / "set"), path)
    table = pq.read_table(path)
    for changed in (table.append_column("more", pa.array(range(len(table)))), table.drop_columns("sex"), table.slice(0, 0)):
        pq.write_table(changed, path)
        with pytest.raises(UserError, match=r"not a manifest that can be read|was altered"):
            read_manifest(path)
    for metadata in (None, {KEY: b"[]"}, {KEY: b"{"}, {KEY: b'{"format": 99}'}):
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(UserError, match="is not a manifest that can be read"):
            read_manifest(path)


def test_no_changed_byte_gives_other_records(tmp_path: Path) -> None:
    source, path = by_hand(tmp_path / "set"), tmp_path / "m.parquet"
    write_manifest(source, path)
    whole = path.read_bytes()
    sentences = []
    for place in range(0, len(whole), max(1, len(whole) // 400)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            read = read_manifest(path)
        except UserError as error:
            sentences.append(str(error))
        else:
            assert all(same(one, other) for one, other in zip(read.records, source.records, strict=True))
    assert len(sentences) > 300
    assert all(len(text.splitlines()) == 1 for text in sentences)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"id,split\n"])
def test_what_is_no_parquet_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.parquet is not a manifest that can be read .*run|write it again"):
        read_manifest(path)


def test_a_cut_file_is_refused_and_a_missing_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with pytest.raises(UserError, match="there is no manifest"):
        read_manifest(path)
    write_manifest(by_hand(tmp_path / "set"), path)
    for share in (0.1, 0.5, 0.99):
        cut = tmp_path / "cut.parquet"
        cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(UserError, match="is not a manifest that can be read"):
            read_manifest(cut)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": (0.3, 1.0)}, "which 32 bits do not hold"),
        ({"age": math.inf}, "a number that is not finite"),
        ({"boxes": (Box("x", NAN, 0, 1, 1),)}, "a number that is not finite"),
        ({"sections": {"findings": "\udc80"}}, "text that is not Unicode"),
    ],
)
def test_what_no_manifest_holds_is_said_and_leaves_the_old_one(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    write_manifest(rows(record()), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        write_manifest(rows(record(**values)), path)
    assert path.read_bytes() == before


def test_labels_of_half_are_held(tmp_path: Path) -> None:
    assert_round_trip(rows(record(labels=(0.5, 1.0))), tmp_path / "m.parquet")


def test_many_row_groups_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.data.manifest.GROUP", 5)
    source = by_hand(tmp_path / "set")
    assert_round_trip(source, tmp_path / "m.parquet")
    with pq.ParquetFile(tmp_path / "m.parquet") as file:
        assert file.num_row_groups == 3
