"""Locks of run directories and studies: held by one living process, and by nothing that an earlier one left behind."""

import errno
import os
import subprocess
import sys
import threading

import filelock
import pytest

from fmx.errors import ConfigError
from fmx.process.lock import exclusive, is_locked, lock_folder, release_locks

HOLDER = """
import sys
from pathlib import Path
from fmx.process.lock import exclusive, lock_folder
lock_folder(Path(sys.argv[1]))
with exclusive(Path(sys.argv[1], "study.lock")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    with release_locks():
        yield tmp_path


def test_a_lock_ends_with_its_process_however_it_ends(folder):
    (folder / ".lock").write_text("4711")  # of an earlier run, or of another library
    assert is_locked(folder) is False
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert is_locked(folder) is True
    with pytest.raises(ConfigError, match=r"another process is at work in .*: wait for it, stop it, or name"):
        lock_folder(folder)
    held = threading.Event()
    threading.Thread(target=lambda: hold(folder / "study.lock", held), daemon=True).start()
    assert not held.wait(0.3)
    holder.kill()
    holder.communicate()
    assert held.wait(20)
    assert is_locked(folder) is False
    lock_folder(folder)
    lock_folder(folder)  # by the process that holds it
    assert is_locked(folder) is True
    assert (folder / ".lock").read_text() == "4711"


def hold(path, held):
    with exclusive(path):
        held.set()


def test_questions_at_the_same_time_do_not_disturb_each_other(folder):
    (folder / ".lock").touch()
    answers = []
    ask = [threading.Thread(target=lambda: answers.extend(is_locked(folder) for _ in range(50))) for _ in range(2)]
    for each in ask:
        each.start()
    for each in ask:
        each.join()
    assert answers == [False] * 100


def test_what_a_question_cannot_answer_is_unknown(folder):
    assert is_locked(folder) is None
    os.mkfifo(folder / "pipe")
    (folder / ".lock").symlink_to("pipe")
    assert is_locked(folder) is None


def test_a_file_system_without_locks(folder, monkeypatch):
    def refuse(_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    for code in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
        lock_folder(folder)
        assert is_locked(folder) is None
        with exclusive(folder / ".run.json.lock", needed=False):
            pass
        with pytest.raises(OSError, match=os.strerror(code)), exclusive(folder / "study.lock"):
            pass
    code = errno.EIO
    with pytest.raises(OSError, match=os.strerror(code)):
        lock_folder(folder)
