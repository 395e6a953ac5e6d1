"""run.json under several writers: whole at every moment, and nothing that one of them recorded is lost."""

import json
import shutil
import subprocess
import sys

import pytest

FIRST = """
import sys
from pathlib import Path
from fmx.runs.record import Record
from fmx.process.exits import Refusal
record = Record(Path(sys.argv[1]), writes=True, shared=True)
record.update(status="running", error=None)
print("begun", flush=True)
sys.stdin.readline()
for count in range(300):
    record.update(timing={f"part_{count}": count})
try:
    record.complete()
except Refusal as refusal:
    print(refusal)
"""
OTHER = """
import sys
from pathlib import Path
from fmx.runs.record import Record
record = Record(Path(sys.argv[1]), writes=False, shared=True)
print("begun", flush=True)
sys.stdin.readline()
print(record.end("failed", f"rank {sys.argv[2]} broke"))
"""


def test_what_another_process_records_of_its_failure_stays(tmp_path):
    def begin(*arguments):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", *arguments], **pipes)
        assert process.stdout.readline() == "begun\n", process.communicate()[1]
        return process

    processes = [begin(FIRST, str(tmp_path)), *(begin(OTHER, str(tmp_path), str(rank)) for rank in (1, 2))]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    while processes[0].poll() is None:
        json.loads((tmp_path / "run.json").read_text())  # whole at every moment
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] in {"rank 1 broke", "rank 2 broke"}
    assert [out.strip() for out, _ in outputs[1:]] == [record["error"]] * 2, "the first failure is the cause"
    assert outputs[0][0].strip() == f"another process of this run failed: {record['error']}"
    assert len(record["timing"]) == 300, "what the first process recorded is there as well"
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.part")), "nothing temporary is left"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_file_that_may_not_be_read_is_not_said_to_be_unwritable(tmp_path):
    root = ["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"]
    file = tmp_path / "file"
    file.touch()
    for access, words in ((0o200, "cannot read"), (0o400, "cannot write"), (0o000, "cannot access")):
        file.chmod(access)
        mode = "wb" if access == 0o400 else "rb"
        done = subprocess.run(
            ["setpriv", *root, sys.executable, "-c", OPEN, str(file), mode], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (1, f"{words} {file}: Permission denied\n")
    (tmp_path / "locked").mkdir(mode=0o500)
    done = subprocess.run(
        ["setpriv", *root, sys.executable, "-m", "fmx.run", "data=digits", "trainer=smoke", "hydra.run.dir=locked/run"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "cannot write locked/run: Permission denied\n")


OPEN = """
import sys
from fmx.process.exits import plain_exits
with plain_exits():
    open(*sys.argv[1:])
"""
