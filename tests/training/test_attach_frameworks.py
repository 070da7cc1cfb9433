"""`attach` inside of Lightning's Trainer, an Accelerate loop and a detector of torchvision."""

import pytest
import torch
from test_attach import assert_same, loss_of, network
from torch.utils.data import DataLoader, Dataset

from mmwau import WAU, HeldGradSkipper, attach, find_layers
from mmwau.wau import HOLDS

pytestmark = pytest.mark.usefixtures('skip_in_small_layers')


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


class Batches(Dataset):
    """The batches of `loss_of`, one after another."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(index))


@pytest.mark.parametrize('hold', HOLDS)
@pytest.mark.parametrize('accumulate', [1, 2])
def test_lightning(tmp_path, hold, accumulate):
    lightning = pytest.importorskip('pytorch_lightning', reason='pytorch-lightning is an extra')

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, index):
            return self.network(batch).square().mean()

        def configure_optimizers(self):
            optimizer = sgd(self)
            self.handle = attach(optimizer, self.network, hold=hold, seed=5)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 100)
            return dict(optimizer=optimizer, lr_scheduler=schedule)

    def trainer(max_epochs):
        return lightning.Trainer(
            max_epochs=max_epochs,
            accumulate_grad_batches=accumulate,
            accelerator='cpu',
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    loader = DataLoader(Batches(), batch_size=None)
    module = Module()
    whole = trainer(2)
    whole.fit(module, loader)
    updates = 16 // accumulate
    assert module.handle.update_index == updates
    explicit = network()
    optimizer = sgd(explicit)
    layers, wau = find_layers(explicit), WAU(hold=hold, seed=5)
    for update in range(updates):
        active = wau.select(layers, update)
        for part in range(accumulate):
            (loss_of(explicit, (update * accumulate + part) % 8) / accumulate).backward()
        with wau.holding(optimizer, layers, active):
            optimizer.step()
        optimizer.zero_grad()
    for one, two in zip(module.network.parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    # Half of it, then the rest from Lightning's own checkpoint.
    half = trainer(1)
    half.fit(Module(), loader)
    half.save_checkpoint(tmp_path / 'half.ckpt')
    resumed = Module()
    trainer(2).fit(resumed, loader, ckpt_path=tmp_path / 'half.ckpt')
    assert resumed.handle.update_index == updates
    assert_same(module, resumed)


@pytest.mark.parametrize('order', ['before', 'after'])
@pytest.mark.parametrize('hold', ['weight', 'state'])
def test_accelerate(order, hold):
    accelerate = pytest.importorskip('accelerate', reason='accelerate is an extra')
    model = network()
    optimizer = sgd(model)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    if order == 'before':
        handle = attach(optimizer, model, hold=hold, seed=5)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(Batches(), batch_size=None)
    )
    if order == 'after':
        handle = attach(optimizer, model, hold=hold, seed=5)
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch).square().mean())
            optimizer.step()
            optimizer.zero_grad()
    assert handle.update_index == 4
    twin = network()
    halved = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    layers, wau = find_layers(twin), WAU(hold=hold, seed=5)
    skipper = HeldGradSkipper(twin, layers)
    for update in range(4):
        active = wau.select(layers, update)
        for part in range(2):
            loss = loss_of(twin, 2 * update + part) / 2
            loss.backward()
        grads = None if hold == 'weight' else skipper.grads
        with wau.holding(halved, layers, active, grads):
            halved.step()
        halved.zero_grad()
    for one, two in zip(
        accelerator.unwrap_model(model).parameters(), twin.parameters(), strict=True
    ):
        torch.testing.assert_close(one, two)
    assert optimizer.state_dict()['wau'] == dict(updates=4, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize('hold', ['weight', 'state'])
def test_faster_rcnn_of_torchvision_has_the_bits_of_the_explicit_form(hold):
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    images = [
        torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(place)) for place in (0, 1)
    ]
    targets = [dict(boxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]))] * 2
    models = []
    for attaches in (False, True):
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(backbone_name='resnet18', weights=None, trainable_layers=2)
        model = FasterRCNN(backbone, num_classes=2, min_size=64, max_size=64)
        params = [param for param in model.parameters() if param.requires_grad]
        optimizer = torch.optim.SGD(params, lr=0.01, momentum=0.9)
        wau = WAU(hold=hold, seed=5)
        layers = find_layers(model, 'backbone', optimizer=optimizer)
        skipper = None if hold == 'weight' else HeldGradSkipper(model, layers)
        if attaches:
            handle = attach(optimizer, model, hold=hold, seed=5, targets='backbone')
            assert handle.layers.keys() == layers.keys()
            assert len(layers) > 10
        for update in range(2):
            torch.manual_seed(update)
            active = wau.select(layers, update)
            if attaches or skipper is None:
                sum(model(images, targets).values()).backward()
            else:
                with skipper.skipping(active):
                    sum(model(images, targets).values()).backward()
            if attaches:
                optimizer.step()
            else:
                with wau.holding(optimizer, layers, active, skipper and skipper.grads):
                    optimizer.step()
            optimizer.zero_grad()
        models.append(model)
    assert_same(*models)
