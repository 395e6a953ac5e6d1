"""What a run needs at its end is tried at its start, and a training that is whole can be tested later."""

import json

import numpy as np
from PIL import Image

RUN = ["data=image_folder", "data.root=pictures", "data.image_size=28", "data.num_workers=0", "data.validation=4"]
RUN += ["model=mlp", "trainer=smoke", "trainer.max_epochs=1", "hydra.run.dir=run"]


def draw(folder):
    pixels = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(8):
                picture = Image.fromarray(pixels.integers(0, 256, (28, 28, 3), dtype=np.uint8))
                picture.save(folder / part / name / f"{number}.png")


def test_a_truncated_test_picture_ends_a_run_before_its_first_step(command, tmp_path):
    draw(tmp_path / "pictures")
    damaged = tmp_path / "pictures/test/b/5.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    done = command(*RUN, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "test/b/5.png cannot be read as an image" in done.stderr
    assert not (tmp_path / "run/history.csv").exists()
    deep = command("image_folder", "--root", "pictures", "--deep", module="data", cwd=tmp_path)
    assert deep.returncode == 1
    assert "test/b/5.png" in deep.stderr
    damaged.write_bytes(whole)
    again = command("resume=run", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "only the test images have changed" in again.stdout
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "completed"
    (tmp_path / "pictures/train/a/0.png").write_bytes(whole)
    started = command(*RUN[:-1], "hydra.run.dir=other", cwd=tmp_path)
    assert started.returncode == 0, started.stdout + started.stderr
