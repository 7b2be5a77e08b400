"""Files of records that were set aside: records are taken out of them, and none that is appended meanwhile is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from router.spool import Record, aside, frame, frames

A, B, C = ((b"R", name.encode() * 9) for name in "abc")


def records(path: Path) -> list[Record]:
    found, end = frames(path.read_bytes())
    assert end == path.stat().st_size
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "1-a.journal.refused"


def test_records_are_appended_and_taken_out(path: Path) -> None:
    aside.append(path, [A, B])
    aside.append(path, [C, A])
    assert records(path) == [A, B, C, A]
    assert path.stat().st_mode & 0o777 == 0o600
    assert aside.take_out(path, lambda record: record == A) == 2
    assert records(path) == [B, C]
    assert aside.take_out(path, lambda record: record == A) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_nothing_is_left_of_goes(path: Path) -> None:
    aside.append(path, [A, A])
    assert aside.take_out(path, lambda record: True) == 2
    assert not path.exists()
    assert aside.take_out(path, lambda record: True) == 0


def test_what_is_no_record_stays_as_it_is(path: Path) -> None:
    path.write_bytes(frame(*A) + b"torn" + frame(*B) + frame(*A) + frame(*C)[:-1])
    assert [found for found, _ in aside.pieces(path.read_bytes())] == [A, None, B, A, None]
    assert aside.take_out(path, lambda record: record == A) == 2
    assert path.read_bytes() == b"torn" + frame(*B) + frame(*C)[:-1]


def test_what_is_left_belongs_to_whom_it_did(path: Path) -> None:
    aside.append(path, [A, B])
    os.chown(path, 65_534, 65_534)
    aside.take_out(path, lambda record: record == A)
    assert (path.stat().st_uid, path.stat().st_gid) == (65_534, 65_534)


@pytest.mark.parametrize("gone", [False, True], ids=["replaced", "removed"])
def test_an_append_goes_to_the_file_that_took_the_place_of_the_one_it_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """As if records had been taken out between its opening the file and its holding the lock."""
    aside.append(path, [A] if gone else [A, B])
    real, calls = aside.fcntl.flock, iter(range(9))

    def late(*arguments: Any) -> None:
        if next(calls) == 0:
            aside.take_out(path, lambda record: record == A)
        real(*arguments)

    monkeypatch.setattr(aside.fcntl, "flock", late)
    aside.append(path, [C])
    assert records(path) == ([C] if gone else [B, C])
