"""Several processes of one pretraining, as children over gloo: what each does, and how a test starts them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from benchmark import pretrain as engine
from benchmark import weights
from benchmark.errors import Stopped, UserError
from benchmark.parts import Part
from benchmark.training import shards
from benchmark.training.batches import Loader, training_rows
from benchmark.training.blocks import blocks_of
from benchmark.training.trainer import Trainer
from benchmark.types import reads_reports
from tests import child


def together(target: object, count: int, folder: Path, *words: object) -> list[int]:
    """The exit statuses of `count` children, each with its rank and the words."""
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    children = [child.start(joined, target, rank, count, str(meeting), *words) for rank in range(count)]
    return [child.finish(item) for item in children]


def joined(target: object, rank: int, count: int, meeting: str, *words: object) -> None:
    """In the child: meets the others, and does its work."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    assert callable(target)
    try:
        target(rank, *words)
    except (UserError, Stopped) as error:
        Path(f"{meeting}-{rank}.txt").write_text(str(error))
        os._exit(75 if isinstance(error, Stopped) else 2)
    distributed.destroy_process_group()


def gradients(
    rank: int, cache: str, cases: Mapping[str, tuple[str, tuple[str, ...]]], steps: tuple[int, ...], path: str, sharded: bool
) -> None:
    """Writes terms and gradients of some steps from the same weights for each case, from process 0."""
    found = {case: gradients_of(Path(cache), *words, steps, sharded) for case, words in cases.items()}
    if rank == 0:
        weights.save_state(Path(path), found)


def gradients_of(
    cache: Path, name: str, settings: tuple[str, ...], steps: tuple[int, ...], sharded: bool = False
) -> dict[str, torch.Tensor]:
    """Terms and gradients by name, of this process's share of the batches; buffers too, which batch norm moves."""
    from tests.test_pretrain import Setup

    setup = Setup(cache, name, ("learning_rate=0", "weight_decay=0", "clip_norm=0", *settings))
    method = setup.method()
    wake(method)
    method.double()  # or rounding, blown up by batch norm over eight rows, would be all that is seen
    trainer = Trainer(method, setup.recipe, torch.device("cpu"), sharded=sharded)
    loader = Loader(method, setup.data, training_rows(setup.data, reads_reports(method)), setup.recipe, setup.context())
    found = {}
    for index in steps:
        batch, epoch = loader.batch(index)
        taken = trainer.step(replace(batch, images=batch.images.double()), index, epoch)
        found |= {f"{index} term {term}": torch.tensor(value) for term, value in taken.terms.items()}
        trained = [(key, item.grad) for key, item in trainer.method.named_parameters() if item.grad is not None]
        found |= {f"{index} gradient {key}": shards.whole(gradient).clone() for key, gradient in trained}
    return found | {f"buffer {key}": item.clone() for key, item in trainer.method.named_buffers() if item.is_floating_point()}


def bytes_held(rank: int, cache: str, path: str, sharded: bool) -> None:
    """Writes the bytes of weights, gradients and moments that process 0 holds after a step: of blocks, and of the rest."""
    from tests.test_pretrain import Setup

    setup = Setup(Path(cache), "mcr")
    trainer = Trainer(setup.method(), setup.recipe, torch.device("cpu"), sharded=sharded)
    rows = training_rows(setup.data, True)
    batch, epoch = Loader(trainer.method, setup.data, rows, setup.recipe, setup.context()).batch(0)
    trainer.step(batch, 0, epoch)
    inside = {item for block in blocks_of(trainer.method) for item in block.parameters()}
    held = {True: 0, False: 0}
    for item in trainer.method.parameters():
        moments = [value for value in trainer.optimizer.state.get(item, {}).values() if value.ndim]
        for value in (item, item.grad, *moments):
            held[item in inside] += 0 if value is None else shards.own(value.detach()).nbytes
    if rank == 0:
        Path(path).write_text(json.dumps([held[True], held[False]]))


def wake(method: nn.Module) -> None:
    """Moves what begins at zero, so that every gradient is one."""
    with torch.no_grad():
        for item in method.parameters():
            if not item.any():
                item.normal_(std=0.02, generator=torch.Generator().manual_seed(1))


def training(
    rank: int, cache: str, folder: str, settings: tuple[str, ...], blow: tuple[int, int, int] | None = None, fsdp: bool = False
) -> None:
    """A whole pretraining that saves after every step; with a blow (rank, step, signal) that process sends itself a signal."""
    from benchmark.types import Batch, Step
    from methods.mcr import MCR
    from tests.test_pretrain import Setup

    engine.SAVE_SECONDS = -1.0
    setup = Setup(Path(cache), "mcr", settings)
    parts = MCR.parts

    def struck(self: MCR, batch: Batch, step: Step) -> Iterator[Part]:
        if blow is not None and (rank, step.index) == blow[:2]:
            os.kill(os.getpid(), blow[2])
        yield from parts(self, batch, step)

    MCR.parts = struck
    method = setup.method()
    context = replace(setup.context(), workers=2, fsdp=fsdp)
    engine.pretrain(method, setup.data, setup.spec, setup.recipe, Path(folder), context)


def unlike(rank: int, folder: str, what: str) -> None:
    """A pretraining whose process 1 cannot read a row, or has another learning rate; or one of gloria."""
    from tests.test_pretrain import Setup

    other = rank == 1 and what != "gloria"
    setup = Setup(Path(folder, str(rank)), "gloria" if what == "gloria" else "mcr")
    if other:
        first = training_rows(setup.data, True)[0].uid
        broken, settings = ((first,), ()) if what == "rows" else ((), ("learning_rate=0.5",))
        spec = setup.spec
        setup = Setup(Path(folder, str(rank)), settings=settings, broken=broken)
        setup.spec = spec if what == "rows" else setup.spec
    setup.train(Path(folder, "run"))


def leaving(rank: int, folder: str, number: int) -> None:
    """A pretraining that a signal to process 1 stops, with a slow disk in process 0; notes the state that is there then."""
    save = engine.state.save

    def slow(*words: Any) -> None:
        if rank == 0:
            time.sleep(2)
        save(*words)

    engine.state.save = slow
    try:
        training(rank, folder, f"{folder}/run", (), (1, 0, number))
    except Stopped:
        path = Path(folder, "run/state.pt")
        Path(folder, f"seen-{rank}.txt").write_text(str(weights.load_state(path)["step"]) if path.exists() else "none")
