"""Other Hydra applications of the same environment: they do not notice that fmx is installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fmx

APPLICATION = """\
import hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    print(f"x is {cfg.x}")


main()
"""
IMPORTS = [p for p in sys.path[1:] if p and Path(p).resolve() != Path(fmx.__file__).resolve().parents[1]]
COMMANDS = [
    "--info plugins",
    "--hydra-help",
    "--cfg hydra",
    "-m x=1,2 hydra.sweeper.max_batch_size=1",
    "-m x=1,2 hydra/launcher=local",
    "-m x=1,2 hydra/sweeper=search",
]


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    folder = tmp_path_factory.mktemp("application")
    (folder / "application.py").write_text(APPLICATION)
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text("x: 0\nhydra: {output_subdir: null}\n")
    return folder


def outcome(
    application: Path, arguments: list[str], *, installed: bool, script: str = "application.py"
) -> tuple[int, str]:
    """What the application prints and how it ends, without what is never the same twice."""
    interpreter = [sys.executable] if installed else [sys.executable, "-S"]  # without the site's packages
    env = os.environ | ({} if installed else {"PYTHONPATH": os.pathsep.join(IMPORTS)})
    fixed = ["hydra.run.dir=out", "hydra.sweep.dir=outs"]
    done = subprocess.run(
        [*interpreter, script, *arguments, *fixed],
        cwd=application,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    output = done.stdout.partition("Profiling information")[0] + done.stderr
    return done.returncode, re.sub(r"\[\d{4}-.*?\]", "", output)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_an_application_does_not_notice_that_fmx_is_installed(application, arguments):
    absent, present = (outcome(application, arguments.split(), installed=each) for each in (False, True))
    assert "hydra" in absent[1].lower() or "x is 2" in absent[1], "the application itself did not start"
    assert present == absent


def test_an_application_that_imports_a_part_of_fmx_keeps_hydras_own_sweeper_and_launcher(application):
    script = "with_fmx.py"
    (application / script).write_text("import fmx.run\nimport fmx.models.mlp\n" + APPLICATION)
    for arguments in ("--info plugins", "-m x=1,2 hydra.sweeper.max_batch_size=1", "--cfg hydra"):
        with_fmx = outcome(application, arguments.split(), installed=True, script=script)
        alone = outcome(application, arguments.split(), installed=False)
        assert with_fmx == (alone[0], alone[1].replace("name: application", "name: with_fmx"))
