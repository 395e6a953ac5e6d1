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


@pytest.mark.parametrize("encoding", ["latin-1"])
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
    for verb, arguments in lines.items():
        done = command(*arguments, module=verb, cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 0, (verb, done.stdout + done.stderr)
        assert "UnicodeEncodeError" not in done.stdout + done.stderr, verb
    refused = command("ü", module="run", cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
    assert refused.returncode == 2
    assert "UnicodeEncodeError" not in refused.stderr
    assert "鞋" in (tmp_path / "jörg/3/report.txt").read_text(encoding="utf-8")
