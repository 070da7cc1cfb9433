"""Train a torchvision network with WAU in a plain PyTorch loop: torch and torchvision suffice."""

import argparse

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

from mmwau import attach
from mmwau.overlap import layer_overlap, mean_overlap


def main() -> None:
    """Train, and print the loss of each epoch and the filter overlap before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', help='folder with a folder of images for each class')
    parser.add_argument('--epochs', type=int, default=10)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.data:
        to_input = transforms.Compose([transforms.RandomResizedCrop(224), transforms.ToTensor()])
        dataset = datasets.ImageFolder(args.data, to_input)
        num_classes = len(dataset.classes)
    else:  # noise, to be learnt by heart: it needs no download
        num_classes = 4
        dataset = datasets.FakeData(128, (3, 32, 32), num_classes, transforms.ToTensor())
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = models.resnet18(weights=None, num_classes=num_classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)

    # hold='state' needs no gradients of held filters, so that they are not computed.
    handle = attach(optimizer, model, update_ratio=0.5, hold='state')

    def overlap() -> float:
        measured = {name: layer_overlap(model.get_submodule(name)) for name in handle.layers}
        return mean_overlap(measured)['overlap']

    before = overlap()
    for epoch in range(args.epochs):
        losses = []
        for images, labels in loader:
            loss = cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f'epoch {epoch + 1}: loss {sum(losses) / len(losses):.4f}')
    print(f'filter overlap: {before:.4f} before, {overlap():.4f} after')


if __name__ == '__main__':
    main()
