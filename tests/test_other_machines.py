"""Another hour, another shell, another version: what a run directory says is still understood."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fmx.config.quoting import override
from fmx.errors import DataError
from fmx.process.own_files import check_own_files
from run_directories import make_run

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = ["data=digits", "model=mlp", "trainer=smoke", "logger=none"]


def test_start_times_are_utc_and_compared_as_times(command, tmp_path):
    old = tmp_path / "runs"
    for name, started in (("night", "2025-10-26T02:30:00+0200"), ("later", "2025-10-26T02:10:00+0100")):
        make_run(old / name, started=started)
    done = command("runs", "--csv", "table.csv", module="report", cwd=tmp_path, env={"TZ": "America/New_York"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs/night,repeated" in (tmp_path / "table.csv").read_text()


def test_plain_errors_of_processes_that_a_command_starts(command, tmp_path):
    done = command(*SMALL, "hydra.run.dir=run", "+vars.tag='${oc.env:TAG}'", cwd=tmp_path, env={"TAG": "hunter2"})
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["started"].endswith("+0000")
    assert "+vars.tag='${oc.env:TAG}'" in record["overrides"]
    assert "hunter2" not in (tmp_path / "run/run.json").read_text()
    resolved = tmp_path / "run/.hydra/resolved.yaml"
    resolved.write_text(resolved.read_text().replace("max_epochs: 1", "max_epochs: -7"))
    done = command("run", "--dir", "again", module="reproduce", cwd=tmp_path, env={"TAG": "hunter2"})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "max_epochs" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    full = command(
        "run", "--dir", "again", module="reproduce", cwd=tmp_path, env={"TAG": "hunter2", "HYDRA_FULL_ERROR": "1"}
    )
    assert "Traceback" in full.stderr
    resolved.write_text(resolved.read_text().replace("max_epochs: -7", "max_epochs: 2"))
    record["versions"]["fmx"] = "0.0.9"
    (tmp_path / "run/run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    refused = command(*SMALL, "resume=run", "+vars.other=1", cwd=tmp_path)
    assert refused.returncode == 2
    assert "fmx 0.0.9 wrote that run, this is fmx 0.1.0" in refused.stderr


def test_a_copy_of_latest_is_said_not_to_be_the_newest(command, tmp_path):
    for _ in range(2):
        done = command(*SMALL, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "is no link of fmx" not in done.stdout
    shutil.move(tmp_path / "outputs", tmp_path / "before")
    subprocess.run(["cp", "-rL", "before", "outputs"], cwd=tmp_path, check=True)
    done = command(*SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "outputs/latest is no link of fmx, as after a copy, so it does not lead to this run: remove it" in done.stdout
    )
    verbs = ["evaluate"], ["export"], ["reproduce"], ["run", "resume=outputs/latest"], ["predict", "."]
    for module, *arguments in verbs:
        named = [] if module == "run" else ["outputs/latest"]
        stale = command(*named, *arguments, module=module, cwd=tmp_path)
        assert stale.returncode in {1, 2}, (module, stale.stdout)
        assert "outputs/latest is no link to the newest run, but a copy of " in stale.stderr, module
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"latest", "runs"}
    listed = command("outputs", "--csv", "table.csv", module="report", cwd=tmp_path)
    assert "outputs/latest is no link to the newest run" in listed.stdout + listed.stderr


def test_every_verb_names_the_version_that_wrote_a_run(command, tmp_path):
    """A key that this version lacks, and one that it adds, in the parts of a run and of a job of a sweep."""
    done = command("-m", "seed=1,2", *SMALL, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = tmp_path / "sweep/0/run.json"
    told = json.loads(record.read_text())
    told["versions"]["fmx"] = "0.7.0"
    record.write_text(json.dumps(told))
    resolved = tmp_path / "sweep/0/.hydra/resolved.yaml"
    whole = resolved.read_text()
    for instead in ("bias_of_07: 1\n    hidden_sizes", "depth"):
        resolved.write_text(whole.replace("hidden_sizes", instead))
        assert resolved.read_text() != whole
        for module, *more in (["evaluate"], ["predict", "."], ["export"], ["reproduce", "--dir", "again"]):
            done = command("sweep/0", *more, module=module, cwd=tmp_path)
            assert done.returncode == 1
            assert "(fmx 0.7.0 wrote that run, this is fmx 0.1.0)" in done.stderr, (module, instead, done.stderr)
    record.write_text(json.dumps(told | {"status": "interrupted"}))
    done = command("resume=sweep/0", cwd=tmp_path)
    assert done.returncode == 2
    assert "(fmx 0.7.0 wrote that run, this is fmx 0.1.0)" in done.stderr
    job = tmp_path / "sweep/jobs/0.yaml"
    for spoilt in (job.read_text() + "key_of_07: 1\n", job.read_text().replace("\nselect:", "\nselected:")):
        job.write_text(spoilt)
        done = command("--resume-sweep", "sweep", cwd=tmp_path)
        assert done.returncode == 1
        assert "(fmx 0.7.0 wrote that run, this is fmx 0.1.0)" in done.stderr


def test_a_run_of_another_user_is_not_advised_to_be_removed(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    with pytest.raises(DataError, match="who may make it writable, or go on in a copy of the folder"):
        check_own_files(tmp_path / "run")


@pytest.mark.parametrize("name", ["a\\b", "a\\", 'a\\"b', "a\\\\b", "it's", 'a"b', "a$b", "a\nb", "~", "a{b}[0]"])
def test_a_path_means_itself_to_hydra(name):
    assert OverridesParser.create().parse_override(override("resume", Path(name))).value() == name


def test_a_sweep_in_a_folder_with_a_backslash_and_none_in_one_that_hydra_would_resolve(command, tmp_path):
    sweep = ["-m", *SMALL, "seed=1", "hydra.launcher.workers=1"]
    for name, code in {"a\\b": 0, "a${x}": 2}.items():
        (tmp_path / name).mkdir()
        done = command(*sweep, cwd=tmp_path / name)
        assert done.returncode == code, done.stdout + done.stderr
        assert [*(tmp_path / name).iterdir()] == ([] if code else [tmp_path / name / "outputs"])
    assert "the current folder is" in done.stderr
