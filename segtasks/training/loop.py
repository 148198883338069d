"""The training loop. On one machine the same seed and number of ranks give the same weights, whether it was interrupted or not.

Everything random is arithmetic of (seed, step): the order, the augmentation, dropout. So a checkpoint needs to say only how
many epochs are done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segtasks import plugins
from segtasks.errors import SegtasksError
from segtasks.losses._base import Loss
from segtasks.models._base import training_loss
from segtasks.spec import DatasetSpec
from segtasks.training.checkpoint import Checkpoints, Committed, ModelInfo, model_files
from segtasks.training.checks import require_one_size, require_same_architecture
from segtasks.training.config import TrainingConfig
from segtasks.training.data import Batch, Loader, Samples, augmenter
from segtasks.training.ema import averaged
from segtasks.training.group import BufferMean, from_rank_0, gather, parallel
from segtasks.training.loaded import LoadedModel, build_model, class_dependent
from segtasks.training.optimizer import make_optimizer, optimizer_tensors, restore_optimizer
from segtasks.training.order import EpochOrder, Indices
from segtasks.training.oversample import Repeats, repeat_factors
from segtasks.training.pretrained import Pretrained, load_backbone
from segtasks.training.schedule import learning_rate
from segtasks.training.statistics import count_class_pixels
from segtasks.training.validate import validate
from segtasks.training.weights import pack, transfer, weights_digest
from segtasks.transforms.normalise import Normalise
from segtasks.transforms.seeding import stable_seed

if TYPE_CHECKING:
    from segtasks.engines._base import Rank

JSON = dict[str, Any]


class TrainingDiverged(SegtasksError):
    """The loss or the gradient is not a finite number. The last checkpoint is from before."""

    exit_code = 3


@dataclass(frozen=True)
class TrainingData:
    """The splits that are trained and validated on. `provenance` (data set, snapshot, recipe) is written into the model."""

    train: Samples
    val: Samples | None = None
    provenance: JSON = field(default_factory=dict)


def fit(
    config: TrainingConfig,
    spec: DatasetSpec,
    data: TrainingData,
    rank: Rank,
    checkpoints: Checkpoints,
    initial: LoadedModel | None = None,
    pretrained: Pretrained | None = None,
) -> JSON:
    """Train, from the newest checkpoint if there is one, and return what was made (see `_result`); the same on every rank.

    `spec` has the model's classes. With `rank.world > 1` torch.distributed's default group must be initialised. Raises
    `TrainingDiverged`, naming the images of the batch, where the loss or the gradient is not finite.
    """
    return _Fit(config, spec, data, rank, checkpoints, initial, pretrained).run()


class _Fit:
    def __init__(
        self,
        config: TrainingConfig,
        spec: DatasetSpec,
        data: TrainingData,
        rank: Rank,
        checkpoints: Checkpoints,
        initial: LoadedModel | None,
        pretrained: Pretrained | None,
    ) -> None:
        self.config, self.spec, self.data, self.rank, self.checkpoints = config, spec, data, rank, checkpoints
        require_one_size(config, data.train.index)
        if initial is not None:
            require_same_architecture(config.model, initial)
        self.device = torch.device(rank.device)
        self.report = rank.report if rank.rank == 0 else _say_nothing
        self.order = EpochOrder(
            [len(shard.places) for shard in data.train.index.shards],
            [shard.record.bytes for shard in data.train.index.shards],
            seed=config.seed,
            shuffle_bytes=config.shuffle_bytes,
            batch_size=config.batch_size,
            repeats=_repeats(config, data.train),
        )
        self.order.require_ranks(rank.world)
        self.steps = self.order.batches * config.epochs
        self.normalise = Normalise(config.mean, config.std, self.device)
        self.history: list[JSON] = []
        self.class_pixels: list[int] = []
        self.epochs_done = 0
        self.seconds_before = 0.0
        self.notes: list[str] = []
        self.initial, self.pretrained = initial, pretrained

    def run(self) -> JSON:
        found = self._find_checkpoint()
        if found is not None and found.commit.final:
            return _result(found)
        self._build(resumed=found is not None)
        if found is not None:
            self._restore(found)
        self._announce(found)
        started = time.perf_counter()
        committed = found
        with self._loader() as loader:
            batches = iter(loader)
            for epoch in range(self.epochs_done, self.config.epochs):
                self._train_epoch(epoch, batches, loader)
                self.epochs_done = epoch + 1
                last = self.epochs_done == self.config.epochs
                if self.data.val is not None and (last or self.epochs_done % self.config.eval_every == 0):
                    self._validate()
                shown = {key: value for key, value in self.history[-1].items() if key != "val"}
                self.report({"event": "epoch", "epochs": self.config.epochs, **shown})
                if last or self.epochs_done % self.config.checkpoint_every == 0:
                    seconds = self.seconds_before + time.perf_counter() - started
                    committed = self._checkpoint(final=last, seconds=seconds) if self.rank.rank == 0 else None
        # the others wait for rank 0's commit here, so that none leaves the group before it
        result = from_rank_0(_result(committed) if committed is not None else None, self.rank.world)
        assert result is not None
        return result

    def _find_checkpoint(self) -> Committed | None:
        """The newest checkpoint as rank 0 sees it."""
        found = self.checkpoints.latest() if self.rank.rank == 0 else None
        return from_rank_0(found, self.rank.world)

    def _build(self, *, resumed: bool) -> None:
        config = self.config
        torch.manual_seed(stable_seed(config.seed, "weights"))
        model = build_model(config.model, self.spec.num_classes)
        if self.initial is not None:
            same = [item.name for item in self.initial.info.spec.classes] == self.spec.names
            head = () if same else class_dependent(config.model, self.spec.num_classes)
            report = transfer(model, self.initial.model.state_dict(), fresh=head)
            why = "" if same else f"classes differ ({', '.join(self.initial.info.spec.names)}), so the head starts fresh; "
            self.notes.append(f"weights from {self.initial.url}: {why}{report}")
        elif self.pretrained is not None and not resumed:
            self.notes.append(load_backbone(model, self.pretrained))
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.oversample is not None:
            self.notes.append(f"oversampling: the {len(self.data.train)} images make {self.order.images} an epoch")
        height, width = self._input_size()
        example_NCHW = self.normalise(torch.zeros(2, height, width, 3, dtype=torch.uint8))
        self.parallel = parallel(self.model, self.rank.world, example_NCHW)
        self.buffers = BufferMean(self.model, self.rank.world)
        self.optimizer = make_optimizer(config, self.model)
        self.average = averaged(self.model, config.ema) if config.ema is not None else None

    def _input_size(self) -> tuple[int, int]:
        return self.config.augment.crop or self.data.train.index.size(0)

    def _restore(self, found: Committed) -> None:
        state = found.read_json("state.json")
        self.epochs_done = found.commit.epoch
        self.history = found.read_json("history.json")
        self.class_pixels = state["class_pixels"]
        self.seconds_before = state["seconds"]
        self.notes = state["notes"]
        weights, kept = found.tensors("model"), found.tensors("state")
        if self.average is not None:
            self.average.module.load_state_dict(weights)
            self.average.n_averaged.copy_(kept["averaged"])
            weights = {name.removeprefix("raw."): tensor for name, tensor in kept.items() if name.startswith("raw.")}
        self.model.load_state_dict(weights)
        restore_optimizer(self.optimizer, kept)

    def _announce(self, found: Committed | None) -> None:
        if not self.class_pixels:
            counts = count_class_pixels(self.data.train, rank=self.rank.rank, world=self.rank.world, threads=self.config.loader_threads)
            self.class_pixels = [int(count) for count in counts]
        module = plugins.load("losses", self.config.loss.name)
        self.loss = module.build(plugins.configure("losses", self.config.loss), self.spec, self.class_pixels)
        if isinstance(self.loss, nn.Module):
            self.loss = self.loss.to(self.device)
        self.report(
            {
                "event": "start",
                "epochs": self.config.epochs,
                "epochs_done": self.epochs_done,
                "resumed_from": found.url if found else None,
                "images": self.order.images,
                "val_images": len(self.data.val) if self.data.val is not None else 0,
                "steps": self.steps,
                "workers": self.rank.world,
                "device": str(self.device),
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "notes": self.notes,
            }
        )

    def _loader(self) -> Loader:
        config = self.config
        prepare = augmenter(config.augment, seed=config.seed, mean=config.mean, ignore_index=self.spec.ignore_index)
        return Loader(self.data.train, self._plan(self.epochs_done), prepare, threads=config.loader_threads, prefetch=config.prefetch)

    def _plan(self, first_epoch: int) -> Iterator[tuple[tuple[int, int], Indices]]:
        for epoch in range(first_epoch, self.config.epochs):
            for batch in range(self.order.batches):
                yield (epoch, batch), self.order.batch(epoch, batch, rank=self.rank.rank, world=self.rank.world)

    def _train_epoch(self, epoch: int, batches: Iterator[Batch], loader: Loader) -> None:
        started, waited = time.perf_counter(), loader.waited
        self.parallel.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        rate = 0.0
        for number in range(self.order.batches):
            batch = next(batches)
            assert batch.tag == (epoch, number)
            step = epoch * self.order.batches + number
            rate = self._set_rate(step)
            if isinstance(self.loss, Loss):
                self.loss.set_progress(step / self.steps)
            total += self._train_step(step, batch).double() * self.order.batch_images(number)
        seconds = time.perf_counter() - started
        self.history.append(
            {
                "epoch": epoch + 1,
                "step": (epoch + 1) * self.order.batches,
                "loss": float(total) / self.order.images,
                "lr": rate,
                "images_per_second": self.order.images / seconds,
                "data_wait_fraction": (loader.waited - waited) / seconds,
                "seconds": seconds,
            }
        )

    def _train_step(self, step: int, batch: Batch) -> Tensor:
        """One optimiser step; the global batch's loss."""
        torch.manual_seed(stable_seed(self.config.seed, "step", step, self.rank.rank))  # dropout
        images_NCHW = self.normalise(torch.from_numpy(batch.images_NHWC))
        target_NHW = torch.from_numpy(batch.masks_NHW.astype("int64")).to(self.device, non_blocking=True)
        with self._autocast():
            loss = training_loss(self.model, self.parallel(images_NCHW), target_NHW, self.loss)
        # ranks' parts may differ by one image: weighted, so that the mean over ranks is the mean over images
        part = len(batch.ids) / self.order.batch_images(batch.tag[1])
        (loss * (part * self.rank.world)).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip or math.inf)
        global_loss = self.buffers.exchange(loss.detach() * part)
        if not (torch.isfinite(global_loss) and torch.isfinite(norm)):
            self._diverged(step, batch, loss.item(), global_loss.item(), norm.item())
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return global_loss

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.config.precision == "bfloat16" else nullcontext()

    def _set_rate(self, step: int) -> float:
        config = self.config
        rate = learning_rate(step, self.steps, schedule=config.schedule, lr=config.lr, warmup=config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _diverged(self, step: int, batch: Batch, loss: float, global_loss: float, norm: float) -> None:
        """Every rank comes here at once, since loss and gradient are shared; the images named are of ranks whose own loss is bad."""
        mine = (batch.ids, math.isfinite(loss))
        parts = gather(mine, self.rank.world)
        suspects = [image_id for ids, fine in parts if not fine for image_id in ids] or [item for ids, _ in parts for item in ids]
        last = self.epochs_done // self.config.checkpoint_every * self.config.checkpoint_every
        raise TrainingDiverged(
            f"training diverged in epoch {batch.tag[0] + 1}, step {step + 1}: loss {global_loss}, gradient norm {norm}. "
            f"The batch: {', '.join(suspects)}. The last checkpoint is from "
            f"{f'after epoch {last}' if last else 'before training (none)'}. Use a lower lr, grad_clip, or precision float32"
        )

    def _validate(self) -> None:
        assert self.data.val is not None
        started = time.perf_counter()
        result = validate(
            self._result_model(),
            self.data.val,
            self.normalise,
            batch_size=max(1, self.config.batch_size // self.rank.world),
            rank=self.rank.rank,
            world=self.rank.world,
            threads=self.config.loader_threads,
            prefetch=self.config.prefetch,
        )
        self.history[-1].update(val=result, val_miou=result["miou"], val_seconds=time.perf_counter() - started)

    def _result_model(self) -> nn.Module:
        return self.average.module if self.average is not None else self.model

    def _checkpoint(self, *, final: bool, seconds: float) -> Committed:
        step = self.epochs_done * self.order.batches
        weights = pack("model", self._result_model().state_dict())
        state = optimizer_tensors(self.optimizer)
        if self.average is not None:
            state["averaged"] = self.average.n_averaged
            state.update({f"raw.{name}": tensor for name, tensor in self.model.state_dict().items()})
        evaluated = [row for row in self.history if "val" in row]
        info = ModelInfo(
            model=plugins.resolved("models", self.config.model),
            spec=self.spec,
            mean=self.config.mean,
            std=self.config.std,
            weights=tuple(sorted(weights)),
            digest=weights_digest(weights),
            training={
                **self.data.provenance,
                "config": self.config.model_dump(mode="json", include=set(TrainingConfig.model_fields)),
                "epoch": self.epochs_done,
                "step": step,
                "images": self.order.images,
                "class_pixels": self.class_pixels,
                "workers": self.rank.world,
                "averaged_weights": self.average is not None,
                "val": evaluated[-1]["val"] if evaluated else None,
                "val_epoch": evaluated[-1]["epoch"] if evaluated else None,
                "notes": self.notes,
                "seconds": seconds,
            },
        )
        facts = {"class_pixels": self.class_pixels, "seconds": seconds, "notes": self.notes}
        files = {**model_files(info, weights, self.history, facts), **pack("state", state)}
        return self.checkpoints.write(files, step=step, epoch=self.epochs_done, final=final)


def _repeats(config: TrainingConfig, train: Samples) -> Repeats | None:
    if config.oversample is None:
        return None
    return Repeats(repeat_factors(train.present(), config.oversample.threshold, config.oversample.power), config.seed)


def _say_nothing(event: JSON) -> None:
    """Ranks other than 0 report nothing."""


def _result(checkpoint: Committed) -> JSON:
    """What training made: `checkpoint` (URL of the step folder), `digest`, `epoch`, `step`, `history`, `val`, `seconds`, `notes`."""
    info = checkpoint.info()
    return {
        "checkpoint": checkpoint.url,
        "digest": info.digest,
        "epoch": checkpoint.commit.epoch,
        "step": checkpoint.commit.step,
        "final": checkpoint.commit.final,
        "history": checkpoint.read_json("history.json"),
        "val": info.training["val"],
        "seconds": info.training["seconds"],
        "notes": info.training["notes"],
    }
