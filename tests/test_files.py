"""Output is there whole or not at all; mistakes are one line."""

import csv
import errno
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdfl_jax.errors import InputError, one_line, valid
from sdfl_jax.files import new_folder, plain_cell, replacing, write_csv, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "a" / "figures.json"
    write_json(path, {"auc": 0.5})
    before = path.read_text()
    with pytest.raises(ValueError):
        write_json(path, {"auc": float("nan")})
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["figures.json"]


def test_csv_leaves_a_cell_empty_for_none(tmp_path):
    write_csv(tmp_path / "x.csv", [{"a": None, "b": "1,2", "c": 3}], ["a", "b"])
    assert (tmp_path / "x.csv").read_text() == 'a,b\n,"1,2"\n'


def test_a_folder_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "report"
    with pytest.raises(RuntimeError), new_folder(out, made_by="m.json") as folder:
        (folder / "m.json").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):  # an older report is replaced
        with new_folder(out, made_by="m.json") as folder:
            (folder / "m.json").write_text(text)
        assert (out / "m.json").read_text() == text
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_of_others_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        with new_folder(tmp_path, made_by="m.json"):
            pass
    with pytest.raises(InputError, match="holds something else"):
        with new_folder(tmp_path / "thesis.tex", made_by="m.json"):
            pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("no such list."), "Error: no such list."),
        (OSError(errno.ENOSPC, "", "out.png"), "Error: out.png: the disk is full."),
        (OSError(errno.EROFS, "", "o"), "Error: o: the file system is read-only."),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(error, told, capsys):
    @one_line
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == [told]


def test_our_own_faults_keep_their_traceback():
    @one_line
    def main():
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        main()


def test_replacing_renames_only_at_the_end(tmp_path):
    with replacing(tmp_path / "x") as beside:
        beside.write_text("1")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").read_text() == "1"


def test_what_there_is_and_what_was_meant():
    names = {"xception": 1, "densenet": 2}
    told = "there are ['densenet', 'xception']; did you mean 'densenet'?"
    assert valid("densnet", names) == told
    assert valid("qqq", names) == "there are ['densenet', 'xception']."


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / f"{'x' * 240}.txt"

    def write(number):
        with replacing(path) as beside:
            beside.write_text(f"{number}" * 1000)
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    assert len(set(path.read_text())) in (1, 2) and list(tmp_path.iterdir()) == [path]


def test_what_happens_to_the_file_beside_is_not_told_as_a_mistake(tmp_path):
    with pytest.raises(RuntimeError, match="lost on the way"):
        with replacing(tmp_path / "a.txt"):
            pass  # nothing was written
    with pytest.raises(OSError) as caught, replacing(tmp_path / "a.txt") as beside:
        raise OSError(errno.ENOSPC, "no space", str(beside))
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_no_cell_is_a_formula_and_each_is_read_back(tmp_path):
    texts = ["=1+1", "+cmd", "-x.jpg", "@a", "\tb", "'=c", "a=b", "'quoted", ""]
    numbers = ["-0.5", "+1", -2.5, 3, None]
    rows = [{"x": value} for value in texts + numbers]
    write_csv(tmp_path / "x.csv", rows, ["x"])
    with open(tmp_path / "x.csv", newline="") as file:
        cells = [row["x"] for row in csv.DictReader(file)]
    assert cells[:6] == ["'=1+1", "'+cmd", "'-x.jpg", "'@a", "'\tb", "''=c"]
    assert [plain_cell(cell) for cell in cells[: len(texts)]] == texts
    assert cells[len(texts) :] == ["-0.5", "+1", "-2.5", "3", ""]


def test_the_home_folder_may_be_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    seen = one_line(lambda argv=None: argv or sys.argv[1:])
    assert seen(["--out=~/x", "~", "--a=~b/~", "-o=~"])[:2] == ["--out=/home/me/x", "~"]
    assert seen(["--sets=a=~/x,b=~/y:3"]) == ["--sets=a=/home/me/x,b=/home/me/y:3"]
    monkeypatch.setattr(sys, "argv", ["x", "--out=~/x"])
    assert seen() == ["--out=/home/me/x"]
