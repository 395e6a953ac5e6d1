"""The mlp_sgd recipe as tutorials write it: scikit-learn computes the accuracy of each step, loss and all are kept."""

import argparse
import json
import time

import torch
from sklearn.metrics import accuracy_score
from torch import nn
from torch.utils.data import DataLoader, random_split
from torchvision import datasets, transforms

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--device", default="cpu")
parser.add_argument("--result", required=True)
args = parser.parse_args()
torch.manual_seed(args.seed)

full = datasets.FashionMNIST(args.data, train=True, transform=transforms.ToTensor())
train_ds, val_ds = random_split(full, [55000, 5000])
test_ds = datasets.FashionMNIST(args.data, train=False, transform=transforms.ToTensor())
train_loader = DataLoader(train_ds, batch_size=32, shuffle=True)
val_loader = DataLoader(val_ds, batch_size=32)
test_loader = DataLoader(test_ds, batch_size=32)

model = nn.Sequential(
    nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
).to(args.device)
loss_fct = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)


@torch.no_grad()
def evaluate(loader):
    model.eval()
    losses, predictions, truth = [], [], []
    for datas, labels in loader:
        logits = model(datas.to(args.device))
        losses.append(loss_fct(logits, labels.to(args.device)).item())
        predictions.extend(logits.argmax(1).cpu().numpy().tolist())
        truth.extend(labels.numpy().tolist())
    model.train()
    return sum(losses) / len(losses), accuracy_score(truth, predictions)


record = {"train": [], "val": []}
history, step = [], 0
for _epoch in range(args.epochs):
    start = time.perf_counter()
    model.train()
    for datas, labels in train_loader:
        datas, labels = datas.to(args.device), labels.to(args.device)
        optimizer.zero_grad()
        logits = model(datas)
        loss = loss_fct(logits, labels)
        loss.backward()
        optimizer.step()
        step += 1
        accuracy = accuracy_score(labels.cpu().numpy(), logits.argmax(1).cpu().numpy())
        record["train"].append({"loss": loss.item(), "acc": accuracy, "step": step})
        if step % 1000 == 0:
            val_loss, val_accuracy = evaluate(val_loader)
            record["val"].append({"loss": val_loss, "acc": val_accuracy, "step": step})
            print(f"step {step}: val loss {val_loss:.4f}, accuracy {val_accuracy:.4f}")
    history.append({"seconds": time.perf_counter() - start})

loss, accuracy = evaluate(test_loader)
print(f"loss: {loss:.4f}\naccuracy: {accuracy:.4f}")
history[-1]["accuracy"] = accuracy
with open(args.result, "w") as file:
    json.dump(history, file)
