"""Files and folders that are whole or not there, whatever interrupts their writing."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shapkit import Attribution, CoalitionCache, Game, exact, table_game
from shapkit._files import completed, user_path, whole_file, whole_folder

OWN = {"index.json", "weights.bin", "part/a.txt", "part/b.txt", "other/c.txt"}


def is_own(name):
    return name in OWN


def save(folder, **files):
    """Files by name, "_" for "/" and without the suffix."""
    with whole_folder(folder, "index.json", is_own) as target:
        for name, text in files.items():
            (target / name.replace("_", "/")).parent.mkdir(exist_ok=True)
            (target / name.replace("_", "/")).with_suffix(suffix(name)).write_text(text)


def suffix(name):
    return {"index": ".json", "weights": ".bin"}.get(name, ".txt")


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


OLD = {"index": "old", "weights": "old", "part_a": "old", "other_c": "old"}
NEW = {"index": "new", "weights": "new", "part_a": "new", "part_b": "new"}
OLD_FILES = {"index.json": "old", "weights.bin": "old", "part/a.txt": "old", "other/c.txt": "old"}
NEW_FILES = {"index.json": "new", "weights.bin": "new", "part/a.txt": "new", "part/b.txt": "new"}


def test_a_folder_is_made_filled_and_replaced_with_nothing_left_over(tmp_path):
    folder = tmp_path / "a" / "b"
    save(folder, **OLD)
    assert content(folder) == OLD_FILES
    save(folder, **NEW)
    assert content(folder) == NEW_FILES
    assert not (folder / "other").exists(), "a folder of stale files alone goes with them"
    assert sorted(p.name for p in tmp_path.rglob(".*")) == []


@pytest.mark.parametrize("before", [None, "empty", "old"])
def test_an_error_leaves_the_folder_as_it_was(before, tmp_path):
    folder = tmp_path / "model"
    if before == "empty":
        folder.mkdir()
    elif before == "old":
        save(folder, **OLD)
    with pytest.raises(OSError, match="disk"), whole_folder(folder, "index.json", is_own) as target:
        (target / "index.json").write_text("new")
        raise OSError("disk")
    assert content(folder) == (OLD_FILES if before == "old" else {})
    save(folder, **NEW)
    assert content(folder) == NEW_FILES


@pytest.mark.parametrize("thing", ["thesis.txt", "part/notes.txt", ".git/config", "part/deeper/a.txt", "empty/"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_folder_with_anything_else_is_refused_and_left_alone(thing, saved, tmp_path):
    if saved:
        save(tmp_path, **OLD)
    if thing.endswith("/"):
        (tmp_path / thing).mkdir()
    else:
        (tmp_path / thing).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / thing).write_text("three years")
    before = content(tmp_path)
    named = thing.rstrip("/")
    with pytest.raises(ValueError, match=rf"holds {named}, which an earlier save did not write: choose another folder"):
        save(tmp_path, **NEW)
    assert content(tmp_path) == before and (tmp_path / thing).exists()


@pytest.mark.parametrize("name", sorted(OWN - {"index.json"}))
def test_a_file_with_a_name_of_ours_is_a_strangers_where_there_is_no_index(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a stranger's")
    with pytest.raises(ValueError, match=f"holds {name}, which an earlier save did not write"):
        save(tmp_path, **NEW)
    assert (tmp_path / name).read_text() == "a stranger's"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(ValueError, match="model is a file: choose a folder to save in"):
        save(tmp_path / "model", **NEW)


def test_the_working_directory_a_link_and_a_home_are_folders_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(".", **OLD)
    save(".", **NEW)
    assert content(tmp_path) == NEW_FILES and Path.cwd() == tmp_path and Path("index.json").is_file()
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(tmp_path / "elsewhere" / "real")
    (tmp_path / "elsewhere" / "real").mkdir()
    save(link, **OLD)
    assert link.is_symlink() and content(tmp_path / "elsewhere" / "real") == OLD_FILES
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    save("~/mine/", **OLD)
    assert content(tmp_path / "elsewhere" / "mine") == OLD_FILES


class Killed(BaseException):
    """As the process is: nothing after it is done."""


@pytest.mark.parametrize("n_moves", range(8))
def test_moves_that_were_interrupted_are_finished(n_moves, tmp_path, monkeypatch):
    """Killed after each of the steps that change the folder, once more while that is mended, and then mended."""
    save(tmp_path, **OLD)
    changes = []

    def counted(change, *arguments, **options):
        if len(changes) == n_moves:
            raise Killed
        changes.append(arguments)
        return change(*arguments, **options)

    replace, unlink = Path.replace, Path.unlink
    with monkeypatch.context() as patch, pytest.raises(Killed):
        with whole_folder(tmp_path, "index.json", is_own) as target:
            for name, text in NEW.items():
                (target / name.replace("_", "/")).parent.mkdir(exist_ok=True)
                (target / name.replace("_", "/")).with_suffix(suffix(name)).write_text(text)
            patch.setattr("shapkit._files.whole_file", unpatched(patch, replace, unlink, counted))
        raise Killed  # the last steps came to their end
    for mend in (lambda: completed(tmp_path, "index.json"), lambda: save(tmp_path, **OLD)):
        mend()
        assert content(tmp_path) in (NEW_FILES, OLD_FILES)
        assert not (tmp_path / ".saving").exists()


def unpatched(patch, replace, unlink, counted):
    """`whole_file` for the journal, after which every move and removal is counted."""

    def journal_then_count(path):
        context = whole_file(path)

        class Journal:
            def __enter__(self):
                return context.__enter__()

            def __exit__(self, *error):
                context.__exit__(*error)
                patch.setattr(Path, "replace", lambda self, to: counted(replace, self, to))
                patch.setattr(
                    Path, "unlink", lambda self, missing_ok=False: counted(unlink, self, missing_ok=missing_ok)
                )

        return Journal()

    return journal_then_count


def test_what_was_not_complete_is_swept_away_and_changes_nothing(tmp_path):
    save(tmp_path, **OLD)
    (tmp_path / ".saving" / "part").mkdir(parents=True)
    (tmp_path / ".saving" / "part" / "a.txt").write_text("half")
    completed(tmp_path, "index.json")
    assert (tmp_path / "part" / "a.txt").read_text() == "old"
    save(tmp_path, **NEW)
    assert content(tmp_path) == NEW_FILES


def test_two_threads_save_one_after_the_other(tmp_path):
    threads = [threading.Thread(target=save, args=(tmp_path,), kwargs=files) for files in [OLD, NEW] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert content(tmp_path) in (OLD_FILES, NEW_FILES)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "seven.txt"
    with whole_file(path) as partial:
        partial.write_text("7")
        assert not path.exists()
    with pytest.raises(Killed), whole_file(path) as partial:
        partial.write_text("8")
        raise Killed
    assert content(tmp_path) == {"seven.txt": "7"}


def test_what_killed_processes_left_is_swept_away_and_nothing_else(tmp_path):
    path = tmp_path / "seven.txt"
    script = (
        "import os, signal, sys\n"
        "from shapkit._files import whole_file\n"
        "with whole_file(sys.argv[1]) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    other, mine = tmp_path / left.name.replace("seven", "eight"), tmp_path / ".seven.txt.partial"
    alive = tmp_path / left.name.replace(f"-{left.name.split('-')[1]}-", f"-{os.getpid()}-")
    for kept in (other, mine, alive):
        kept.touch()
    with whole_file(path) as partial:
        partial.write_text("7")
    assert set(tmp_path.iterdir()) == {path, other, mine, alive}


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    phi = exact(table_game([0.0, 1.0, 2.0, 5.0]))
    phi.save("~/phi.npz")
    assert (tmp_path / "phi.npz").is_file()
    assert Attribution.load("~/phi.npz").values.tolist() == [2.0, 3.0]
    with CoalitionCache("~/payoffs.sqlite") as cache:
        exact(Game(lambda coalitions: coalitions.sum(axis=1), 2, cache=cache))
    assert (tmp_path / "payoffs.sqlite").is_file()
    with pytest.raises(ValueError, match="names a home folder that is not known"):
        user_path("~nobody-of-this-name/phi.npz")
