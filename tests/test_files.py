"""Files are there whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from jaxmec import files


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
from jaxmec import files
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
