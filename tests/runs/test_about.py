"""What a person writes about a run is kept apart from run.json, survives, and is never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relight.errors import RelightError, RunNotFound, UsageError
from relight.overview.summary import summarize_run
from relight.runs.about import MOST_TAGS, NOTE_CHARACTERS, About, change_about, read_about
from relight.runs.catalog import find_run
from relight.runs.record_file import encode_record, read_record
from relight.runs.records import RunRecord
from relight.runs.run_record import read_run_record
from tests.runs.conftest import acting_as_nobody
from tests.runs.run_builder import RunBuilder


def test_a_run_that_nobody_described_has_no_file(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    assert read_about(layout) == (About(), None)
    assert not layout.about.exists()
    assert change_about(layout, archived=False) == About()
    assert not layout.about.exists()


def test_a_rename_is_followed_everywhere_but_the_id_and_run_json_stay(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path, name="my first").finished().layout
    before = layout.record.read_bytes()
    assert change_about(layout, name="  the\n second ").name == "the second"
    assert read_run_record(layout).name == summarize_run(layout).name == "the second"
    assert find_run(tmp_path, "the second") == find_run(tmp_path, layout.run_id) == layout
    with pytest.raises(RunNotFound):
        find_run(tmp_path, "my first")
    assert layout.record.read_bytes() == before
    assert read_record(layout.record, RunRecord).name == "my first"


def test_what_is_not_given_stays(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).layout
    change_about(layout, note="see\tfigure 2\r\n\x1b[31mred  \n\n", add_tags=["vision", "Baseline"], starred=True)
    about = change_about(layout, add_tags=["VISION", "b"], remove_tags=["baseline", "unknown"], archived=True)
    assert about == About(note="see    figure 2\n[31mred", tags=("b", "vision"), starred=True, archived=True)
    assert read_about(layout).about == about
    summary = summarize_run(layout, traceback=False)
    assert (summary.note, summary.tags, summary.starred, summary.archived) == (about.note, about.tags, True, True)
    assert change_about(layout, note="", starred=False, archived=False) == About(tags=("b", "vision"))


@pytest.mark.parametrize("tag", ["", " ", "-x", "two words", "a,b", "a:b", "a<1", 'a"', "x" * 51, "a\x00b"])
def test_a_tag_that_a_search_could_not_find_is_refused(tmp_path: Path, tag: str) -> None:
    layout = RunBuilder.create(tmp_path).layout
    with pytest.raises(UsageError, match="tag"):
        change_about(layout, add_tags=["good", tag])
    assert not layout.about.exists()


def test_names_notes_and_tags_have_limits(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).layout
    with pytest.raises(UsageError, match="empty"):
        change_about(layout, name=" \n")
    with pytest.raises(UsageError, match="200"):
        change_about(layout, name="x" * 201)
    with pytest.raises(UsageError, match="20,000"):
        change_about(layout, note="x" * (NOTE_CHARACTERS + 1))
    with pytest.raises(UsageError, match=f"at most {MOST_TAGS}"):
        change_about(layout, add_tags=[f"t{number}" for number in range(MOST_TAGS + 1)])


def test_unknown_fields_are_ignored_and_a_later_version_is_never_replaced(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).layout
    layout.about.write_text(json.dumps({"version": 1, "tags": ["a"], "mood": "good"}))
    assert read_about(layout).about == About(tags=("a",))
    later = json.dumps({"version": 2, "tags": {"a": 1}})
    layout.about.write_text(later)
    assert "later version" in (read_about(layout).damage or "")
    with pytest.raises(RelightError, match="Update Relight"):
        change_about(layout, starred=True)
    assert layout.about.read_text() == later


@pytest.mark.parametrize("damage", [b"", b"{", encode_record(About(note="x")).replace(b'"x"', b'"y"')])
def test_a_damaged_file_is_said_counts_as_missing_and_is_kept(tmp_path: Path, damage: bytes) -> None:
    layout = RunBuilder.create(tmp_path, name="first").finished().layout
    layout.about.write_bytes(damage)
    summary = summarize_run(layout)
    assert (summary.name, summary.note) == ("first", "")
    assert [note for note in summary.notes if "about.json" in note and "damaged" in note]
    assert find_run(tmp_path, "first") == layout
    assert change_about(layout, starred=True) == About(starred=True)
    assert summarize_run(layout).notes == ()
    assert layout.damaged_about.read_bytes() == damage


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path / "runs").layout
    other = tmp_path / "other.json"
    other.write_bytes(encode_record(About(note="secret")))
    layout.about.symlink_to(other)
    assert read_about(layout).about == About()
    change_about(layout, note="mine")
    assert read_about(layout).about.note == "mine"
    assert b"secret" in other.read_bytes()


def test_changes_at_the_same_moment_all_count(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).layout
    code = (
        "import sys; from pathlib import Path; from relight.runs.layout import RunLayout\n"
        "from relight.runs.about import change_about\n"
        "for n in range(10): change_about(RunLayout(Path(sys.argv[1])), add_tags=[f'p{n}'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(layout.folder)])
    threads = [
        threading.Thread(target=lambda i=i: [change_about(layout, add_tags=[f"t{i}-{n}"]) for n in range(10)])  # type: ignore[misc]
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait() == 0
    assert len(read_about(layout).about.tags) == 40


def test_a_run_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).layout
    layout.folder.rename(tmp_path / "moved")
    with pytest.raises(RelightError, match="could not be changed"):
        change_about(layout, starred=True)
    assert not layout.folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_folder_that_cannot_be_written_is_one_sentence(open_folder: Path) -> None:
    layout = RunBuilder.create(open_folder).layout
    with acting_as_nobody(), pytest.raises(RelightError, match="Check that you can write"):
        change_about(layout, starred=True)
