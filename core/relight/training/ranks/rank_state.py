"""The state that each rank has for itself, generators and tracked objects, in the one checkpoint of all ranks.

Modules and optimizers are the same in every rank of a DDP training, so rank 0's are everyone's. Of a model that
`fully_shard` has split each rank saves its own rows (`ranked_cutter`); what is not split is rank 0's. The other ranks'
own state is in the checkpoint's tree under `ranks`: `{"world_size": 2, "others": [{"parts": …, "rng": …}]}`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from relight.checkpoints.snapshot_header import TensorRef
from relight.checkpoints.typed_json import decode_state, encode_state
from relight.training.ranks.group import RankGroup
from relight.training.state.rng import RngRecorder, seed_everything
from relight.training.state.seeds import mix_seeds
from relight.training.state.state_tree import decode_tree
from relight.wording import count

RANKS = "ranks"
_log = logging.getLogger("relight")


class CheckpointKey(msgspec.Struct, frozen=True):
    """What rank 0 tells the others about a checkpoint that each of them saves a part of."""

    sequence: int
    token: str


class RankMessage(msgspec.Struct, frozen=True):
    """What one rank tells the others at a cut."""

    tree: bytes
    tensors: bytes
    key: CheckpointKey | None
    """From rank 0, if tensors are split; None if not, or if nothing can be saved now."""
    is_split: bool


def encode_rank_state(
    tree: dict[str, Any], tensors: dict[str, Tensor], *, rank: int, key: CheckpointKey | None = None, is_split: bool
) -> bytes:
    """Encode the part of a captured state that rank `rank` has for itself, and the `key` of the checkpoint."""
    own = {
        "parts": {name: part for name, part in tree["parts"].items() if part["kind"] == "object"},
        "rng": tree["rng"],
    }
    kept: dict[str, Tensor] = {}

    def rename(name: str) -> TensorRef:
        new_name = f"{RANKS}.{rank}.{name}"
        kept[new_name] = tensors[name].detach().cpu().contiguous().clone()
        return TensorRef(new_name)

    renamed = decode_tree(own, rename)
    return msgspec.msgpack.encode(RankMessage(encode_state(renamed), safetensors.torch.save(kept), key, is_split))


def decode_messages(messages: Iterable[bytes]) -> list[RankMessage]:
    """Return what the ranks have told each other."""
    return [msgspec.msgpack.decode(message, type=RankMessage) for message in messages]


def add_rank_states(tree: dict[str, Any], messages: Sequence[RankMessage]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return rank 0's tree with the states of all other ranks in it, and their tensors."""
    others: list[Any] = []
    tensors: dict[str, Tensor] = {}
    for message in messages[1:]:
        others.append(decode_state(message.tree))
        tensors.update(safetensors.torch.load(message.tensors))
    return {**tree, RANKS: {"world_size": len(messages), "others": others}}, tensors


def take_rank_state(tree: dict[str, Any], group: RankGroup | None) -> dict[str, Any]:
    """Return the tree that this rank restores.

    With another number of ranks than saved it, every rank takes rank 0's objects, whose data position is everyone's.
    """
    if group is None or group.rank == 0 or saved_world_size(tree) != group.world_size:
        return tree
    own = tree[RANKS]["others"][group.rank - 1]
    return {**tree, "parts": {**tree["parts"], **own["parts"]}, "rng": own["rng"]}


def saved_world_size(tree: dict[str, Any]) -> int:
    """Return the number of ranks that saved this state."""
    return int(tree.get(RANKS, {"world_size": 1})["world_size"])


def note_world_size(tree: dict[str, Any], group: RankGroup | None) -> None:
    """After the generators are restored: if another number of ranks saved them, say so and move them apart."""
    before, now = saved_world_size(tree), 1 if group is None else group.world_size
    if before == now:
        return
    _log.info(
        "The checkpoint was saved by %s, and %s continue%s: with the same samples in the same order, but with other "
        "random numbers and sums, so not bit for bit.",
        count(before, "rank"), count(now, "rank"), "s" if now == 1 else "",
    )  # fmt: skip
    if group is not None:
        move_generators_apart(group.rank)


def move_generators_apart(rank: int) -> None:
    """Give the generators of rank `rank` another state than those of the other ranks, from the state they have now."""
    if rank:
        python, torch_state = RngRecorder().capture().python, torch.default_generator.get_state()
        drawn = int.from_bytes(python.raw[:8], "little") ^ int(torch_state[:64].sum())
        seed_everything(mix_seeds(drawn, rank) % 2**32)
