"""`checkpoints`, `digest`, `pin`, `prune`, `verify` and `export`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file

from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock

if TYPE_CHECKING:
    from tests.cli.conftest import Ask, RunMaker

KEYS = {"step", "epoch", "sequence", "reason", "labels", "metrics", "bytes", "time", "verified", "path"}


def _read_tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the bytes and the modification time of every file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def _spoil_pack(layout: RunLayout, index: int = 0) -> Path:
    """Flip one bit in the last byte of a pack, which belongs to a tensor."""
    pack = sorted(layout.checkpoints.glob("packs/*.safetensors"))[index]
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    return pack


def test_checkpoints_json_has_the_keys_of_the_contract_oldest_first(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    listed = ask("checkpoints", layout.run_id, "--json").json
    assert [entry["step"] for entry in listed] == [10, 20]
    assert all(entry.keys() >= KEYS for entry in listed)
    assert [entry["labels"] for entry in listed] == [[], ["best"]]
    assert listed[1]["metrics"] == {"validation/accuracy": 0.95}
    assert Path(listed[1]["path"]).is_file()


def test_the_table_of_checkpoints_names_the_metric_that_best_means(ask: Ask, make_run: RunMaker) -> None:
    head, first, second = ask("checkpoints", make_run().run_id).stdout.splitlines()
    assert head.split()[:5] == ["STEP", "EPOCH", "REASON", "LABELS", "VALIDATION/ACCURACY"]
    assert first.split()[:5] == ["10", "1", "periodic", "-", "0.9"]
    assert second.split()[:5] == ["20", "2", "periodic", "best", "0.95"]


def test_a_preview_says_what_is_kept_and_why_and_changes_nothing(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    store = CheckpointStore(layout.checkpoints)
    for info in store.list().checkpoints:
        store.mark_verified(info)
    make_run.commit(layout, step=30, score=0.5)
    store.mark_verified(store.find(30))
    before = _read_tree(layout.folder)
    text = ask("checkpoints", layout.run_id, "--preview").stdout
    assert re.search(r"^ *10 .* delete +no rule keeps it$", text, flags=re.MULTILINE)
    assert re.search(r"^ *20 .* keep +among the newest, best$", text, flags=re.MULTILINE)
    assert text.splitlines()[-1].startswith("1 checkpoint would be deleted, ")
    plan = ask("checkpoints", layout.run_id, "--preview", "--json").json
    assert list(plan) == ["kept", "removed", "reclaimed_bytes", "policy"]
    assert [(entry["step"], entry["why"]) for entry in plan["kept"]] == [
        (20, ["among the newest", "best"]),
        (30, ["among the newest"]),
    ]
    assert [entry["step"] for entry in plan["removed"]] == [10]
    assert plan["reclaimed_bytes"] == 0, "the others share its pack"
    assert plan["policy"]["newest"] == 2
    other = ask("checkpoints", layout.run_id, "--preview", "--json", "--set", "keep_every_steps=10").json
    assert other["removed"] == []
    assert _read_tree(layout.folder) == before
    assert ask("checkpoints", layout.run_id, "--set", "keep_latest=5").exit_code == 2


def test_an_export_has_the_format_of_its_extension(ask: Ask, make_run: RunMaker, tmp_path: Path) -> None:
    layout = make_run()
    for name, form in (("a.pth", "pth"), ("b.pt", "pth"), ("c.safetensors", "safetensors"), ("d.bin", "safetensors")):
        said = ask("export", layout.run_id, "--out", str(tmp_path / name), "--json")
        assert (said.exit_code, said.json["format"]) == (0, form)
    said = ask("export", layout.run_id, "--out", str(tmp_path / "x.pth"), "--format", "safetensors")
    assert said.exit_code == 2
    assert "Omit --format" in said.error
    assert not (tmp_path / "x.pth").exists()


def test_prune_deletes_what_the_preview_said_but_never_during_a_training(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    make_run.commit(layout, step=30, score=0.5)
    store = CheckpointStore(layout.checkpoints)
    for info in store.list().checkpoints:
        store.mark_verified(info)
    with RunLock.acquire(layout):
        assert "Stop it first" in ask("prune", layout.run_id).error
    kept = ask("prune", layout.run_id, "--set", "keep_latest=3").stdout
    assert kept == f"Nothing to delete: retention keeps all checkpoints of {layout.run_id} (3).\n"
    removed = ask("prune", layout.run_id, "--json").json
    assert [entry["step"] for entry in removed["removed"]] == [10]
    assert [info.step for info in store.list().checkpoints] == [20, 30]
    assert ask("verify", layout.run_id).exit_code == 0


def test_a_run_without_checkpoints_says_so(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=5)
    assert ask("checkpoints", layout.run_id).stdout == f"{layout.run_id} has no checkpoints yet.\n"
    assert ask("checkpoints", layout.run_id, "--json").json == []
    answer = ask("digest", layout.run_id)
    assert answer.exit_code == 2
    assert "no checkpoint" in answer.error


def test_equal_states_have_equal_digests_and_others_do_not(ask: Ask, make_run: RunMaker) -> None:
    one, two = make_run("one"), make_run("two")
    digests = [ask("digest", layout.run_id, "--json").json for layout in (one, two)]
    assert digests[0]["digest"] == digests[1]["digest"]
    assert digests[0]["step"] == 20
    assert ask("digest", one.run_id, "--which", "10").stdout.strip() not in ("", digests[0]["digest"])
    make_run.commit(two, step=20, value=8)
    assert ask("digest", two.run_id).stdout.strip() != digests[0]["digest"]


def test_best_and_latest_can_be_named(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    make_run.commit(layout, step=30, score=0.5)
    assert ask("digest", layout.run_id, "--which", "best", "--json").json["step"] == 20
    assert ask("digest", layout.run_id, "--which", "latest", "--json").json["step"] == 30


def test_a_damaged_newest_checkpoint_is_named_when_an_older_one_answers(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    newest = max(layout.checkpoints.glob("manifests/*.json"))
    newest.write_bytes(newest.read_bytes()[:-20])
    answer = ask("digest", layout.run_id, "--json")
    assert answer.json["step"] == 10
    assert str(newest) in answer.error
    assert "was skipped" in answer.error


def test_a_step_without_a_checkpoint_is_wrong_usage_and_says_which_exist(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    for arguments in (("digest", layout.run_id, "--which", "11"), ("pin", layout.run_id, "11")):
        answer = ask(*arguments)
        assert answer.exit_code == 2
        assert "10, 20" in answer.error


def test_a_pin_stays_until_it_is_removed(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    assert ask("pin", layout.run_id, "10").exit_code == 0
    assert "pinned" in ask("checkpoints", layout.run_id, "--json").json[0]["labels"]
    assert ask("pin", layout.run_id, "10", "--off", "--json").json["labels"] == []
    assert ask("checkpoints", layout.run_id, "--json").json[0]["labels"] == []


def test_verify_of_an_intact_run_says_so_and_changes_nothing(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    before = _read_tree(layout.folder)
    answer = ask("verify", layout.run_id)
    assert answer.exit_code == 0
    assert answer.stdout.startswith(f"{layout.run_id} is intact: read 2 checkpoints")
    assert _read_tree(layout.folder) == before


def test_verify_counts_a_file_once_however_many_of_its_tensors_are_damaged(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    pack = _spoil_pack(layout)
    data = bytearray(pack.read_bytes())
    for tensor in load_file(pack).values():
        place = data.index(tensor.tobytes(), 4096)
        data[place] ^= 1
    pack.write_bytes(data)
    answer = ask("verify", layout.run_id)
    assert len([line for line in answer.stdout.splitlines() if line.startswith("damaged: ")]) == 2
    assert "has 1 damaged file." in answer.error


def test_verify_lists_each_damaged_file_and_changes_nothing(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    pack = _spoil_pack(layout)
    layout.attempt(1).exit.write_text('{"version": 1, "att')
    before = _read_tree(layout.folder)
    answer = ask("verify", layout.run_id)
    assert answer.exit_code == 1
    damaged = [line for line in answer.stdout.splitlines() if line.startswith("damaged: ")]
    assert len(damaged) == 2
    assert any(str(layout.attempt(1).exit) in line for line in damaged)
    assert any(str(pack) in line for line in damaged)
    assert "2 damaged files" in answer.error
    assert _read_tree(layout.folder) == before
    report = ask("verify", layout.run_id, "--json")
    assert report.exit_code == 1
    assert {entry["path"] for entry in report.json["damaged"]} == {str(pack), str(layout.attempt(1).exit)}


@pytest.mark.parametrize("damage", ["manifest", "pack gone", "run.json", "metrics"])
def test_verify_finds_damage_wherever_it_is(ask: Ask, make_run: RunMaker, damage: str) -> None:
    layout = make_run()
    if damage == "manifest":
        path = min(layout.checkpoints.glob("manifests/*.json"))
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "pack gone":
        max(layout.checkpoints.glob("packs/*")).unlink()
    elif damage == "run.json":
        layout.record.write_text("")
    else:
        next(layout.metrics.iterdir()).write_bytes(b"rubbish\n")
    answer = ask("verify", layout.run_id)
    assert answer.exit_code == 1
    assert len(answer.stdout.splitlines()) == 1
    assert len(answer.stderr.splitlines()) == 1


def test_a_damaged_checkpoint_is_listed_after_the_good_ones(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    manifest = min(layout.checkpoints.glob("manifests/*.json"))
    manifest.write_bytes(b"")
    answer = ask("checkpoints", layout.run_id)
    assert answer.exit_code == 0
    assert len(answer.stdout.splitlines()) == 2
    assert str(manifest) in answer.error


def test_export_prints_path_digest_and_format_and_writes_what_it_says(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    answer = ask("export", layout.run_id)
    assert answer.exit_code == 0
    path, sha256, what = answer.stdout.splitlines()
    assert Path(path).parent == layout.exports
    assert sha256 == f"SHA-256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    assert what.startswith("safetensors, ")
    assert f"step 20 of {layout.run_id}" in what
    weights = load_file(path)
    assert weights.keys() == {"weight"}
    assert weights["weight"].tobytes() == bytes([7]) * 16
    assert ask("checkpoints", layout.run_id, "--json").json[1]["labels"] == ["best", "exported"]


def test_the_best_weights_have_one_path_and_others_are_named_after_their_step(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run()
    assert ask("export", layout.run_id, "--json").json["path"] == str(layout.exports / "best_model.safetensors")
    make_run.commit(layout, step=30, score=0.99, value=9)
    facts = ask("export", layout.run_id, "--json").json
    assert (facts["path"], facts["step"]) == (str(layout.exports / "best_model.safetensors"), 30)
    assert load_file(facts["path"])["weight"].tobytes() == bytes([9]) * 16
    latest = ask("export", layout.run_id, "--which", "20", "--json").json
    assert Path(latest["path"]).name == f"{layout.run_id}-step20.safetensors"


def test_export_goes_where_it_is_told(ask: Ask, make_run: RunMaker, tmp_path: Path) -> None:
    layout = make_run()
    out = tmp_path / "my weights.safetensors"
    facts = ask("export", layout.run_id, "--which", "10", "--out", str(out), "--json").json
    assert facts["path"] == str(out)
    assert (facts["run"], facts["step"], facts["format"]) == (layout.run_id, 10, "safetensors")
    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert facts["bytes"] == out.stat().st_size
    assert Path(facts["card"]).is_file()


def test_export_of_a_damaged_checkpoint_is_one_line_and_leaves_nothing(
    ask: Ask, make_run: RunMaker, tmp_path: Path
) -> None:
    layout = make_run()
    pack = min(layout.checkpoints.glob("packs/*"))
    data = pack.read_bytes()
    pack.write_bytes(data.replace(bytes([7]) * 16, bytes([7]) * 15 + b"x"))
    answer = ask("export", layout.run_id, "--out", str(tmp_path / "out.safetensors"))
    assert answer.exit_code == 1
    assert "digest" in answer.error
    assert not list(tmp_path.glob("*out.safetensors*"))


def test_an_unknown_format_is_wrong_usage(ask: Ask, make_run: RunMaker) -> None:
    answer = ask("export", make_run().run_id, "--format", "pkl")
    assert answer.exit_code == 2
    assert "safetensors" in answer.error
