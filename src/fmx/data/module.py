"""The data of a run: training, validation and test images, normalisation, augmentation and loaders."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unicodedata import normalize as spelt

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fmx.config.image_size import ImageSize, height_and_width
from fmx.config.validation import OWN
from fmx.data.arrays import ImageArrays
from fmx.data.item_dataset import ItemDataset, draws_at_random, held_out_view, making
from fmx.data.loader import ArrayLoader, EpochSampler, image_loader
from fmx.data.picture_dataset import PictureDataset
from fmx.data.pixels import drawable, value_range_of
from fmx.data.sampling import image_weights
from fmx.data.seeded_dataset import SampleKey, SeededDataset, kept_states, seed_generators
from fmx.data.source import Part, Source, accept
from fmx.data.split import split_fold, split_validation
from fmx.errors import ConfigError, DataError

__all__ = [
    "ImageDataModule",
    "Normalize",
    "Part",
    "Pictures",
    "divide",
    "english_names",
    "names_of_classes",
    "normalization",
]

log = logging.getLogger(__name__)
Loader = ArrayLoader | DataLoader[tuple[Tensor, int]]
NUM_CHECKED = 512  # pictures; photographs take a few seconds
BYTE = 255.0


class Normalize(nn.Module):
    """Turns pixels (B, C, H, W) into floats: (pixel / white - mean) / std for each channel.

    white: the value of white, 255 for uint8 pixels, and 1 for floats in 0..1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], white: float = BYTE) -> None:
        super().__init__()
        centre, spread = torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
        self.white = white
        self.register_buffer("scale", 1 / (white * spread), persistent=False)
        self.register_buffer("shift", -centre / spread, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 or float (B, C, H, W) to float32 of the same shape."""
        return torch.addcmul(self.shift, images, self.scale)

    def pixels(self, images: Tensor) -> Tensor:
        """Turn normalised images (B, C, H, W) back into uint8 pixels."""
        pixels = (images - self.shift) / self.scale
        return (pixels * (BYTE / self.white)).round().clamp(0, 255).to(torch.uint8)


class ImageDataModule(LightningDataModule):
    """Splits, normalises, augments and serves one data set.

    train, test, val: what `fmx.data.source.accept` takes; where val is None, validation images are held out of train.
    augment: maps images (B, C, H, W), uint8 or floats in 0..1, to the same, with parts for single images and for labels
    where it has the attributes `at_source`, `per_image` and `mix` of an Augmentation.
    folds, fold: how many folds of the training images there are, and which is held out; both or neither.
    sampler: how an epoch draws the training images, as `image_weights` takes it.
    mean, std: one number per channel, of pixels in 0..1. `class_names` is a list, or a language of `translations`.
    value_range: [black, white] of the values in the sources, or `auto`.
    Raises ConfigError for values that do not fit together, and DataError for data that does not match the YAML.
    """

    def __init__(
        self,
        *,
        name: str,
        root: str,
        train: Any,
        test: Any,
        class_names: Sequence[str] | str,
        translations: Mapping[str, Sequence[str]],
        num_classes: int,
        in_channels: int,
        image_size: ImageSize,
        mean: Sequence[float],
        std: Sequence[float],
        normalize: str | Sequence[Any],
        validation: float | str,
        split: str,
        split_seed: int,
        folds: int | None,
        fold: int | None,
        batch_size: int,
        eval_batch_size: int,
        shuffle: bool,
        sampler: str | Sequence[float],
        drop_last: bool,
        num_workers: int,
        augment: nn.Module,
        seed: int,
        value_range: str | Sequence[float],
        val: Any,
    ) -> None:
        super().__init__()
        self.name = name
        self.root = root
        self.num_classes = num_classes
        self.input_shape = (in_channels, *height_and_width(image_size))
        self.class_names = names_of_classes(class_names, translations, num_classes)
        self.english_names = english_names(translations, num_classes)
        given: dict[Part, Any] = {"train": train, "test": test}
        if val is not None:
            given["val"] = val
        accepted = accept(
            given,
            shape=self.input_shape,
            class_names=self.class_names,
            value_range=value_range_of(value_range),
        )
        self.sources, self.pixels = accepted.sources, accepted.pixels
        train, test = self.sources["train"], self.sources["test"]
        self.folds, self.fold = folds, fold
        self.validation = OWN if val is not None else validation if folds is None else f"fold {fold} of {folds}"
        if val is None:
            self.sources["val"] = test if self.validation == "test" else held_out_view(train, test)
        white = BYTE if self.pixels.kind == "uint8" else 1.0
        self.normalize = normalization(normalize, mean, std, in_channels, white)
        self.augment = augment
        self.indices: dict[Part, Tensor] = {"test": torch.arange(len(_labels(test)))}
        if self.validation in {"test", OWN}:
            whole = {part: torch.arange(len(_labels(self.sources[part]))) for part in ("train", "val")}
            self.indices |= whole  # type: ignore[arg-type]
        else:
            kept, held_out = divide(
                _labels(train), validation, split, split_seed, folds=folds, fold=fold, class_names=self.class_names
            )
            self.indices |= {"train": kept, "val": held_out}
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shuffle = shuffle
        self.sample_weights = image_weights(sampler, self.labels("train"), self.class_names)
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.seed = seed
        self.predict_part: Part = "test"
        if drop_last and len(self.indices["train"]) < batch_size:
            raise ConfigError(
                f"data.batch_size={batch_size} with data.drop_last=true leaves no batch of the "
                f"{len(self.indices['train'])} training images; make it smaller"
            )

    @property
    def has_validation(self) -> bool:
        """Whether any images are held out (or the test set stands in for them)."""
        return len(self.indices["val"]) > 0

    def sizes(self) -> dict[str, int]:
        """The number of images of each part."""
        return {part: len(self.indices[part]) for part in ("train", "val", "test")}

    def class_counts(self) -> dict[str, list[int]]:
        """The number of images of each class in each part."""
        parts: tuple[Part, ...] = ("train", "val", "test")
        return {part: torch.bincount(self.labels(part), minlength=self.num_classes).tolist() for part in parts}

    def labels(self, part: Part) -> Tensor:
        """The labels of one part, int64 (N,), in the order in which `loader` serves it."""
        return _labels(self.sources[part])[self.indices[part]]

    def pictures(self, part: Part) -> "Pictures":
        """The unprocessed images of one part, each read on access."""
        return Pictures(self.sources[part], self.indices[part])

    def fingerprints(self) -> dict[str, str]:
        """Content hashes of all images, of the training images, and of the choice of validation images, or of these."""
        held_out = hashlib.blake2b(self.indices["val"].numpy().tobytes(), digest_size=16).hexdigest()
        return {
            "fingerprint": self._fingerprint(_fingerprint),
            "train_fingerprint": _fingerprint(self.sources["train"]),
            "split_fingerprint": _fingerprint(self.sources["val"]) if self.validation == OWN else held_out,
        }

    def warn_of_random_images(self) -> None:
        """Warn where two reads of a validation or test image differ, since a metric of it is of a changed image."""
        parts: list[Part] = ["test"] if self.validation in {"test", "none"} else ["val", "test"]
        for part in parts:
            source = self.sources[part]
            if not isinstance(source, ItemDataset) or not draws_at_random(source, int(self.indices[part][0])):
                continue
            if part == "val" and self.validation != OWN:
                log.warning(
                    "data.train changes its images at random, and so the validation images that are held out of it: "
                    "their accuracy is too low. Give its class a method held_out(), which returns the dataset without "
                    "the random transform, or move the transform to `augment`, or set data.val"
                )
            else:
                log.warning("data.%s changes its images at random, and so every score of them: leave that out", part)

    def check_test_images(self) -> None:
        """DataError where a test image on disk cannot be read, for up to NUM_CHECKED of them, evenly spaced.

        Of a user's dataset, in which an image may take any time, the first and the last are tried.
        """
        source = self.sources["test"]
        if isinstance(source, ImageArrays):
            return
        length = len(self.indices["test"])
        number = min(NUM_CHECKED if isinstance(source, PictureDataset) else 2, length)
        own = source.apart() if isinstance(source, ItemDataset) else source
        dataset = source if isinstance(source, PictureDataset) else SeededDataset(own)  # which restores the generators
        for position in range(number):
            index = position * (length - 1) // max(1, number - 1)
            with making("test", index):
                picture, _ = dataset[index] if dataset is source else dataset[SampleKey(index, self.seed, 0, 0, index)]  # type: ignore[index]
            if tuple(picture.shape) != self.input_shape:
                raise DataError(
                    f"data.test: image {index} has the shape {tuple(picture.shape)}, but data.in_channels and "
                    f"data.image_size say {self.input_shape}"
                )

    def has_fingerprint(self, recorded: str) -> bool:
        """Whether a recorded fingerprint is that of this data; fmx 0.1 hashed the file sizes of image folders."""
        return recorded == self._fingerprint(_earlier_fingerprint) or recorded == self._fingerprint(_fingerprint)

    def _fingerprint(self, of_source: Callable[[Source], str]) -> str:
        digest = hashlib.blake2b(digest_size=16)
        own: Sequence[Part] = ("val",) if self.validation == OWN else ()
        for part in ("train", "test", *own):
            digest.update(of_source(self.sources[part]).encode())
        return digest.hexdigest()

    def train_dataloader(self) -> Loader:
        """Shuffled training batches of this rank."""
        return self._loader("train", self._sampler("train", shuffle=self.shuffle), device=self._device())

    def val_dataloader(self) -> Loader | list[Loader]:
        """Validation batches of this rank; an empty list where nothing is held out."""
        if not self.has_validation:
            return []
        return self._loader("val", self._sampler("val", shuffle=False), device=self._device())

    def predict_dataloader(self) -> Loader:
        """All of `predict_part` in order, whatever the number of processes."""
        sampler = EpochSampler(
            self.indices[self.predict_part], shuffle=False, seed=0, rank=0, world_size=1, equal_shares=False
        )
        return self._loader(self.predict_part, sampler, device=self._device(), resumable=False)

    def test_dataloader(self) -> Loader:
        """The same of the test set."""
        self.predict_part = "test"
        return self.predict_dataloader()

    def transfer_batch_to_device(
        self, batch: tuple[Tensor, Tensor], device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Move a batch to the training device, unless it was gathered there."""
        if batch[0].device == device:
            return batch
        moved: tuple[Tensor, Tensor] = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment (in training only) and normalise a batch on the training device.

        In training, labels are float32 (B, K) if the augmentation mixes images.
        """
        if self.trainer is not None and self.trainer.training:
            return self.augmented(batch)
        images, labels = batch
        return self.normalize(images), labels

    def augmented(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """A training batch augmented and normalised; what is done to each image by itself, its loader has done."""
        images, labels = batch
        images, mix = self.normalize(self.augment(images)), getattr(self.augment, "mix", None)
        return (images, labels) if mix is None else mix(images, labels, self.num_classes)

    def augmented_samples(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training images of the first epoch as the training gets them, before normalisation.

        Returns images uint8 (N, C, H, W), and labels int64 (N,), or float32 (N, K) if images are mixed. What is done to
        each image by itself is drawn as in that epoch, what is done to batches anew. The states of all generators stay.
        """
        device = torch.device("cpu")
        self.normalize.to(device)
        self.augment.to(device)
        with kept_states():
            seed_generators([self.seed])
            images, labels = self.augmented(self.first_images(count))
        return self.normalize.pixels(images), labels

    def first_images(self, count: int) -> tuple[Tensor, Tensor]:
        """The first training images of the first epoch, with what is done to each by itself, and their labels."""
        order = EpochSampler(
            self.indices["train"], shuffle=self.shuffle, seed=self.seed, rank=0, world_size=1, equal_shares=False,
            weights=self.sample_weights,
        )  # fmt: skip
        source = self.sources["train"]
        loader = image_loader(
            source.apart() if isinstance(source, ItemDataset) else source, order, batch_size=count, drop_last=False,
            num_workers=0, device=torch.device("cpu"), resumable=True,
            per_image=getattr(self.augment, "per_image", None), at_source=getattr(self.augment, "at_source", None),
        )  # fmt: skip
        images, labels = next(iter(loader))
        return images, labels

    def _device(self) -> torch.device:
        """The trainer's device; moves augmentation and normalisation to it."""
        assert self.trainer is not None
        device: torch.device = self.trainer.strategy.root_device
        self.normalize.to(device)
        self.augment.to(device)
        return device

    def _sampler(self, part: Part, *, shuffle: bool) -> EpochSampler:
        assert self.trainer is not None
        return EpochSampler(
            self.indices[part],
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            equal_shares=part == "train",
            weights=self.sample_weights if part == "train" else None,
        )

    def _loader(self, part: Part, sampler: EpochSampler, *, device: torch.device, resumable: bool = True) -> Loader:
        training = part == "train"
        return image_loader(
            self.sources[part],
            sampler,
            batch_size=self.batch_size if training else self.eval_batch_size,
            drop_last=self.drop_last and training,
            num_workers=self.num_workers,
            device=device,
            resumable=resumable,
            per_image=getattr(self.augment, "per_image", None) if training else None,
            at_source=getattr(self.augment, "at_source", None) if training else None,
        )


def divide(
    labels: Tensor,
    validation: float | str,
    split: str,
    seed: int,
    *,
    folds: int | None,
    fold: int | None,
    class_names: Sequence[str],
) -> tuple[Tensor, Tensor]:
    """The positions of the images to train on and of those held out, by one of the functions of `fmx.data.split`."""
    try:
        if folds is not None:
            return split_fold(labels, folds=folds, fold=fold, seed=seed, class_names=class_names)
        return split_validation(labels, validation=validation, split=split, seed=seed, class_names=class_names)
    except ValueError as error:
        raise ConfigError(str(error)) from None


class Pictures:
    """A sequence of images (C, H, W), each read on access and converted: by default to uint8, to be drawn."""

    def __init__(self, source: Source, indices: Tensor, convert: Callable[[Tensor], Tensor] = drawable) -> None:
        self.source = source
        self.indices = indices
        self.convert = convert

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Tensor:
        index = int(self.indices[position])
        return self.convert(
            self.source.images[index] if isinstance(self.source, ImageArrays) else self.source[index][0]
        )


def _labels(source: Source) -> Tensor:
    labels: Tensor = source.labels  # type: ignore[union-attr]
    return labels


def _fingerprint(source: Source) -> str:
    """The source's own content hash, or a hash of its labels where it has none."""
    own = getattr(source, "fingerprint", None)
    return (
        str(own())
        if own is not None
        else hashlib.blake2b(_labels(source).numpy().tobytes(), digest_size=16).hexdigest()
    )


def _earlier_fingerprint(source: Source) -> str:
    earlier = getattr(source, "earlier_fingerprint", None)
    return _fingerprint(source) if earlier is None else str(earlier())


def names_of_classes(
    class_names: Sequence[str] | str, translations: Mapping[str, Sequence[str]], num_classes: int
) -> list[str]:
    """The class names, looked up in the translations where a language is given."""
    if isinstance(class_names, str):
        if class_names not in translations:
            known = ", ".join(translations) or "none for this data set"
            raise ConfigError(f"data.class_names={class_names} is no list and no known language; languages: {known}")
        class_names = translations[class_names]
    if len(class_names) != num_classes:
        raise ConfigError(f"data.class_names has {len(class_names)} names for data.num_classes={num_classes}")
    if len({spelt("NFC", name) for name in class_names}) < num_classes:
        raise ConfigError(f"data.class_names names a class twice: {', '.join(class_names)}")
    return list(class_names)


def english_names(translations: Mapping[str, Sequence[str]], num_classes: int) -> list[str] | None:
    """English names, for figures whose fonts lack the others; None unless there is one for each class."""
    names = list(translations.get("en", ()))
    return names if len(names) == num_classes else None


def normalization(
    normalize: str | Sequence[Any], mean: Sequence[float], std: Sequence[float], in_channels: int, white: float = BYTE
) -> Normalize:
    """`dataset`: its own mean and std; `unit`: pixels in 0..1; [mean, std]: numbers, or lists of one per channel."""
    if normalize == "unit":
        mean, std = [0.0], [1.0]
    elif normalize != "dataset":
        mean, std = ([v] if isinstance(v, int | float) else list(v) for v in normalize)
    if {len(mean), len(std)} - {1, in_channels} or min(std) <= 0:
        raise ConfigError(
            f"data.normalize: mean {list(mean)} and std {list(std)} must have one number, or one for each of the "
            f"{in_channels} channels, and std must be above 0"
        )
    return Normalize(mean=mean, std=std, white=white)
