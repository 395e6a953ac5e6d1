"""Transforms of other packages: one draw for each image, the same draws in any process, plain refusals."""

import os

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from fmx.data.arrays import ImageArrays
from fmx.data.augment import RandomAffine, RandomCrop, RandomErasing, RandomHorizontalFlip
from fmx.data.loader import ArrayItems, EpochSampler, ImageLoader
from fmx.data.per_image import Augmentation, augmentation
from fmx.data.seeded_dataset import SeededDataset, generators_in, seed_generators
from fmx.errors import ConfigError

GREY, COLOUR = (1, 28, 28), (3, 24, 20)
SEED, EPOCH = 5, 2


def picture(shape):
    """A picture without symmetries."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def loaded(transform, shape, *, count=48, workers=0, epoch=EPOCH, seed=SEED):
    """The same picture many times, as a training would load it."""
    made = augmentation(transform, mix=None, shape=shape)
    source = ArrayItems(ImageArrays(picture(shape).expand(count, -1, -1, -1), torch.arange(count)))
    order = EpochSampler(torch.arange(count), shuffle=False, seed=seed, rank=0, world_size=1, equal_shares=True)
    order.set_epoch(epoch)
    batches = list(ImageLoader(SeededDataset(source, made.per_image), order, batch_size=20, num_workers=workers))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(count))
    return torch.cat([images for images, _ in batches])


def distinct(images):
    return len(torch.unique(images.flatten(1), dim=0))


def tensor_of(image):
    return torch.from_numpy(np.array(image.transpose(2, 0, 1)))


THEIRS = {
    "v2.RandAugment": v2.RandAugment(),
    "v2.TrivialAugmentWide": v2.TrivialAugmentWide(),
    "v2.Compose": v2.Compose([v2.RandomRotation(20), v2.RandomResizedCrop((28, 28), antialias=True)]),
    "v1.RandomAffine": v1.RandomAffine(20, (0.2, 0.2)),
    "v1.Compose": v1.Compose([v1.RandomHorizontalFlip(), v1.RandomCrop(28, padding=4)]),
    "v2.RandomErasing": v2.RandomErasing(1.0),
    "a function": lambda image: image + torch.randint_like(image, 2),
}


@pytest.mark.parametrize("name", THEIRS)
def test_each_image_is_drawn_as_torchvision_draws_it_alone(name):
    transform = THEIRS[name]
    images = loaded(transform, GREY)
    assert images.dtype == torch.uint8
    assert distinct(images) > (24 if "Compose" not in name else 12), "one draw for a whole batch"
    for index in range(12):
        seed_generators([SEED, EPOCH, index, 1, 1])
        assert torch.equal(images[index], transform(picture(GREY))), index
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(images, loaded(transform, GREY))
    assert torch.equal(state, torch.get_rng_state()), "a batch in the main process must leave the generators alone"
    assert not torch.equal(images, loaded(transform, GREY, epoch=3))
    assert not torch.equal(images, loaded(transform, GREY, seed=6))


def on_pictures(image: Image.Image) -> Image.Image:
    """What takes a PIL picture alone."""
    return ImageOps.autocontrast(image.rotate(int(np.random.randint(-20, 20))))  # noqa: NPY002 - as people do


@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(
    "transform",
    [
        albumentations.Affine(rotate=(-20, 20), p=1.0),
        albumentations.Compose([albumentations.HorizontalFlip(), albumentations.RandomBrightnessContrast(p=0.9)]),
        on_pictures,
        v1.Compose([on_pictures, v1.PILToTensor(), v1.RandomHorizontalFlip()]),
    ],
    ids=["albumentations", "albumentations.Compose", "pictures", "v1.Compose"],
)
def test_other_forms_of_an_image_and_any_number_of_workers(transform, shape):
    images = loaded(transform, shape)
    assert images.shape == (48, *shape)
    assert distinct(images) > 8
    assert torch.equal(images, loaded(transform, shape, workers=2))


def test_albumentations_draws_what_it_draws_alone():
    transform = albumentations.Affine(rotate=(-20, 20), p=1.0)
    images = loaded(transform, COLOUR)
    own = generators_in([transform])
    assert len(own) == 2
    seed_generators([SEED, EPOCH, 7, 1, 1], own)
    alone = transform(image=picture(COLOUR).permute(1, 2, 0).numpy())["image"]
    assert torch.equal(images[7], tensor_of(alone))


class Noise(nn.Module):
    """Somebody's own module for whole batches."""

    takes_batches = True

    def forward(self, images):
        return images + torch.randint_like(images, 2)


def test_what_takes_batches_stays_in_them():
    ours = nn.Sequential(RandomCrop(padding=2), RandomHorizontalFlip(prob=0.5), Noise())
    for transform in (ours, RandomErasing(prob=0.5, area=[0.1, 0.2], aspect=[1, 1]), nn.Identity(), Noise()):
        assert augmentation(transform, mix=None, shape=GREY) is transform
    mixed = augmentation(nn.Sequential(RandomCrop(padding=2), v2.RandAugment(), *ours), mix=None, shape=GREY)
    assert isinstance(mixed, Augmentation)
    assert [type(each) for each in mixed.per_image.transforms] == [RandomCrop, v2.RandAugment]
    assert [type(each) for each in mixed.batched] == [RandomCrop, RandomHorizontalFlip, Noise]
    assert mixed.per_image.names == "RandomCrop, RandAugment"
    assert mixed.per_image(picture(GREY)).shape == GREY


def test_affine_turns_and_shifts_as_torchvision_does():
    shape = (3, 20, 32)
    y, x = torch.meshgrid(torch.linspace(0, 3, 20), torch.linspace(0, 3, 32), indexing="ij")
    smooth = (120 + 100 * torch.sin(torch.stack([x + y, x - y, 2 * x]))).to(torch.uint8).expand(200, *shape)
    torch.manual_seed(0)
    images = RandomAffine(degrees=15, shift=0.1)(smooth)
    torch.manual_seed(0)
    angle, right, down = (torch.rand(3, 200) * 2 - 1).double()
    assert distinct(images) == 200
    assert (15 * angle).abs().max() > 14
    for index in range(20):
        # grid_sample maps places of the result to places of the image, torchvision's affine the other way.
        degrees, theta = -15 * float(angle[index]), torch.tensor(15 * float(angle[index])).deg2rad()
        shift = torch.tensor([0.1 * right[index] * 32, 0.1 * down[index] * 20])
        back = torch.tensor([[theta.cos(), theta.sin()], [-theta.sin(), theta.cos()]], dtype=torch.float64) @ -shift
        alone = v2.functional.affine(
            smooth[index], degrees, back.tolist(), 1.0, [0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR
        )
        inside = (slice(None), slice(5, 15), slice(8, 24))
        assert (images[index][inside].int() - alone[inside].int()).abs().max() <= 2, index
    assert torch.equal(RandomAffine(degrees=0, shift=0)(smooth), smooth)
    for wrong in ({"degrees": 200, "shift": 0}, {"degrees": 5, "shift": 1.5}):
        with pytest.raises(ValueError, match="augment"):
            RandomAffine(**wrong)


@pytest.mark.parametrize(
    ("transform", "shape", "words"),
    [
        (v2.Compose([v2.RandomRotation(5), v2.ToDtype(torch.float32, scale=True)]), GREY, "must keep the type"),
        (v1.Compose([v1.RandomRotation(5), v1.ToPILImage(), v1.ToTensor()]), GREY, "fmx does both"),
        (v2.RandomPhotometricDistort(), (5, 8, 8), r"cannot take an image of shape \(5, 8, 8\)"),
        (v2.Grayscale(), COLOUR, "keep the type and the channels"),
        (v2.MixUp(num_classes=10), GREY, "type augment=mixup"),
        (v2.Compose([v2.RandomApply([v2.CutMix(num_classes=10)])]), GREY, "type augment=cutmix"),
        (v2.ColorJitter(0.1, 0.1, 0.1), GREY, "images with data.in_channels=1 have no colour"),
        (lambda _: "text", GREY, "must return an image"),
        (lambda image: image[0], GREY, r"uint8 \(28, 28\), and must stay"),
        (lambda images: images.view(-1, 784, 1, 2), GREY, "takes_batches = True"),
        (albumentations.Normalize(), COLOUR, "must keep the type"),
        (3, GREY, "not callable"),
    ],
)
def test_what_cannot_be_an_augmentation_is_refused(transform, shape, words):
    with pytest.raises(ConfigError, match=words):
        augmentation(transform, mix=None, shape=shape)


MINE = """
import torch
from PIL import Image, ImageOps


def upside_down(image: Image.Image) -> Image.Image:
    return ImageOps.flip(image) if torch.rand(()) < 0.5 else image


class Fails(torch.nn.Module):
    def forward(self, image):
        if torch.is_grad_enabled() and getattr(self, "calls", 0) > 200:
            raise RuntimeError("enough")
        self.calls = getattr(self, "calls", 0) + 1
        return image


def smaller(image):
    return image[:, 1:] if image.float().mean() != smaller.first else image


smaller.first = None


class Mix(torch.nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, images, labels, num_classes):
        shares = torch.nn.functional.one_hot(labels, num_classes)
        made = {"right": (images, shares.float()), "whole": (images, shares), "few": (images[1:], shares.float())}
        return made[self.what]
"""
YAML = """
_target_: torchvision.transforms.v2.Compose
transforms:
  - {_target_: torchvision.transforms.v2.RandomRotation, degrees: 20}
  - {_target_: albumentations.CoarseDropout, p: 0.5}
  - {_target_: mine.upside_down, _partial_: true}
  - {_target_: fmx.data.augment.RandomCrop, padding: 1}
"""


@pytest.fixture
def theirs(command, tmp_path):
    """Runs on the digits, with a configuration folder and code of a user's own."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "my/augment").mkdir(parents=True)
    (tmp_path / "my/augment/own.yaml").write_text(YAML)
    env = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    options = [
        "--config-dir",
        "my",
        "data=digits",
        "model=mlp",
        "logger=none",
        "trainer.max_epochs=2",
        "trainer.limit_train_batches=4",
    ]

    def run(*arguments, module="run"):
        return command(*(options if module == "run" else []), *arguments, cwd=tmp_path, module=module, env=env)

    return run


def test_a_users_own_list_of_transforms(theirs):
    done = theirs("augment=own", "data.num_workers=2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stdout + done.stderr
    said = "augment: RandomRotation, CoarseDropout, upside_down, applied to each image by itself in 2 worker processes"
    assert done.stdout.count(said) == 1, done.stdout
    again = theirs("run", "--allow", "mine", "--allow", "albumentations", "--dir", "again", module="reproduce")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical: " in again.stdout
    refused = theirs("run", "--dir", "third", module="reproduce")
    assert refused.returncode == 1
    assert "add --allow" in refused.stderr


def test_what_fails_in_training_names_the_image(theirs):
    done = theirs("augment._target_=mine.Fails", "augment=none", "hydra.run.dir=fails")
    assert done.returncode != 0
    assert "augment fails on training image" in done.stderr, done.stderr
    assert "RuntimeError: enough" in done.stderr
    done = theirs("augment._target_=mine.smaller", "+augment._partial_=true", "augment=none", "hydra.run.dir=smaller")
    assert done.returncode != 0
    assert "the images of a batch need one shape" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("right", "augment: Mix mixes training images"),
        ("whole", "it must give images of that shape, and labels"),
        ("few", "Mix makes float32 (31, 1, 28, 28) and float32 (32, 10)"),
        ("none", "Mix fails on the first training images"),
    ],
)
def test_a_mixture_of_ones_own(theirs, what, words):
    mix = f"+augment.mix={{_target_: mine.Mix, what: {what}}}"
    done = theirs(mix, "trainer.limit_train_batches=1", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert (done.returncode == 0) == (what == "right"), done.stdout + done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
