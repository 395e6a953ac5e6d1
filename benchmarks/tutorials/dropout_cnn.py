"""The dropout_cnn_adam recipe as tutorials write it: per-image transforms, a DataLoader, `.item()` each step."""

import argparse
import json
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu")
parser.add_argument("--result", required=True)
args = parser.parse_args()
torch.manual_seed(args.seed)

transform = transforms.ToTensor()
train_data = datasets.FashionMNIST(args.data, train=True, transform=transform)
test_data = datasets.FashionMNIST(args.data, train=False, transform=transform)
train_loader = DataLoader(train_data, batch_size=256, shuffle=True, drop_last=True)
test_loader = DataLoader(test_data, batch_size=256)

model = nn.Sequential(
    nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3),
    nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3),
    nn.Flatten(), nn.Linear(64 * 4 * 4, 512), nn.ReLU(), nn.Linear(512, 10),
).to(args.device)  # fmt: skip
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)


def train(epoch):
    model.train()
    total = 0.0
    for data, label in train_loader:
        data, label = data.to(args.device), label.to(args.device)
        optimizer.zero_grad()
        loss = criterion(model(data), label)
        loss.backward()
        optimizer.step()
        total += loss.item() * data.size(0)
    print(f"Epoch {epoch}\tTraining loss: {total / len(train_loader.dataset):.6f}")


def validate():
    model.eval()
    total, correct = 0.0, 0
    with torch.no_grad():
        for data, label in test_loader:
            data, label = data.to(args.device), label.to(args.device)
            output = model(data)
            total += criterion(output, label).item() * data.size(0)
            correct += (output.argmax(1) == label).sum().item()
    print(f"\tValidation loss: {total / len(test_data):.6f}, accuracy: {correct / len(test_data):.4f}")
    return correct / len(test_data)


history = []
for epoch in range(1, args.epochs + 1):
    start = time.perf_counter()
    train(epoch)
    accuracy = validate()
    history.append({"seconds": time.perf_counter() - start, "accuracy": accuracy})

with open(args.result, "w") as file:
    json.dump(history, file)
