"""The state that each rank has for itself, in the one checkpoint of all ranks: generators, tracked objects, gradients.

Modules and optimizers are the same in every rank of a DDP training, so rank 0's are everyone's. Of a model that
`fully_shard` has split each rank saves its own rows (`ranked_cutter`); what is not split is rank 0's. The other ranks'
own state is in the checkpoint's tree under `ranks`: `{"world_size": 2, "others": [{"parts": …, "rng": …}]}`.

Between two updates the gradients belong to the state, too. If the ranks have not exchanged them yet, each has its own:
rank 0's are in its parts under `unreduced`, by parameter, and those of another rank under `unreduced` in its own state,
by part and parameter.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from relight.checkpoints.snapshot_header import TensorRef
from relight.checkpoints.typed_json import decode_state, encode_state
from relight.training.ranks.group import RankGroup
from relight.training.state.rng import RngRecorder, seed_everything
from relight.training.state.seeds import mix_seeds
from relight.training.state.state_tree import decode_tree
from relight.training.state.unreduced import Gathered
from relight.training.state.weights_watch import digest_tensor
from relight.wording import count

RANKS = "ranks"
_UNREDUCED = "unreduced"
_log = logging.getLogger("relight")


class CheckpointKey(msgspec.Struct, frozen=True):
    """What rank 0 tells the others about a checkpoint: the name that all of them save it under."""

    sequence: int
    token: str


class RankMessage(msgspec.Struct, frozen=True):
    """What one rank tells the others at a cut."""

    tree: bytes
    tensors: bytes
    key: CheckpointKey | None
    """From rank 0; None if nothing can be named now."""
    is_split: bool
    """Whether the rank has a part of tensors that are split."""
    gradients: int
    """Digest of the gradients that the rank has gathered on its own; 0 without any."""


def encode_rank_state(
    tree: dict[str, Any], tensors: Mapping[str, Tensor], *, rank: int, key: CheckpointKey | None = None, is_split: bool
) -> bytes:
    """Encode the part of a captured state that rank `rank` has for itself, and the `key` of the checkpoint.

    Of gradients it has the names, but not the tensors: those go to the rank's writer.
    """
    own = {
        "parts": {name: part for name, part in tree["parts"].items() if part["kind"] == "object"},
        "rng": tree["rng"],
    }
    kept: dict[str, Tensor] = {}

    def rename(name: str) -> TensorRef:
        new_name = own_name(name, rank)
        kept[new_name] = tensors[name].detach().cpu().contiguous().clone()
        return TensorRef(new_name)

    renamed = decode_tree(own, rename)
    gradients = find_gradients(tree, tensors)
    renamed[_UNREDUCED] = {
        part: {key: TensorRef(own_name(reference.name, rank)) for key, reference in found.items()}
        for part, found in gradients.items()
    }
    digest = _digest_gradients(gradients, tensors)
    return msgspec.msgpack.encode(
        RankMessage(encode_state(renamed), safetensors.torch.save(kept), key, is_split, digest)
    )


def own_name(name: str, rank: int) -> str:
    """Return the name under which a checkpoint has a tensor of rank `rank` above 0."""
    return f"{RANKS}.{rank}.{name}"


def find_gradients(tree: dict[str, Any], tensors: Container[str]) -> dict[str, dict[str, TensorRef]]:
    """Return, by part and parameter, the gradients of a captured state that may be this rank's alone: whole tensors."""
    found = {
        name: {
            key: reference
            for kind in ("gradients", _UNREDUCED)
            for key, reference in part.get(kind, {}).items()
            if reference.name in tensors
        }
        for name, part in tree["parts"].items()
    }
    return {name: gradients for name, gradients in found.items() if gradients}


def _digest_gradients(gradients: dict[str, dict[str, TensorRef]], tensors: Mapping[str, Tensor]) -> int:
    if not gradients:
        return 0
    digests = [
        f"{part}/{key}={digest_tensor(tensors[reference.name]):x}"
        for part, found in gradients.items()
        for key, reference in found.items()
    ]
    return xxhash.xxh3_64_intdigest("\n".join(sorted(digests)).encode())


def decode_messages(messages: Iterable[bytes]) -> list[RankMessage]:
    """Return what the ranks have told each other."""
    return [msgspec.msgpack.decode(message, type=RankMessage) for message in messages]


def add_rank_states(tree: dict[str, Any], messages: Sequence[RankMessage]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return rank 0's tree with the states of all other ranks in it, and their tensors."""
    others: list[Any] = []
    tensors: dict[str, Tensor] = {}
    for message in messages[1:]:
        other = decode_state(message.tree)
        if message.gradients == messages[0].gradients:
            del other[_UNREDUCED]  # it has rank 0's
        others.append(other)
        tensors.update(safetensors.torch.load(message.tensors))
    if have_own_gradients(messages):
        tree = {**tree, "parts": _set_apart(tree["parts"], decode_state(messages[0].tree)[_UNREDUCED])}
    return {**tree, RANKS: {"world_size": len(messages), "others": others}}, tensors


def have_own_gradients(messages: Sequence[RankMessage]) -> bool:
    """Tell whether the ranks have different gradients, which they have not exchanged yet."""
    return any(message.gradients != messages[0].gradients for message in messages)


def _set_apart(parts: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return rank 0's parts with its own gradients under `unreduced`; what is split stays everyone's."""
    return {
        name: part
        if name not in own
        else {
            **part,
            "gradients": {key: one for key, one in part.get("gradients", {}).items() if key not in own[name]},
            _UNREDUCED: {
                key: one
                for kind in ("gradients", _UNREDUCED)
                for key, one in part.get(kind, {}).items()
                if key in own[name]
            },
        }
        for name, part in parts.items()
    }


def take_rank_state(tree: dict[str, Any], group: RankGroup | None) -> dict[str, Any]:
    """Return the tree that this rank restores.

    With another number of ranks than saved it, every rank takes rank 0's objects, whose data position is everyone's,
    and the average of what the ranks had gathered as gradients: exchanging that gives the same average again.
    """
    rank, world_size = (0, 1) if group is None else (group.rank, group.world_size)
    same = saved_world_size(tree) == world_size
    others = tree[RANKS]["others"] if RANKS in tree else []
    first = {name: part[_UNREDUCED] for name, part in tree["parts"].items() if _UNREDUCED in part}
    gathered = [first, *(other.get(_UNREDUCED, first) for other in others)]
    if same and rank:
        own = others[rank - 1]
        tree = {**tree, "parts": {**tree["parts"], **own["parts"]}, "rng": own["rng"]}
    if any(gathered):
        tree = {**tree, "parts": _add_gathered(tree["parts"], [gathered[rank]] if same else gathered)}
    return tree


def _add_gathered(parts: dict[str, Any], ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parts with what these `ranks` have gathered, by part and parameter, in place of rank 0's."""
    added: dict[str, Any] = {}
    for name, part in parts.items():
        found = [rank.get(name, {}) for rank in ranks]
        keys = dict.fromkeys(key for gradients in found for key in gradients)
        added[name] = {key: value for key, value in part.items() if key != _UNREDUCED}
        if keys:
            added[name][_UNREDUCED] = {
                key: Gathered(tuple(one[key].name for one in found if key in one), len(ranks)) for key in keys
            }
    return added


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
