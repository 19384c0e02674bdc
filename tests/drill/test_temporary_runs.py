"""What a killed drill leaves behind is removed by the next one."""

from __future__ import annotations

from pathlib import Path

from relight.drill.temporary_runs import make_temporary_runs, remove_leftovers
from relight.runs.record_file import write_record
from relight.runs.records import ProcessIdentity


def test_leftovers_of_a_dead_drill_are_removed_but_not_those_of_a_living_or_kept_one(tmp_path: Path) -> None:
    dead = tmp_path / ".drill-dead"
    (dead / "killed-abcd" / "attempts").mkdir(parents=True)
    write_record(dead / ".owner.json", ProcessIdentity(pid=1, start_ticks=-1.0, boot_id="of another day"))
    kept = tmp_path / ".drill-kept"
    kept.mkdir()
    with make_temporary_runs(tmp_path) as living:
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([kept, living])
    assert list(tmp_path.iterdir()) == [kept]
