"""The dilated_adam recipe, and with --dilation 1 avgpool_adam, as tutorials write it in PyTorch."""

import argparse
import json
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--dilation", type=int, default=2)
parser.add_argument("--epochs", type=int, default=25)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu")
parser.add_argument("--result", required=True)
args = parser.parse_args()
torch.manual_seed(args.seed)

full = datasets.FashionMNIST(args.data, train=True, transform=transforms.ToTensor())
test_set = datasets.FashionMNIST(args.data, train=False, transform=transforms.ToTensor())
train_loader = DataLoader(Subset(full, range(48000)), batch_size=64, shuffle=True)
val_loader = DataLoader(Subset(full, range(48000, 60000)), batch_size=64)
test_loader = DataLoader(test_set, batch_size=64)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, dilation=args.dilation), nn.ReLU(), nn.AvgPool2d(2),
    nn.Conv2d(16, 32, 3, dilation=args.dilation), nn.ReLU(), nn.AvgPool2d(2),
    nn.Flatten(), nn.LazyLinear(256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10),
)  # fmt: skip
model(torch.zeros(1, 1, 28, 28))
model = model.to(args.device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)


def evaluate(loader):
    model.eval()
    total, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(args.device), y.to(args.device)
            logits = model(x)
            total += criterion(logits, y).item() * len(y)
            correct += (logits.argmax(1) == y).sum().item()
            count += len(y)
    return total / count, correct / count


history, best, weights = [], 0.0, None
for epoch in range(1, args.epochs + 1):
    start = time.perf_counter()
    model.train()
    running, correct = 0.0, 0
    for x, y in train_loader:
        x, y = x.to(args.device), y.to(args.device)
        optimizer.zero_grad()
        logits = model(x)
        loss = criterion(logits, y)
        loss.backward()
        optimizer.step()
        running += loss.item() * len(y)
        correct += (logits.argmax(1) == y).sum().item()
    val_loss, val_accuracy = evaluate(val_loader)
    print(f"Epoch {epoch}: loss {running / 48000:.4f} accuracy {correct / 48000:.4f} "
          f"val_loss {val_loss:.4f} val_accuracy {val_accuracy:.4f}")  # fmt: skip
    if val_accuracy > best:
        best, weights = val_accuracy, {k: v.clone() for k, v in model.state_dict().items()}
    history.append({"seconds": time.perf_counter() - start})

model.load_state_dict(weights)
loss, accuracy = evaluate(test_loader)
print(f"test loss {loss:.4f}, test accuracy {accuracy:.4f}")
history[-1]["accuracy"] = accuracy
with open(args.result, "w") as file:
    json.dump(history, file)
