"""Hostile pickles: nothing that they name is imported or called, and the tensors are kept or the file is refused."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  (to make the files that must do no harm)
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.convert import read
from tests.conftest import Command
from tests.test_convert import STATE, archive_bytes, equal, put, refusal, torch_bytes

# ---------------------------------------------------------------------------------------------- what is hostile


class Payload:
    """Unpickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called

    def __call__(self) -> None:
        """Pickle wants what it calls to be callable."""


def payloads(marker: Path) -> dict[str, Payload]:
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "system": Payload(os.system, f"touch {marker}"),
        "eval": Payload(eval, write),
        "exec": Payload(exec, write),
        "getattr": Payload(getattr, Payload(__import__, "os"), "system"),
        "write": Payload(Path.write_text, marker, "executed"),
        "a call of a call": Payload(Payload(getattr, marker, "touch")),
        "a call in a call": Payload(OrderedDict, [("a", Payload(os.system, f"touch {marker}"))]),
    }


PLACES = {
    "beside": lambda payload: {**STATE, "other": payload},
    "first": lambda payload: {"state_dict": {"first": payload, **STATE}},
    "nested": lambda payload: {"state_dict": STATE, "settings": [{"deep": (1, [payload])}]},
    "twice": lambda payload: {"state_dict": STATE, "one": payload, "two": [payload, payload]},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["system", "eval", "exec", "getattr", "write", "a call of a call", "a call in a call"])
def test_a_payload_is_a_placeholder_and_the_tensors_are_kept(tmp_path: Path, kind: str, place: str, legacy: bool) -> None:
    marker = tmp_path / "marker"
    data = torch_bytes(PLACES[place](payloads(marker)[kind]), legacy)
    found = read(put(tmp_path / "evil.pt", data))
    assert not marker.exists()
    assert equal(found.state, STATE)
    assert found.placeholders


def test_the_payloads_work_where_somebody_unpickles_them(tmp_path: Path) -> None:
    for index, (kind, payload) in enumerate(payloads(tmp_path / "marker").items()):
        marker = tmp_path / "marker"
        pickle.loads(pickle.dumps(payload))
        assert marker.exists() or kind == "getattr", index
        marker.unlink(missing_ok=True)


HEARD: list[str] = []
LISTENING: list[bool] = []
ACTIONS = ("import", "exec", "compile", "os.", "subprocess.", "pickle.", "ctypes.", "socket.", "shutil.", "code.", "object.")


def listen(event: str, arguments: tuple[object, ...]) -> None:
    if LISTENING and event.startswith(ACTIONS):
        HEARD.append(f"{event} {arguments!r}")


def test_python_itself_hears_of_no_import_and_no_call(tmp_path: Path) -> None:
    value = {**STATE, "all": list(payloads(tmp_path / "marker").values()), "unknown": [1]}
    paths = [put(tmp_path / f"{legacy}.pt", torch_bytes(value, legacy)) for legacy in (False, True)]
    read(paths[0])
    sys.addaudithook(listen)  # cannot be taken away, and hears nothing once the list is empty
    LISTENING.append(True)
    try:
        for path in paths:
            assert equal(read(path).state, STATE)
        assert HEARD == []
        pickle.loads(pickle.dumps(payloads(tmp_path / "marker")["write"]))
        assert any(item.startswith("pickle.find_class") for item in HEARD)
    finally:
        LISTENING.clear()


def raw(marker: Path) -> dict[str, bytes]:
    """Pickles that no program writes."""
    call = b"cposix\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR"
    storage = b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI12\ntQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    end = b"I00\nccollections\nOrderedDict\n)RtR"
    return {
        "alone": call + b".",
        "inst": b"(S'touch " + str(marker).encode() + b"'\niposix\nsystem\n.",
        "obj": b"(cposix\nsystem\nS'touch " + str(marker).encode() + b"'\no.",
        "state": b"(dS'w'\nI1\ns" + call + b"b.",
        "key": b"(d" + call + b"I1\ns.",
        "storage": b"(dS'w'\n" + tensor + b"(" + call + b"I0\n(I3\nt(I1\nt" + end + b"s.",
        "size": b"(dS'w'\n" + tensor + storage + b"I0\n(" + call + b"t(I1\nt" + end + b"s.",
        "kind of storage": b"(dS'w'\n"
        + tensor
        + b"((S'storage'\n"
        + call
        + b"S'0'\nS'cpu'\nI12\ntQI0\n(I3\nt(I1\nt"
        + end
        + b"s.",
        "persistent id": call + b"Q.",
        "text id": b"Pcposix\n.",
        "extension": b"\x82\x01.",
        "buffer": b"\x80\x05\x97.",
        "dotted": b"\x80\x04\x8c\x0ctorch._utils\x8c\x26_rebuild_tensor_v2.__globals__.__getitem__\x93.",
        "subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\nI1\n(S'touch "
        + str(marker).encode()
        + b"'\ntNtR.",
    }


@pytest.mark.parametrize("name", [
    "alone", "inst", "obj", "state", "key", "storage", "size", "kind of storage", "persistent id", "text id", "extension",
    "buffer", "dotted", "subclass",
])  # fmt: skip
def test_a_pickle_written_by_hand_runs_nothing(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    pickled = raw(marker)[name]
    for data in (archive_bytes(pickled), pickled, torch_bytes(STATE, legacy=True)[:100] + pickled):
        refusal(put(tmp_path / "evil.pt", data))
        assert not marker.exists()


def sketch(size: str, stride: str, offset: str = "I0\n", count: str = "I12\n") -> bytes:
    """{"w": a tensor} over 12 values of float32, in protocol 0."""
    return (
        f"(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\n{count}tQ"
        f"{offset}({size}t({stride}tI00\nccollections\nOrderedDict\n)RtRs."
    ).encode()


def test_the_sketch_of_these_tests_is_a_tensor(tmp_path: Path) -> None:
    storage = torch.arange(12.0).numpy().tobytes()
    found = read(put(tmp_path / "a.pt", archive_bytes(sketch("I3\nI2\n", "I2\nI1\n", "I4\n"), storage)))
    assert equal(found.state, {"w": torch.arange(4.0, 10.0).reshape(3, 2)})


DOUBLED = b"".join(b"}q%c(U\x01ah%cU\x01bh%cu" % (i + 1, i, i) for i in range(60))  # each holds the one before it twice
SIZES = {
    "blown up": sketch("I1000000000\nI1000\n", "I0\nI0\n"),
    "beyond": sketch("I13\n", "I1\n"),
    "behind": sketch("I3\n", "I1\n", "I10\n"),
    "a long step": sketch("I2\n", "I12\n"),
    "negative": sketch("I-3\n", "I1\n"),
    "a negative offset": sketch("I3\n", "I1\n", "I-1\n"),
    "a step back": sketch("I3\n", "I-1\n", "I9\n"),
    "out of all bounds": sketch("L99999999999999999999999999L\n", "I0\n"),
    "a storage beyond the file": sketch("I100\n", "I1\n", count="I1000000000000\n"),
    "many axes": sketch("I1\n" * 100_000, "I1\n" * 100_000),
    "another number of axes": sketch("I3\nI3\n", "I1\n"),
    "a text": sketch("S'3'\n", "I1\n"),
    "a long text": b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"a.",
    "a long number": b"\x80\x04\x8b" + ((1 << 31) - 1).to_bytes(4, "little") + b"a.",
    "many digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a far place in the memo": b"\x80\x02}r\xff\xff\xff\xff0.",
    "deep lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "deep tuples as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "deep dicts": b"\x80\x02" + b"}U\x01a" * 100_000 + b"K\x01" + b"s" * 100_000 + b".",
    "a dict in itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "doubled dicts": b"\x80\x02}q\x00" + DOUBLED + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_huge_and_wrong_sizes_are_refused_at_once(tmp_path: Path, name: str) -> None:
    refusal(put(tmp_path / "evil.pt", archive_bytes(SIZES[name])))


def test_one_storage_under_many_names_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    shared = torch.ones(100_000)
    put(tmp_path / "a.pt", torch_bytes({f"w{index}": shared for index in range(20)}))
    assert "larger tensors than it stores values for" in refusal(tmp_path / "a.pt")


def test_an_archive_that_would_unpack_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", sketch("I3\n", "I1\n"))
        archive.writestr("a/data/0", bytes(20_000_000))
    assert "is damaged" in refusal(tmp_path / "bomb.pt")


def test_names_from_the_file_cannot_write_to_the_terminal(command: Command, tmp_path: Path) -> None:
    hostile = b"S'\x1b[2J'\nI1\nsS'x'\ncbuiltins\nget\x1b[2J\n)Rs."
    data = archive_bytes(sketch("I3\n", "I1\n")[:-1] + hostile)
    put(tmp_path / "a.pt", data)
    assert command("convert", str(tmp_path / "a.pt"), str(tmp_path / "a.safetensors")) == 0, command.error
    assert "\x1b" not in command.output
    assert "get\\x1b[2J" in command.output
