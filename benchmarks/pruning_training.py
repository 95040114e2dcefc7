"""The loop of benchmarks/pruning.py: timm's data, optimizer and schedule, used as its train.py uses them.

train.py itself cannot do it: the network loses filters halfway, or after every epoch.
"""

import copy
import math
from argparse import Namespace
from contextlib import nullcontext
from functools import partial
from typing import Any

import pruning_methods
import timm
import torch
from timm import utils
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler_factory import scheduler_kwargs
from torch import nn

import timm_hetconv
from inference.errors import UserError
from inference.reproduce.dataset import Dataset
from inference.reproduce.results import Epoch

__all__ = ['Trainer']

CHOOSE_BY = 8  # batches of training images by which channel pruning chooses: 1024 images


class Trainer:
    """A network that is trained and pruned, an epoch at a time; what comes of it depends on the arguments alone.

    Args:
        method: One of pruning_methods.METHODS.
        recipe: Settings for train.py.
        seed: Of weights, order of the images and augmentation.
        epochs: In all.
        before: Of them, before filters are removed.
        dense, target: Registered names of what is pruned, and of what has the MACs to be reached.
        data: Of `inspect_folder`.
        workers: Processes that read images.
        device: 'cpu' or 'cuda'.

    Attributes:
        kept: Share of the filters that stay.
        target_macs: What `target` takes.
        phases: Epochs of each cycle of the learning rate.
        curve: Epochs that have ended.
        seconds: Which the caller counts.
        resumed_at: Epochs at which it went on.
        model: In training.
        pruned: The network that the last epoch was measured on.

    Raises:
        UserError: The MACs cannot be reached.
    """

    def __init__(
        self,
        method: str,
        recipe: dict[str, Any],
        seed: int,
        epochs: int,
        before: int,
        dense: str,
        target: str,
        data: Dataset,
        workers: int,
        device: str,
    ) -> None:
        self.method, self.recipe, self.seed, self.epochs, self.before = method, recipe, seed, epochs, before
        self.workers, self.device = workers, torch.device(device)
        self.curve: list[Epoch] = []
        self.resumed_at: list[int] = []
        self.seconds = 0.0
        # SFP has one cycle even where epochs are left after the removal.
        self.phases = [epochs] if method == 'sfp' or before == epochs else [before, epochs - before]
        utils.random_seed(seed)
        self.model = timm.create_model(dense, num_classes=recipe['num_classes'])
        self.target_macs = timm_hetconv.count(
            timm.create_model(target, num_classes=recipe['num_classes'], device='meta')
        ).macs
        self.kept = pruning_methods.share(self.model, target)
        self._place()
        self.pruned = self.model
        self._config = resolve_data_config({'img_size': recipe['img_size']}, model=self.model)
        self._data = {
            split: create_dataset(data.dataset, root=str(data.folder), split=split, is_training=split == 'train')
            for split in ('train', 'val')
        }
        self._begin_phase()

    def train_epoch(self) -> Epoch:
        """Train the next epoch, remove or zero filters as its number says, and measure.

        Raises:
            UserError: The loss is no longer a number.
        """
        epoch = len(self.curve)
        # Of the epoch, so that a run which went on sees the same images as one which was not interrupted.
        utils.random_seed(self.seed, 10000 * (epoch + 1))
        loss = self._train(self._loader('train'))
        if not math.isfinite(loss):
            raise UserError(f'the loss of epoch {epoch + 1} is {loss}: the training has diverged')
        if epoch + 1 < self.before and self.method == 'sfp':
            pruning_methods.zero(self.model, self.method, self.kept)
            self.pruned = copy.deepcopy(self.model)
            pruning_methods.prune(self.pruned, self.method, self.kept)
        else:
            if epoch + 1 == self.before:
                pruning_methods.prune(self.model, self.method, self.kept, self._images())
            self.pruned = self.model
        metrics = self._validate(self.pruned)
        self.curve.append(Epoch(epoch=epoch, train_loss=loss, **metrics))
        if epoch + 1 == self.before and epoch + 1 < self.epochs:
            self._begin_phase()
        return self.curve[-1]

    def state(self) -> dict[str, Any]:
        """For a checkpoint, after an epoch."""
        return {
            'model': self.model.state_dict(),
            'optimizer': self._optimizer.state_dict(),
            'curve': [epoch.model_dump() for epoch in self.curve],
            'seconds': self.seconds,
            'resumed_at': self.resumed_at,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.curve = [Epoch(**epoch) for epoch in state['curve']]
        self.seconds, self.resumed_at = state['seconds'], [*state['resumed_at'], len(self.curve)]
        if len(self.curve) >= self.before:  # any filters: the weights come from the state
            pruning_methods.prune(self.model, 'l1', self.kept)
            self._begin_phase()
        self.model.load_state_dict(state['model'])
        self._optimizer.load_state_dict(state['optimizer'])
        self.pruned = self.model
        self._scheduler.step_update(self._updates())

    @property
    def _phase(self) -> tuple[int, int]:
        """Its first epoch and how many it has, of the phase that the next epoch is in."""
        if len(self.phases) > 1 and len(self.curve) >= self.before:
            return self.before, self.phases[1]
        return 0, self.phases[0]

    def _begin_phase(self) -> None:
        epochs = self._phase[1]
        # The recipe's cycle, compressed.
        warmup = round(self.recipe['warmup_epochs'] * epochs / self.epochs)
        settings = Namespace(**{**self.recipe, 'epochs': epochs, 'warmup_epochs': warmup, 'seed': self.seed})
        self._optimizer = create_optimizer_v2(self.model, **optimizer_kwargs(settings))
        self._scheduler, _ = create_scheduler_v2(
            self._optimizer, **scheduler_kwargs(settings), updates_per_epoch=self._batches
        )
        self._scheduler.step_update(self._updates())

    def _updates(self) -> int:
        return (len(self.curve) - self._phase[0]) * self._batches

    @property
    def _batches(self) -> int:
        return max(len(self._data['train']) // self.recipe['batch_size'], 1)

    def _place(self) -> None:
        self.model.to(device=self.device)
        if self.recipe.get('channels_last'):
            self.model.to(memory_format=torch.channels_last)

    def _loader(self, split: str):
        recipe, config = self.recipe, self._config
        settings: dict[str, Any] = dict(interpolation=config['interpolation'], crop_pct=config['crop_pct'])
        if split == 'train':
            settings = dict(
                interpolation='random',  # train.py's default
                train_crop_mode=recipe['train_crop_mode'],
                scale=recipe['scale'],
                ratio=recipe['ratio'],
                color_jitter=recipe['color_jitter'],
                is_training=True,
            )
        return create_loader(
            self._data[split],
            input_size=config['input_size'],
            batch_size=recipe['batch_size'],
            mean=config['mean'],
            std=config['std'],
            num_workers=self.workers,
            persistent_workers=False,  # which would go on with random numbers of the epochs before
            use_prefetcher=False,
            device=self.device,
            **settings,
        )

    def _autocast(self):
        if not self.recipe.get('amp'):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.recipe['amp_dtype']))

    def _images(self) -> torch.Tensor | None:
        """(1024, C, H, W): training images, in the order and augmentation of an epoch."""
        if self.method != 'cp':
            return None
        loader = self._loader('train')
        return torch.cat([images for _, (images, _) in zip(range(CHOOSE_BY), loader)])

    def _to_device(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layout = torch.channels_last if self.recipe.get('channels_last') else torch.contiguous_format
        return images.to(self.device).contiguous(memory_format=layout), targets.to(self.device)

    def _train(self, loader) -> float:
        """One epoch; the mean loss."""
        criterion, losses = nn.CrossEntropyLoss(label_smoothing=self.recipe['smoothing']), utils.AverageMeter()
        self.model.train()
        self._optimizer.zero_grad()
        for updates, batch in enumerate(loader, self._updates() + 1):
            images, targets = self._to_device(*batch)
            with self._autocast():
                loss = criterion(self.model(images), targets)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            losses.update(loss.item(), len(images))
            self._scheduler.step_update(updates, metric=losses.avg)
        return losses.avg

    def _validate(self, model: nn.Module) -> dict[str, float]:
        """Loss, and top-1 and top-5 in per cent of all of val/."""
        meters = {name: utils.AverageMeter() for name in ('val_loss', 'top1', 'top5')}
        accuracy = partial(utils.accuracy, topk=(1, 5))
        model.eval()
        with torch.inference_mode():
            for batch in self._loader('val'):
                images, targets = self._to_device(*batch)
                with self._autocast():
                    output = model(images)
                    loss = nn.functional.cross_entropy(output, targets)
                for name, value in zip(meters, (loss, *accuracy(output, targets))):
                    meters[name].update(value.item(), len(images))
        return {name: meter.avg for name, meter in meters.items()}
