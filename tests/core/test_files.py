"""Files are there whole or not at all."""

import ast
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jaxmec.core import files


def test_content_and_folders(tmp_path):
    file = tmp_path / "new" / "folder" / "résumé [1].txt"
    files.write_whole(file, "ü\n")
    assert file.read_bytes() == "ü\n".encode()
    files.write_whole(str(file), b"\0\xff")
    assert file.read_bytes() == b"\0\xff"
    assert list(file.parent.iterdir()) == [file]


def test_mode_and_links_stay(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to("file")
    files.write_whole(link, "new")
    assert link.is_symlink() and file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_device_and_a_pipe_are_written_to(tmp_path):
    files.write_whole("/dev/null", "gone")
    assert not os.path.isfile("/dev/null")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.write_whole(pipe, "through")
    reader.join()
    assert read == ["through"] and pipe.is_fifo()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_names_the_file_and_leaves_the_old(tmp_path, monkeypatch, name, there):
    file = tmp_path / "results.json"
    if there:
        file.write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(OSError, match=r"No space left on device: .*results\.json") as caught:
            files.write_whole(file, "new")
    assert caught.value.filename == str(file)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"] * there


def test_a_block_that_raises_leaves_the_old(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text("old")

    def write():
        with files.writing_whole(file) as temporary:
            assert temporary.suffix == ".csv" and temporary.parent == tmp_path
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def test_other_files_keep_their_names_in_errors(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="elsewhere"),
        files.writing_whole(tmp_path / "file"),
    ):
        (tmp_path / "elsewhere").read_text()
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        files.write_whole(tmp_path, "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        files.write_whole(tmp_path / "file" / "below", "text")


FULL = """
import resource, sys
from jaxmec.core import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_whole(sys.argv[1], "x" * 2000)
except OSError as error:
    print(error)
"""


def test_a_write_that_really_fails(tmp_path):
    """The limit on a file's size stands for a full disk."""
    file = tmp_path / "file"
    file.write_text("old")
    command = [sys.executable, "-c", FULL, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == f"[Errno {errno.EFBIG}] File too large: '{file}'\n"
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def write_trace(path):
    import numpy as np

    from jaxmec import traces

    traces.write(path, traces.Rows(*np.ones((5, 2), int)))


def write_figure(path):
    from matplotlib.figure import Figure

    from jaxmec import plots

    plots.save(Figure(), path, (path.suffix[1:],))


def write_about(path):
    from jaxmec.training import runner

    runner.write_about(path.parent, 9, (0,), {})


def write_metrics(path):
    from jaxmec.training import runner

    runner._MetricsFile(path.parent)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("trace.csv", write_trace),
        ("trace.parquet", write_trace),
        ("figure.png", write_figure),
        ("figure.svg", write_figure),
        ("run.json", write_about),
        ("metrics.jsonl", write_metrics),
    ],
)
def test_a_full_disk_leaves_every_file_as_it_was(tmp_path, monkeypatch, name, write):
    file = tmp_path / name
    file.write_text("old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(file)
    assert caught.value.filename == str(file)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]
    write(file)
    assert file.read_bytes() != b"old" and os.listdir(tmp_path) == [name]


APPENDED = """
import resource, sys
from jaxmec.core import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
files.append(sys.argv[1], "whole\\n")
try:
    files.append(sys.argv[1], "x" * 2000)
except OSError as error:
    print(error)
"""


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    file = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", APPENDED, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == f"[Errno {errno.EFBIG}] File too large: '{file}'\n"
    assert file.read_text() == "whole\n"


# Into a directory that takes its place as a whole, or a file that holds nothing.
WRITE_IN_PLACE = {
    "core/files.py",
    "core/sealed.py",
    "deploy/export.py",
    "training/checkpoint.py",
}


def test_no_file_is_written_in_place():
    """Whoever writes one takes ``write_whole``, ``writing_whole`` or ``append``."""
    package = Path(files.__file__).parents[1]
    found = []
    for module in package.rglob("*.py"):
        tree = ast.parse(module.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
            opened = name == "open" and any(m in ("w", "wb", "a", "ab") for m in modes)
            if name in ("write_text", "write_bytes") or opened:
                found.append((module.relative_to(package).as_posix(), ast.unparse(call.func)))
    rest = {entry for entry in found if entry[0] not in WRITE_IN_PLACE}
    # The trace's stream is of a file that takes its place as a whole; a lock holds nothing.
    assert rest <= {("traces/files.py", "new.open"), ("training/runner.py", "(home / LOCK).open")}


def directory(path, content, count=3):
    """Written as the toolkit writes its own: several files that belong together."""
    with files.replacing_directory(path) as new:
        (new / "parts").mkdir()
        for number in range(count):
            (new / "parts" / str(number)).write_text(content)


def content(path, count=3):
    """Its one content; AssertionError for a mixture."""

    def read(place):
        texts = {(place / "parts" / str(number)).read_text() for number in range(count)}
        assert len(texts) == 1, texts
        return texts.pop()

    return files.read_settled(path, read)


@pytest.fixture(params=[True, False], ids=["exchange", "no exchange"])
def exchange(request, monkeypatch):
    """As the system does it, and as one does that cannot exchange directories."""
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    return request.param


def test_this_system_exchanges_directories(tmp_path):
    """Where this fails, the tests below try the other way twice."""
    directory(tmp_path / "one", "1")
    directory(tmp_path / "two", "2")
    assert files._exchange(tmp_path / "one", tmp_path / "two")
    assert content(tmp_path / "one") == "2" and content(tmp_path / "two") == "1"
    with pytest.raises(FileNotFoundError, match="three"):
        files._exchange(tmp_path / "one", tmp_path / "three")


def test_a_directory_is_replaced(tmp_path, exchange):
    for text in ("one", "two", "three"):
        directory(tmp_path / "above" / "it", text)
        assert content(tmp_path / "above" / "it") == text
        assert [entry.name for entry in (tmp_path / "above").iterdir()] == ["it"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_directory_that_cannot_be_replaced(tmp_path, monkeypatch, exchange, name, there):
    if there:
        directory(tmp_path / "it", "old")

    def denied(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, denied)
        if name == "rename":
            patch.setattr(files, "_exchange", denied)
        with pytest.raises(PermissionError):
            directory(tmp_path / "it", "new")
    assert [content(entry) for entry in tmp_path.iterdir()] == ["old"] * there


KILLS = """
import os, signal, sys
from pathlib import Path
from jaxmec.core import files
sys.path.insert(0, sys.argv[1])
from test_files import content, directory

home, exchange = Path(sys.argv[2]), sys.argv[3] == "True"
if not exchange:
    files._exchange = lambda *_: False

os.fsync = os.fstat  # as good a place to be killed at, and quicker
STEPS = {"open", "close", "mkdir", "rename", "fstat", "unlink", "rmdir", "flock", "write"}

def killed_at(last):
    # Before and after the last-th step that may change something.
    count = 0
    def step(frame, event, function):
        nonlocal count
        changes = event[:2] == "c_" and function.__name__ in STEPS
        if changes or frame.f_code.co_name == "_exchange":
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(step)

last, ended = 0, False
while not ended:
    last += 1
    if not (child := os.fork()):
        killed_at(last)
        directory(home / "it", "new", 1)
        os._exit(0)
    ended = os.waitpid(child, 0)[1] == 0
    assert content(home / "it", 1) in ("old", "new"), last
    directory(home / "it", "old", 1)  # whoever comes next tidies up
    for entry in home.iterdir():  # but an empty one might just have been made by another writer
        if not any(entry.iterdir()):
            entry.rmdir()
    assert os.listdir(home) == ["it"], last
print(last)
"""


def test_a_kill_at_any_point_leaves_a_whole_directory(tmp_path, exchange):
    """Each time the writer gets one step further; what it leaves is read, and written over."""
    directory(tmp_path / "it", "old", 1)
    command = [sys.executable, "-c", KILLS, os.path.dirname(__file__), tmp_path, str(exchange)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ended.stdout) > 60, ended.stderr


def test_readers_never_fail_while_a_writer_replaces(tmp_path, exchange):
    directory(tmp_path / "it", "0")
    code = (
        "import itertools, sys, test_files\n"
        "if sys.argv[2] == 'False': test_files.files._exchange = lambda *_: False\n"
        "for number in itertools.count(): test_files.directory(sys.argv[1], str(number))"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])
    }
    writer = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "it", str(exchange)], env=environment
    )
    try:
        found = []
        while len(set(found)) < 20:
            found.append(int(content(tmp_path / "it")))
    finally:
        writer.kill()
        writer.wait()
    assert found == sorted(found)


def test_two_writers_do_not_mix(tmp_path, exchange):
    """The later one stays; neither takes the other's new directory for what a kill left."""
    with files.replacing_directory(tmp_path / "it") as first:
        (first / "text").write_text("first")
        with files.replacing_directory(tmp_path / "it") as second:
            (second / "text").write_text("second")
        assert (tmp_path / "it" / "text").read_text() == "second"
    assert (tmp_path / "it" / "text").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]


def test_a_directory_replaced_again_and_again_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    directory(tmp_path / "it", "0")

    def read(place):
        directory(tmp_path / "it", "1")
        raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        files.read_settled(tmp_path / "it", read)


def test_only_our_own_leftovers_are_removed(tmp_path):
    theirs = [".writing-thesis", ".replaced-other", ".writing-0123456789abcdef.csv"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text("")
    (tmp_path / ".writing-0123456789abcdef").mkdir()
    (tmp_path / ".writing-0123456789abcdef" / "text").write_text("")
    directory(tmp_path / "it", "0")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["it", *theirs])
