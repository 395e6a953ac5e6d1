"""The lenet_mnist recipe as tutorials write it: per-image transforms, a DataLoader, `.item()` each step."""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu")
parser.add_argument("--result", required=True)
args = parser.parse_args()
torch.manual_seed(args.seed)

train_data = datasets.MNIST(args.data, train=True, transform=transforms.ToTensor())
test_data = datasets.MNIST(args.data, train=False, transform=transforms.ToTensor())
train_loader = DataLoader(train_data, batch_size=100, shuffle=True)
test_loader = DataLoader(test_data, batch_size=100)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


net = LeNet().to(args.device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
history = []
for epoch in range(args.epochs):
    start = time.perf_counter()
    net.train()
    running_loss = 0.0
    for i, (inputs, labels) in enumerate(train_loader):
        inputs, labels = inputs.to(args.device), labels.to(args.device)
        optimizer.zero_grad()
        loss = criterion(net(inputs), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        if i % 100 == 99:
            print(f"[{epoch + 1}, {i + 1}] loss: {running_loss / 100:.3f}")
            running_loss = 0.0

    net.eval()
    right, seen = [0] * 10, [0] * 10
    with torch.no_grad():
        for inputs, labels in test_loader:
            predicted = net(inputs.to(args.device)).argmax(1).cpu()
            for label, hit in zip(labels, predicted == labels, strict=True):
                right[label.item()] += hit.item()
                seen[label.item()] += 1
    for digit in range(10):
        print(f"Accuracy of {digit}: {right[digit] / seen[digit]:.2%}")
    history.append({"seconds": time.perf_counter() - start, "accuracy": sum(right) / sum(seen)})

with open(args.result, "w") as file:
    json.dump(history, file)
