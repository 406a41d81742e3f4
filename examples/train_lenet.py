"""Train the LeNet on real images twice: on the tape, and compiled. Same numbers, different speed.

    python train_lenet.py                                  Fashion-MNIST, 10,000 shipped images, one epoch in each mode
    python train_lenet.py --data mnist --root FOLDER --epochs 12 --modes compiled

Writes a picture (train_lenet.png): loss curves of both modes, and predictions on test images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import graphc as gc
from graphc import nn
from graphc.nn import functional as F

mpl.use("Agg")
from matplotlib import pyplot as plt

Step = Callable[[gc.Tensor, gc.Tensor], gc.Tensor]


def lenet() -> nn.Sequential:
    """Two convolutions and two linear layers: 431,080 parameters. Images (n, 1, 28, 28) -> logits (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def training_step(model: nn.Module, optimizer: gc.optim.Optimizer) -> Step:
    """One step of training, written once. It runs as it stands (eager) or through gc.compile (static)."""

    def step(images: gc.Tensor, labels: gc.Tensor) -> gc.Tensor:
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(images), 1), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


@dataclass
class Run:
    """What one training run left behind. Times in seconds."""

    mode: str
    model: nn.Sequential
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    @property
    def first_call(self) -> float:
        return self.times[0]

    @property
    def step_time(self) -> float:
        """Median, without the first call."""
        return float(np.median(self.times[1:]))


def train(mode: str, options: argparse.Namespace, progress: Progress) -> Run:
    """Train a fresh model; both modes start from the same seed and see the same batches."""
    gc.manual_seed(options.seed)
    model = lenet()
    optimizer = gc.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    step = training_step(model, optimizer)
    if mode == "compiled":
        step = gc.compile(step)
    loader = gc.data.DataLoader(
        dataset(options, train=True),
        options.batch,
        shuffle=True,
        drop_last=True,
        generator=gc.random.Generator(options.seed),
    )
    run = Run(mode, model)
    task = progress.add_task(f"{mode:9}", total=options.epochs * len(loader))
    for epoch in range(options.epochs):
        # a step size that changes is an input of the compiled step, no reason to compile again
        optimizer.param_groups[0]["lr"] = options.lr * 0.5 * (1 + np.cos(np.pi * epoch / options.epochs)) + 1e-4
        for images, labels in loader:
            start = time.perf_counter()
            loss = step(images, labels)
            run.losses.append(float(loss))
            run.times.append(time.perf_counter() - start)
            progress.update(task, advance=1, description=f"{mode:9} loss {run.losses[-1]:.3f}")
    predictions, truth = predict(run.model, options)
    run.accuracy = float(np.mean(predictions == truth))
    return run


def dataset(options: argparse.Namespace, train: bool) -> gc.data.ImageDataset:
    """The images: Fashion-MNIST as shipped, or a full set from a folder."""
    load = gc.data.mnist if options.data == "mnist" else gc.data.fashion_mnist
    return load(train, root=options.root)


def predict(model: nn.Module, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """(predicted classes, true classes) of the test images."""

    @gc.compile
    def classify(images: gc.Tensor) -> gc.Tensor:
        with gc.no_grad():
            return model(images).argmax(axis=1)

    batches = [(classify(x).numpy(), y.numpy()) for x, y in gc.data.DataLoader(dataset(options, train=False), 500)]
    predicted, truth = zip(*batches, strict=True)
    return np.concatenate(predicted), np.concatenate(truth)


def difference_in_ulps(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of two models' parameters, in units of the last place of each tensor's largest element."""
    worst = 0.0
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        x, y = p.detach().numpy(), q.detach().numpy()
        worst = max(worst, float(np.abs(x - y).max() / np.spacing(np.abs(x).max())))
    return worst


def one_step_difference(options: argparse.Namespace) -> float:
    """The same after a single step, before rounding errors have been fed back through the training."""
    models = []
    for wrap in (lambda step: step, gc.compile):
        gc.manual_seed(options.seed)
        model = lenet()
        step = wrap(training_step(model, gc.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)))
        step(*dataset(options, train=True)[: options.batch])
        models.append(model)
    return difference_in_ulps(*models)


def report(runs: list[Run], options: argparse.Namespace, console: Console) -> None:
    """The table: what was seen, no more."""
    table = Table(title=f"LeNet on {options.data}, {options.epochs} epoch(s), batch {options.batch}")
    for column in ("mode", "first call, s", "step, ms", "steps/s", "last loss", "test accuracy"):
        table.add_column(column, justify="right")
    for run in runs:
        loss = float(np.mean(run.losses[-50:]))
        cells = (f"{run.first_call:.3f}", f"{1e3 * run.step_time:.2f}", f"{1 / run.step_time:.0f}", f"{loss:.4f}")
        table.add_row(run.mode, *cells, f"{100 * run.accuracy:.2f} %")
    console.print(table)
    if len(runs) == 2:
        eager, compiled = runs
        console.print(f"compiled is {eager.step_time / compiled.step_time:.1f} times as fast as eager")
        console.print(f"largest difference of parameters after one step: {one_step_difference(options):.1f} ulps")
        after = difference_in_ulps(eager.model, compiled.model)
        console.print(
            f"largest difference of parameters after {len(eager.losses)} steps: {after:.3g} ulps "
            "(training feeds each rounding error back: a max-pool or ReLU that falls the other way changes the path)"
        )


def picture(runs: list[Run], options: argparse.Namespace, path: Path) -> None:
    """Loss curves, and 24 test images with their predicted class; where it is wrong, in red with the true one."""
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 3))
    axes = above.subplots()
    for run, style in zip(runs, ("-", "--"), strict=False):
        smooth = np.convolve(run.losses, np.ones(10) / 10, "valid")
        axes.plot(smooth, style, label=f"{run.mode}: {1e3 * run.step_time:.2f} ms a step")
    axes.set(xlabel="step", ylabel="loss (mean of 10)", yscale="log")
    axes.legend()
    test = dataset(options, train=False)
    predicted, truth = predict(runs[-1].model, options)
    for i, cell in enumerate(below.subplots(3, 8).flat):
        image, _ = test[i]
        cell.imshow(image.numpy()[0], cmap="gray_r")
        right = predicted[i] == truth[i]
        title = test.classes[predicted[i]] + ("" if right else f"\n(is {test.classes[truth[i]]})")
        cell.set_title(title, fontsize=7, color="black" if right else "red")
        cell.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the LeNet eagerly and compiled, and compare.")
    parser.add_argument("--data", choices=("fashion_mnist", "mnist"), default="fashion_mnist")
    parser.add_argument("--root", help="folder with the full data set's idx files (the shipped images without)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--picture", type=Path, default=Path("train_lenet.png"))
    options = parser.parse_args()
    console = Console()
    with Progress(console=console) as progress:
        runs = [train(mode, options, progress) for mode in options.modes]
    report(runs, options, console)
    picture(runs, options, options.picture)
    console.print(f"picture: {options.picture}")


if __name__ == "__main__":
    main()
