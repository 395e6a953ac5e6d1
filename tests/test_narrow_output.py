"""What a stream cannot write is written in another way: no command ends because of an encoding."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from terminal import Terminal

RUN = ["data=digits", "model=mlp", "trainer=smoke", "logger=none", '+vars.name="grün"']
NAMES = 'data.class_names=["zéro","1","2","3","4","5","6","7","8","鞋"]'
SWEEP = ["-m", *RUN, NAMES, "seed=1,2", 'hydra.sweep.dir="jörg"']
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # where Python takes it at its word


@pytest.fixture(scope="module")
def runs(command, tmp_path_factory):
    """A sweep of two runs whose settings, folder and classes have names beyond ASCII."""
    folder = tmp_path_factory.mktemp("narrow")
    done = command(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def check_files(folder: Path) -> None:
    """Whether every text that a run or a sweep leaves is UTF-8, with the names as they are."""
    kinds = {".csv", ".html", ".json", ".log", ".md", ".txt", ".yaml"}
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in kinds}
    assert {path.suffix for path in texts} >= {".csv", ".json", ".log", ".txt", ".yaml"}
    assert all("鞋" in text for path, text in texts.items() if path.name in {"report.txt", "metrics.json"})
    own = [text for path, text in texts.items() if path.name == "run.log" or path.suffix in {".csv", ".md", ".txt"}]
    assert not any("\\u978b" in text or "gr\\xfcn" in text for text in own)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_every_verb_writes_to_a_narrow_stream(command, runs, tmp_path, encoding):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    Image.new("L", (28, 28), 9).save(tmp_path / "bild ü.png")
    lines = {
        "report": ["jörg", "--md", "table.md"],
        "compare": ["jörg/0", "jörg/1"],
        "data": ["digits"],
        "evaluate": ["jörg/0"],
        "predict": ["jörg/0", "bild ü.png"],
        "export": ["jörg/0", "--format", "state_dict", "--out", "jörg.pt"],
        "run": [*RUN, NAMES, "hydra.run.dir=jörg/3"],
        "cli": ["--help"],
    }
    if encoding != "ascii":  # which lacks the most
        lines = {verb: lines[verb] for verb in ("report", "compare", "evaluate")}
    for verb, arguments in lines.items():
        done = command(*arguments, module=verb, cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, (verb, done.stdout + done.stderr)
        assert "UnicodeEncodeError" not in done.stdout + done.stderr, verb
        if verb == "evaluate":
            assert ("zero" if encoding == "ascii" else "zéro") in done.stdout
            assert r"\u978b" in done.stdout
    refused = command("ü", module="run", cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"cannot read the override '{'u' if encoding == 'ascii' else 'ü'}'")
    check_files(tmp_path / "jörg")


def test_files_are_utf_8_in_an_ascii_locale(cold_command, tmp_path):
    done = cold_command(*SWEEP, "hydra.launcher.workers=1", cwd=tmp_path, env=ASCII_LOCALE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "UnicodeEncodeError" not in done.stdout + done.stderr
    check_files(tmp_path / "jörg")


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp437"}, ASCII_LOCALE])
def test_live_lines_on_a_narrow_terminal(tmp_path, env):
    """A run's bar in an ASCII locale, a sweep's lines elsewhere: nothing is lost, and no line is shown twice."""
    single = env is ASCII_LOCALE
    words = [*RUN, NAMES, "hydra.run.dir=jörg"] if single else SWEEP
    terminal = Terminal([sys.executable, "-m", "fmx.run", *words], cwd=tmp_path, env=env, columns=120)
    assert terminal.read() == 0, terminal.text
    assert "Error" not in terminal.text
    assert terminal.raw.isascii() or env.get("PYTHONIOENCODING") == "cp437"
    assert "test accuracy" in terminal.text or "2 completed" in terminal.text or "leaderboard" in terminal.text
    check_files(tmp_path / "jörg")
