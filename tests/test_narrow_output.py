"""What a stream cannot write is written in another way: no command ends because of an encoding."""

import shutil

import pytest

RUN = ["data=digits", "model=mlp", "trainer=smoke", "trainer.max_epochs=1", '+vars.name="grün"']
NAMES = 'data.class_names=["zéro","1","2","3","4","5","6","7","8","鞋"]'


@pytest.fixture(scope="module")
def runs(command, tmp_path_factory):
    """A sweep of two runs whose settings, folder and classes have names beyond ASCII."""
    folder = tmp_path_factory.mktemp("narrow")
    for number in (1, 2):
        done = command(*RUN, NAMES, f"seed={number}", f"hydra.run.dir=jörg/{number}", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_every_verb_writes_to_a_narrow_stream(command, runs, tmp_path, encoding):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    lines = {
        "report": ["jörg"],
        "compare": ["jörg/1", "jörg/2"],
        "data": ["digits"],
        "evaluate": ["jörg/1"],
        "export": ["jörg/1", "--out", "jörg.onnx"],
        "run": [*RUN, NAMES, "hydra.run.dir=jörg/3"],
        "cli": ["--help"],
    }
    if encoding != "ascii":  # which lacks the most
        lines = {verb: lines[verb] for verb in ("report", "compare", "data")}
    for verb, arguments in lines.items():
        done = command(*arguments, module=verb, cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, (verb, done.stdout + done.stderr)
        assert "UnicodeEncodeError" not in done.stdout + done.stderr, verb
        if verb == "evaluate":
            zero = "zero" if encoding == "ascii" else "zéro"
            assert zero in done.stdout or "accuracy" in done.stdout
    refused = command("ü", module="run", cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
    assert refused.returncode == 2
    assert "UnicodeEncodeError" not in refused.stderr
    if encoding == "ascii":
        assert "鞋" in (tmp_path / "jörg/3/report.txt").read_text(encoding="utf-8")


def test_files_are_utf_8_in_an_ascii_locale(cold_command, tmp_path):
    """`LC_ALL=C` where Python is told to take it at its word."""
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = cold_command(*RUN, NAMES, "hydra.run.dir=run", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("run.log", "report.txt", "run.json", "metrics.json"):
        (tmp_path / "run" / name).read_text(encoding="utf-8")
    assert "鞋" in (tmp_path / "run/report.txt").read_text(encoding="utf-8")
