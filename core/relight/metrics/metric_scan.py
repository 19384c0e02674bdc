"""Which metric files a run has, and what each of them holds. No numpy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from relight.errors import DamagedFile
from relight.metrics.file_format import MetricFileName, MetricHeader, metric_file_name, parse_file_name
from relight.metrics.metric_file import MetricFile


@dataclass(frozen=True)
class ScannedFile:
    """A metric file with a valid header."""

    path: Path
    header: MetricHeader


@dataclass(frozen=True)
class MetricScan:
    """The metric files of a run by attempt, stream and part, and a sentence about each damaged one."""

    files: tuple[ScannedFile, ...]
    damaged: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Full names of everything that was logged, sorted: "train/loss"."""
        return sorted({name for file in self.files for name in file.header.names})

    @property
    def streams(self) -> list[str]:
        """Names of the streams that were logged, sorted."""
        return sorted({file.header.stream for file in self.files})


def list_file_names(folder: Path) -> list[tuple[MetricFileName, str]]:
    """Return what each metric file's name says, and the name, by attempt, stream and part. No folder holds none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  asked for each run of a list, and ten times a second
    except OSError:
        return []
    return sorted((known, name) for name in names if (known := parse_file_name(name)) is not None)


def scan_metrics(folder: Path, *, stream: str | None = None) -> MetricScan:
    """Read the header of each metric file in `folder`, or only of one stream's. A missing folder holds none."""
    wanted = None if stream is None else parse_file_name(metric_file_name(stream, attempt=1))
    files: list[ScannedFile] = []
    damaged: list[str] = []
    for known, name in list_file_names(folder):
        if wanted is not None and known.stream != wanted.stream:
            continue
        path = folder / name
        try:
            with MetricFile(path) as file:
                header = file.header
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            damaged.append(str(error))
            continue
        except OSError as error:
            damaged.append(f"The metric file {str(path)!r} cannot be read: {error.strerror or error}.")
            continue
        if stream is None or header.stream == stream:
            files.append(ScannedFile(path, header))
    return MetricScan(tuple(files), tuple(damaged))
