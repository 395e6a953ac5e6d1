"""A multilayer perceptron on MNIST as a first script with Lightning has it: nothing in it is slow on purpose."""

import argparse
import json
import tempfile

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchmetrics.classification import MulticlassAccuracy
from torchvision import datasets, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu")
parser.add_argument("--num-workers", type=int, default=0)
parser.add_argument("--result", required=True)
args = parser.parse_args()


class DigitClassifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )
        self.criterion = nn.CrossEntropyLoss()
        self.train_accuracy = MulticlassAccuracy(num_classes=10, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes=10, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes=10, average="micro")

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        loss = self.criterion(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        self.val_accuracy(logits, labels)
        self.log("val/loss", self.criterion(logits, labels), prog_bar=True)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def test_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        self.test_accuracy(logits, labels)
        self.log("test/loss", self.criterion(logits, labels))
        self.log("test/accuracy", self.test_accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main():
    pl.seed_everything(args.seed, workers=True)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    full = datasets.MNIST(args.data, train=True, transform=transform)
    train_set, val_set = random_split(full, [55000, 5000])
    test_set = datasets.MNIST(args.data, train=False, transform=transform)
    options = {
        "batch_size": 128,
        "num_workers": args.num_workers,
        "persistent_workers": args.num_workers > 0,  # Lightning's own advice
    }
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(monitor="val/accuracy", mode="max", save_last=True)
        trainer = pl.Trainer(
            max_epochs=args.epochs,
            accelerator="gpu" if args.device == "cuda" else "cpu",
            devices=1,
            logger=[TensorBoardLogger(folder), CSVLogger(folder)],
            callbacks=[best, TQDMProgressBar()],  # what Lightning takes where rich is not installed
        )
        model = DigitClassifier()
        train_loader = DataLoader(train_set, shuffle=True, **options)
        trainer.fit(model, train_loader, DataLoader(val_set, **options))
        (scores,) = trainer.test(model, DataLoader(test_set, **options), ckpt_path="best")
    with open(args.result, "w") as file:
        json.dump([{"accuracy": scores["test/accuracy"]}], file)


if __name__ == "__main__":
    main()
