"""Reads a file of `torch.save` without running any of its code, in bounded memory and time."""

from __future__ import annotations

import _compat_pickle
import collections
import io
import pickletools
import signal
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from torch import Tensor

from relight.training.weights.weight_errors import WeightsRefused

_PICKLE_BYTES = 256 << 20
_SPARE_BYTES = 1 << 30
_CPU_S = 60.0
_CPU_S_A_GIGABYTE = 10.0
_LEGACY_PICKLES = 5  # magic number, protocol, system, object, keys of the storages
_FIRST_UNREAD_PROTOCOL = 4
_MAGIC = 0x1950A86A20F9469CFC6C
_CHUNK_BYTES = 8 << 20
_ZIP = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30

_ACTING_MODULES = {
    "__builtin__", "builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "ctypes", "runpy",
    "importlib", "code", "codeop", "commands", "webbrowser", "requests", "urllib", "http", "asyncio", "multiprocessing",
    "threading", "pickle", "marshal", "types", "platform", "signal", "tempfile", "zipfile",
    "pip", "timeit", "pdb", "bdb", "cProfile", "profile", "doctest", "unittest", "ssl", "smtplib", "ftplib",
}  # fmt: skip
"""Modules whose functions act when they are called: a file of weights has no honest use for them."""

_ACTING_FAMILIES = (
    "io.", "_io.", "codecs.open", "torch.hub.", "torch.load", "torch.serialization.load", "torch.jit.",
    "torch.package.", "torch.utils.cpp_extension.", "torch.distributed.", "numpy.load", "numpy.f2py.",
    "numpy.testing.", "pandas.", "joblib.", "dill.", "cloudpickle.",
)  # fmt: skip
"""Beginnings of other names that load files or programs when they are called."""

_ATTRIBUTE = "builtins.getattr"
"""How pickle names an enum or class that is nested in another one: alone it only looks up a name."""

_TENSORS = {
    "collections.OrderedDict", "torch.Size", "torch.Tensor", "torch.device", "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout", "_codecs.encode", "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
}  # fmt: skip
"""The names that plain tensors in dictionaries need; PyTorch's own restricted loader allows them."""

_OTHER_TENSORS = {
    "_rebuild_qtensor": "quantized",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "empty (meta)",
}

_DICTIONARIES = {
    "collections.Counter", "collections.defaultdict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict", "easydict.EasyDict", "addict.addict.Dict",
}  # fmt: skip
_VALUES = {
    "argparse.Namespace", "types.SimpleNamespace", "builtins.set", "builtins.frozenset", "builtins.complex",
    "builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.str", "builtins.bool",
    "builtins.tuple", "builtins.slice", "builtins.range", "collections.deque", "typing.Any", "uuid.UUID",
    "decimal.Decimal", "fractions.Fraction", "numpy.dtype", "numpy.ndarray",
}  # fmt: skip
_VALUE_FAMILIES = (
    "numpy.core.multiarray.", "numpy._core.multiarray.", "numpy.dtypes.", "numpy.core.numeric.",
    "numpy._core.numeric.", "pathlib.", "datetime.", "omegaconf.", "torch.optim.", "pytorch_lightning.callbacks.",
    "lightning.pytorch.callbacks.", "yacs.config.", "ml_collections.",
)  # fmt: skip
"""Settings and numbers that people save next to the weights."""


class Skipped:
    """An inert stand-in for an object that is neither a tensor nor a plain value. It keeps nothing and does nothing."""

    name = "object"

    def __new__(cls, *_: Any, **__: Any) -> Skipped:
        """Accept any arguments, and keep none."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop the item of what was a kind of dictionary."""


class _SkippedAttribute(Skipped):
    """Stands for `getattr` and for every name that it would look up."""

    name = _ATTRIBUTE

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Return the class itself, so that calling the result is inert as well."""
        return cls


@dataclass(frozen=True)
class Pickled:
    """The tree of a `torch.save` file. In place of `objects`, which only code could make, it has inert stand-ins."""

    tree: Any
    objects: tuple[str, ...] = ()
    """Full names of classes and functions of other programs: "__main__.Net"."""


def read_pickled(path: Path) -> Pickled:
    """Return the tree that `torch.save` wrote to `path`: tensors on the CPU, mapped from the file if possible.

    Nothing in the file is run: its pickle is first searched for the names it would call, then read by PyTorch's
    restricted loader (`weights_only=True`). Raise `WeightsRefused` for a malicious or damaged file.
    """
    size = path.stat().st_size
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zipped = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        names = _scan_archive(file, path) if zipped else _scan_legacy(file, path)
    stand_ins, objects = _choose_stand_ins(names, path)
    try:
        with warnings.catch_warnings(), _bounded(size), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError:
        raise
    except MemoryError:
        raise WeightsRefused(
            f"{path.name} asks for far more memory than a file of its size can need. It was not made by torch.save."
        ) from None
    except _TookTooLong:
        raise WeightsRefused(
            f"{path.name} takes far longer to read than a file of its size can need. It was not made by torch.save."
        ) from None
    except Exception as error:  # a broken pickle can break its reader anywhere
        if _is_out_of_memory(error):
            raise WeightsRefused(
                f"{path.name} asks for far more memory than a file of its size can need. It was not made by torch.save."
            ) from None
        raise _explain(error, path) from error
    if zipped:
        _check_storages(tree, path)
    return Pickled(tree, objects)


class _TookTooLong(BaseException):
    """Reading took too long. Not an `Exception`, so that no reader swallows it."""


def _scan_archive(file: IO[bytes], path: Path) -> set[str]:
    """Check a zip archive of `torch.save`, and return the names that its pickle would look up."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        pickled = _find_pickle(entries, path)
        _check_sums(file, entries, path)
        file.seek(_find_part(file, pickled))
        names, protocol = _list_globals(io.BytesIO(file.read(pickled.file_size)), path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        said = _first_line(error)
        raise WeightsRefused(f"{path.name} is damaged: {said}. Copy it again from its source.") from error
    _check_names(names, protocol, path)
    return names


def _find_pickle(entries: Sequence[zipfile.ZipInfo], path: Path) -> zipfile.ZipInfo:
    if any("/code/" in entry.filename or entry.filename.endswith("/constants.pkl") for entry in entries):
        raise WeightsRefused(
            f"{path.name} is a TorchScript program, not weights. Where it was made, save only the weights: "
            "torch.save(model.state_dict(), FILE)."
        )
    twice = [name for name, count in collections.Counter(entry.filename for entry in entries).items() if count > 1]
    if twice:
        raise WeightsRefused(f"{path.name} has two parts named '{twice[0]}', so it was not made by torch.save.")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise WeightsRefused(
            f"{path.name} is a compressed zip file, which torch.save never makes and which could unpack to any size. "
            "If the weights are inside, unpack it first."
        )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsRefused(f"{path.name} is a zip file with overlapping parts, so it was not made by torch.save.")
    pickles = [entry for entry in entries if entry.filename.split("/", 1)[-1] == "data.pkl"]
    if not pickles:
        raise WeightsRefused(f"{path.name} is a zip file, but not from torch.save: it contains no data.pkl.")
    if pickles[0].file_size > _PICKLE_BYTES:
        raise WeightsRefused(
            f"{path.name} has a table of contents of {pickles[0].file_size:,} bytes, which no weights need."
        )
    return pickles[0]


def _check_sums(file: IO[bytes], entries: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Compare each part with its checksum. A checksum of 0 means that PyTorch was configured to write none."""
    for entry in entries:
        if entry.CRC and _sum(file, entry) != entry.CRC:
            raise WeightsRefused(
                f"{path.name} is damaged: its part '{entry.filename}' does not match its checksum. "
                "Copy it again from its source."
            )


def _sum(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    file.seek(_find_part(file, entry))
    total, left = 0, entry.file_size
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        total = zlib.crc32(chunk, total)
        left -= len(chunk)
    if left:
        raise EOFError(f"its part '{entry.filename}' is cut off")
    return total


def _find_part(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Return the offset of the first byte of an uncompressed part."""
    if entry.header_offset < 0:
        raise EOFError(f"its part '{entry.filename}' would begin before the file")
    file.seek(entry.header_offset)
    head = file.read(_LOCAL_HEADER_BYTES)
    if len(head) < _LOCAL_HEADER_BYTES or not head.startswith(_ZIP):
        raise EOFError(f"its part '{entry.filename}' is not where the file says")
    name_bytes, extra_bytes = struct.unpack_from("<HH", head, 26)
    return entry.header_offset + _LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes)


def _scan_legacy(file: IO[bytes], path: Path) -> set[str]:
    """Check a file from before PyTorch 1.6 (five pickles, then the numbers); return the names they would look up."""
    names: set[str] = set()
    for place in range(_LEGACY_PICKLES):
        begin = file.tell()
        try:
            found, protocol = _list_globals(file, path)
        except WeightsRefused:
            if place == 0:
                raise WeightsRefused(
                    f"{path.name} is neither a torch.save file nor a safetensors file, or it is truncated."
                ) from None
            raise
        names |= found
        if place == 0 and not _is_magic(file, begin):
            _refuse_acting(names, path)
            raise WeightsRefused(
                f"{path.name} is a pickle, but not from torch.save, so Relight does not read it. Where it was made, "
                "save the weights with torch.save(model.state_dict(), FILE)."
            )
        _check_names(found, protocol, path)
        if file.tell() - begin > _PICKLE_BYTES:
            raise WeightsRefused(
                f"{path.name} has a table of contents of {file.tell():,} bytes, which no weights need."
            )
    return names


def _is_magic(file: IO[bytes], begin: int) -> bool:
    end = file.tell()
    file.seek(begin)
    numbers = [value for op, value, _ in pickletools.genops(file) if op.name in ("LONG1", "LONG")]
    file.seek(end)
    return numbers == [_MAGIC]


def _list_globals(file: IO[bytes], path: Path) -> tuple[set[str], int]:
    """Return the names that a pickle looks up, up to its end, and its protocol, without executing any of it."""
    names: set[str] = set()
    protocol = 0
    texts: list[Any] = []  # the last values that were pushed
    memory: list[Any] = []
    try:
        for op, value, _ in pickletools.genops(file):
            if op.name == "PROTO":
                protocol = int(value or 0)
            elif op.name in ("GLOBAL", "INST"):
                module, _, name = str(value).partition(" ")
                names.add(_name_in_python_3(module, name))
            elif op.name == "STACK_GLOBAL" and len(texts) > 1 and all(isinstance(text, str) for text in texts[-2:]):
                names.add(".".join(texts[-2:]))
            elif op.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                names.add("")  # a name that exists only while the file is read
            if op.name == "MEMOIZE":
                memory.append(texts[-1] if texts else None)
            elif op.name in ("BINGET", "LONG_BINGET"):
                place = int(value or 0)
                texts.append(memory[place] if protocol >= _FIRST_UNREAD_PROTOCOL and place < len(memory) else None)
            elif op.name != "FRAME":
                texts.append(value)
            del texts[:-2]
    except Exception as error:  # genops meets garbage
        raise WeightsRefused(
            f"{path.name} is damaged: its table of contents cannot be read ({_first_line(error)})."
        ) from error
    return names, protocol


def _name_in_python_3(module: str, name: str) -> str:
    """Return the full name; `torch.save` writes the names of Python 2."""
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    module, name = renamed or (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
    return f"{module}.{name}"


def _check_names(names: set[str], protocol: int, path: Path) -> None:
    """Raise `WeightsRefused` for a pickle that is malicious, or that PyTorch's loader cannot read."""
    _refuse_acting(names, path)
    if "" in names:
        raise WeightsRefused(
            f"{path.name} hides the names of what it would run when it is loaded, which torch.save never does. "
            "Nothing in it was run."
        )
    if protocol >= _FIRST_UNREAD_PROTOCOL:
        raise WeightsRefused(
            f"{path.name} was saved with pickle_protocol={protocol}, which PyTorch's safe loader cannot read. Where it "
            "was made, save it again without pickle_protocol: torch.save(model.state_dict(), FILE)."
        )


def _choose_stand_ins(names: set[str], path: Path) -> tuple[list[Any], tuple[str, ...]]:
    """Return what PyTorch's loader uses in place of names that it does not know, and which of them are objects."""
    stand_ins: list[Any] = []
    objects: list[str] = []
    for name in sorted(names):
        if name in _TENSORS or _is_torch_type(name):
            continue
        kind = _OTHER_TENSORS.get(name.removeprefix("torch._utils."))
        if kind is not None:
            raise WeightsRefused(
                f"{path.name} holds {kind} tensors, which cannot be imported. Save them as ordinary tensors."
            )
        if name in _DICTIONARIES:
            stand_ins.append((_make_dictionary, name))
        elif name == _ATTRIBUTE:
            stand_ins.append((_SkippedAttribute, name))
        else:
            stand_ins.append((type("Skipped", (Skipped,), {"name": name}), name))
            if name not in _VALUES and not name.startswith(_VALUE_FAMILIES):
                objects.append(name)
    return stand_ins, tuple(objects)


def _refuse_acting(names: set[str], path: Path) -> None:
    for name in sorted(names - _VALUES - _DICTIONARIES - {_ATTRIBUTE}):
        if name.partition(".")[0] in _ACTING_MODULES or name.startswith(_ACTING_FAMILIES):
            raise WeightsRefused(
                f"{path.name} is malicious: loading it would run '{name}'. Nothing in it was run, and nothing "
                "was imported. Do not open it with other programs."
            )


def _is_torch_type(name: str) -> bool:
    """Tell whether `name` is a dtype or a storage class."""
    module, _, leaf = name.rpartition(".")
    if module == "torch.storage":
        return leaf in ("UntypedStorage", "TypedStorage")
    if module in ("torch", "torch.cuda"):
        return leaf.endswith("Storage") or isinstance(getattr(torch, leaf, None), torch.dtype)
    return False


def _make_dictionary(*_: Any) -> dict[Any, Any]:
    return {}


@contextmanager
def _bounded(size: int) -> Iterator[None]:
    """Limit memory and time to what reading a file of `size` bytes can need."""
    with _bounded_memory(size * 2 + _SPARE_BYTES), _bounded_time(_CPU_S + size / 1e9 * _CPU_S_A_GIGABYTE):
        yield


@contextmanager
def _bounded_memory(more_bytes: int) -> Iterator[None]:
    used = _read_data_bytes()
    if used is None:  # not Linux: the limit would have no effect
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + more_bytes
    if before[1] != resource.RLIM_INFINITY:
        wanted = min(wanted, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def _bounded_time(cpu_s: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TookTooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _read_data_bytes() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return None


def _check_storages(tree: Any, path: Path) -> None:
    """Check that each tensor's data is one part of the archive; the loader trusts the sizes in the pickle."""
    with zipfile.ZipFile(path) as archive:
        sizes = collections.Counter(entry.file_size for entry in archive.infolist())
    seen: dict[int, int] = {}
    for tensor in list_tensors(tree):
        storage = tensor.untyped_storage()
        if storage.device.type == "cpu" and storage.nbytes():
            seen.setdefault(storage.data_ptr(), storage.nbytes())
    if any(count > sizes[size] for size, count in collections.Counter(seen.values()).items()):
        raise WeightsRefused(f"{path.name} is damaged: the size of a tensor does not match its data in the file.")


def list_tensors(tree: Any) -> Iterator[Tensor]:
    """Yield every tensor in a tree of dictionaries, lists and tuples; each container is visited once."""
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "unable to mmap" in str(error))


def _explain(error: Exception, path: Path) -> WeightsRefused:
    said = _first_line(error)
    if "persistent_load of storage" in str(error):
        return WeightsRefused(
            f"{path.name} holds a whole model in PyTorch's format before 1.6, which stores its source code, so nothing "
            "was loaded. Where it was made, save only the weights: torch.save(model.state_dict(), FILE)."
        )
    if "weights_only" in str(error).lower():
        # PyTorch's message recommends loading without its protection, which must not reach anybody.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        said = reason if reason and "weights_only" not in reason else "its table of contents is not from torch.save"
    return WeightsRefused(f"{path.name} is damaged, or was not made by torch.save: {said.rstrip('.')[:200]}.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
