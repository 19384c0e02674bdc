"""One readable error for a checkpoint that does not fit the live objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from relight.errors import RelightError

_NAMED_AT_MOST = 8


class StateMismatch(RelightError):
    """The checkpoint and the live objects do not have the same tensors."""


def check_class(owner: str, *, saved: str | None, live: str) -> None:
    """Raise `StateMismatch` unless `owner` has the class that was saved; None means unknown."""
    if saved not in (None, live):
        raise StateMismatch(
            f"The {owner} is {live} now, but was {saved} when the checkpoint was saved. Use the code and config that "
            f"saved it, or branch from the checkpoint: in a branch the new {owner} starts fresh."
        )


def check_names(
    owner: str,
    *,
    saved: Iterable[str],
    live: Iterable[str],
    problems: Sequence[str] = (),
    forms: Mapping[str, str] | None = None,
) -> None:
    """Raise `StateMismatch` unless both sides have the same names and there are no other `problems`.

    The message contains the result of `list_differences`.
    """
    differences = list_differences(saved=saved, live=live, problems=problems, forms=forms)
    if differences:
        raise StateMismatch(
            f"The checkpoint does not match the {owner}. {differences}. "
            "Use the code and config that saved it, or start a new run."
        )


def list_differences(
    *,
    saved: Iterable[str],
    live: Iterable[str],
    problems: Sequence[str] = (),
    forms: Mapping[str, str] | None = None,
) -> str:
    """List what the checkpoint lacks, what only the checkpoint has, and the problems; "" when there is nothing.

    `forms` gives the type and shape of a name where they are known.
    """
    forms = forms or {}
    saved_names, live_names = set(saved), set(live)
    missing, extra = sorted(live_names - saved_names), sorted(saved_names - live_names)
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing in the checkpoint: {_list(missing, forms)}")
    if extra:
        parts.append(f"{len(extra)} only in the checkpoint: {_list(extra, forms)}")
    if problems:
        parts.append(f"{len(problems)} with another shape or type: {_list(problems)}")
    return "; ".join(parts)


def _list(names: Sequence[str], forms: Mapping[str, str] | None = None) -> str:
    known = forms or {}
    shown = ", ".join(f"{name} ({known[name]})" if name in known else name for name in names[:_NAMED_AT_MOST])
    return shown if len(names) <= _NAMED_AT_MOST else f"{shown} and {len(names) - _NAMED_AT_MOST} more"
