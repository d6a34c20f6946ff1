# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmarks have in common: taking turns, medians, a table."""

import os
import statistics
import subprocess

FILE_SIZE = 256 << 20


def medians(runs):
    return {key: statistics.median(r[key] for r in runs) for key in runs[0]}


def side_by_side(function, programs, rounds):
    """A B A B ...: the medians of each side and the ratio of the first to the second."""
    runs = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            runs[name].append(function(program))
    result = {name: medians(found) for name, found in runs.items()}
    ours, theirs = result.values()
    result["ratio"] = {k: ours[k] / theirs[k] if theirs[k] else None for k in ours}
    return result


def make_image(directory):
    """A file of random data; holes would be answered without a request to the disk."""
    image = directory / "disk.img"
    with open(image, "wb") as out:
        for _ in range(FILE_SIZE >> 20):
            out.write(os.urandom(1 << 20))
        os.fsync(out.fileno())
    return image


COLUMNS = [("cpu_us", "CPU us/request", "{:8.2f}"), ("iops", "IOPS", "{:8.0f}"),
           ("mb_s", "MB/s", "{:7.0f}"), ("p50_us", "p50 us", "{:7.0f}"),
           ("p99_us", "p99 us", "{:7.0f}")]


def show(name, result, columns, wanted=""):
    for index, (key, title, form) in enumerate(columns):
        ours, theirs = list(result.values())[:2]
        ratio = result["ratio"][key]
        print(f"{name if not index else '':30} {title:15} {form.format(ours[key]):>10} "
              f"{form.format(theirs[key]):>10} {'-' if ratio is None else f'{ratio:.2f}':>7}  "
              f"{wanted if not index else ''}", flush=True)


def versions(programs):
    return {name: subprocess.run([program, "--version"], capture_output=True,
                                 text=True).stdout.split("\n")[0]
            for name, program in programs.items()}
