"""The loss of a network on images of its training data, with gradients that reach all of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from mmwau.scripts.data_check import check_data


def check_training_data(cfg: Config, needed_for: str) -> None:
    """Check that a config has training data, and that they are there.

    Args:
        cfg: The config.
        needed_for: The option that needs them.

    Raises:
        FileNotFoundError: If something of them does not exist.
        ValueError: If the config has none, or one of the files is not what it should be.
    """
    if cfg.get('train_dataloader') is None:
        raise ValueError(f'The config has no train_dataloader, which {needed_for} needs')
    check_data(cfg, ('train',))


def training_losses(runner: Runner, count: int) -> Iterator[Tensor]:
    """The loss of a model on each of some images, spread evenly over the training data.

    An image is a batch by itself, and the model in evaluation mode. Images are augmented as the
    config says, in the same way each time: the seeds of Python, NumPy and torch are set.

    Args:
        runner: It has the model and the training data.
        count: Number of images; there may be fewer.

    Yields:
        The sum of the losses of an image, with its graph.
    """
    set_random_seed(0)
    loader, model = runner.train_dataloader, runner.model
    runner.message_hub.update_info('iter', 0)  # some data preprocessors ask for it
    model.eval()
    images = len(loader.dataset)
    count = min(count, images)
    for number in range(count):
        batch = loader.collate_fn([loader.dataset[number * images // count]])
        data = model.data_preprocessor(batch, True)
        is_named = isinstance(data, dict)
        losses = model(**data, mode='loss') if is_named else model(*data, mode='loss')
        yield model.parse_losses(losses)[0]


@contextmanager
def all_trainable(model: nn.Module) -> Iterator[None]:
    """Within the context gradients reach every parameter, the frozen ones too.

    After it those of the same names are frozen again, also if others have taken their place.
    """
    frozen = [name for name, param in model.named_parameters() if not param.requires_grad]

    def unfreeze(module: nn.Module, args: tuple) -> None:
        module.requires_grad_(True)

    # Backbones of OpenMMLab freeze their stages again when their mode is set.
    handle = model.register_forward_pre_hook(unfreeze)
    unfreeze(model, ())
    try:
        yield
    finally:
        handle.remove()
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
