"""The three_conv_adam recipe as tutorials write it: per-image transforms, a DataLoader, `.item()` each step."""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu")
parser.add_argument("--result", required=True)
args = parser.parse_args()
torch.manual_seed(args.seed)

transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
train_set = datasets.FashionMNIST(args.data, train=True, transform=transform)
test_set = datasets.FashionMNIST(args.data, train=False, transform=transform)
train_loader = DataLoader(train_set, batch_size=200, shuffle=True)
test_loader = DataLoader(test_set, batch_size=200)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3)
        self.conv2 = nn.Conv2d(24, 48, 3)
        self.conv3 = nn.Conv2d(48, 96, 3)
        self.fc1 = nn.Linear(96 * 5 * 5, 400)
        self.fc2 = nn.Linear(400, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        x = x.view(-1, 96 * 5 * 5)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


model = Net().to(args.device)
optimizer = optim.Adam(model.parameters(), lr=0.001)
history = []
for epoch in range(1, args.epochs + 1):
    start = time.perf_counter()
    model.train()
    train_loss = 0.0
    for images, targets in train_loader:
        images, targets = images.to(args.device), targets.to(args.device)
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), targets)
        loss.backward()
        optimizer.step()
        train_loss += loss.item()

    model.eval()
    test_loss, correct = 0.0, 0
    with torch.no_grad():
        for images, targets in test_loader:
            images, targets = images.to(args.device), targets.to(args.device)
            output = model(images)
            test_loss += F.nll_loss(output, targets, reduction="sum").item()
            correct += (output.argmax(1) == targets).sum().item()
    accuracy = correct / len(test_set)
    history.append({"seconds": time.perf_counter() - start, "accuracy": accuracy})
    print(f"epoch {epoch}: train loss {train_loss / len(train_loader):.4f}, "
          f"test loss {test_loss / len(test_set):.4f}, accuracy {accuracy:.2%}")  # fmt: skip

with open(args.result, "w") as file:
    json.dump(history, file)
