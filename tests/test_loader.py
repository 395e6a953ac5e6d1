"""Order and batches: each image once an epoch, the same order from the same seed, right shares for every rank."""

import pytest
import torch
from PIL import Image

from fmx.data.arrays import ImageArrays
from fmx.data.loader import ArrayLoader, EpochSampler
from fmx.data.module import Normalize

ARRAYS = ImageArrays(images=torch.arange(23, dtype=torch.uint8).view(23, 1, 1, 1), labels=torch.arange(23))


def order(size=23, **changes) -> EpochSampler:
    plain = {"shuffle": True, "seed": 1, "rank": 0, "world_size": 1, "equal_shares": True}
    return EpochSampler(torch.arange(size), **(plain | changes))


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    one = order()
    first = one.indices()
    one.set_epoch(1)
    second = one.indices()
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(23))
    assert not torch.equal(first, second)
    assert torch.equal(first, order().indices())
    assert not torch.equal(first, order(seed=2).indices())
    assert order(shuffle=False).indices().tolist() == list(range(23))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 23, 24])
def test_training_ranks_take_equal_shares_and_evaluating_ranks_see_no_image_twice(world_size):
    training = [order(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(share.indices()) for share in training}) == 1
    assert all(len(share) == len(share.indices()) for share in training)
    assert set(torch.cat([share.indices() for share in training]).tolist()) == set(range(23))
    evaluating = [
        order(rank=rank, world_size=world_size, equal_shares=False, shuffle=False) for rank in range(world_size)
    ]
    assert sorted(torch.cat([share.indices() for share in evaluating]).tolist()) == list(range(23))
    assert all(len(share) == len(share.indices()) for share in evaluating)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [5, 5, 5, 5, 3]), (True, [5, 5, 5, 5])])
def test_batches_hold_images_with_their_labels(drop_last, sizes):
    loader = ArrayLoader(ARRAYS, order(), batch_size=5, drop_last=drop_last, device=torch.device("cpu"))
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(loader) == len(sizes)
    assert all(torch.equal(images.flatten().long(), labels) for images, labels in batches)


def test_normalisation_is_the_formula():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    expected = (images / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(Normalize(mean=mean, std=std)(images), expected, atol=1e-6)


def test_a_folder_of_images_trains_and_is_tested(command, tmp_path):
    for part, count in (("train", 24), ("test", 8)):
        for number in range(count):
            folder = tmp_path / "images" / part / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(folder / f"{number}.png")
    overrides = ["data=image_folder", "data.root=images", "data.image_size=16", "data.num_workers=1", "model=lenet"]
    finished = command(*overrides, "trainer.max_epochs=1", "hydra.run.dir=run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (tmp_path / "run" / "predictions.npz").exists()

    (tmp_path / "elsewhere").mkdir()  # from where the images are not in a folder `images`
    scored = command("../run", module="evaluate", cwd=tmp_path / "elsewhere")
    assert "identical to metrics.json" in scored.stdout, scored.stdout + scored.stderr
