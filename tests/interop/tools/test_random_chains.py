# SPDX-License-Identifier: GPL-2.0-or-later
"""Random series of commands over chains of images: whatever is done to them, each disk holds what a
byte array says, by our program's reading and by QEMU's, and QEMU's check finds nothing.

python3 test_random_chains.py FIRST COUNT runs more seeds than the suite does."""

import os
import random
import shutil
import subprocess
import sys

import pytest

import compare

pytestmark = pytest.mark.skipif(not compare.available("qemu-img"),
                                reason="needs the programs of both")

KIB = 1024
SECTOR = 512
SECRET = ["--object", "secret,id=s,data=abc"]


class Failure(Exception):
    pass


class Disk:
    """An image and what it holds."""

    def __init__(self, name, fmt, data, below=None, secret=False, version=3):
        self.name, self.format, self.data, self.below = name, fmt, bytearray(data), below
        self.secret, self.version = secret, version
        self.snapshots = {}
        self.plain_data_file = False

    def words(self):
        """How a command line names it."""
        if not self.secret:
            return ["-f", self.format, self.name]
        return [*SECRET, "--image-opts",
                f"driver={self.format},file.filename={self.name},encrypt.key-secret=s"]


class World:
    def __init__(self, seed, place):
        self.random = random.Random(seed)
        self.place = place
        self.count = 0
        self.log = []
        self.chain = [self.first()]
        for _ in range(self.random.randrange(3)):
            self.chain.append(self.overlay())

    @property
    def top(self):
        return self.chain[-1]

    # Programs

    def run(self, program, *words, ok=True):
        self.log.append(" ".join([program, *words]))
        done = subprocess.run([compare.OURS / program, *words], cwd=self.place, text=True,
                              capture_output=True, timeout=60, check=False)
        if (done.returncode == 0) != ok or "Pattern verification failed" in done.stdout:
            raise Failure(done.stdout + done.stderr)
        return done

    def img(self, *words):
        return self.run("qemu-img", *words)

    def io(self, disk, *commands):
        words = [word for command in commands for word in ("-c", command)]
        return self.run("qemu-io", *words, *disk.words())

    # Making images

    def fresh_name(self):
        self.count += 1
        return f"image{self.count}"

    def some_size(self):
        size = self.random.choice([64 * KIB, 1000 * KIB, 1024 * KIB, 3 * 1024 * KIB])
        return size + self.random.choice([0, 0, SECTOR, 37 * SECTOR, 100 * KIB])

    def qcow2_options(self, below):
        choose = self.random.choice
        options, version, secret = [], 3, False
        cluster = choose(["512", "4k", "16k", "64k", "64k", "2M"])
        options.append(f"cluster_size={cluster}")
        if self.random.random() < .2:
            options.append("compat=0.10")
            version = 2
        else:
            if cluster in ("16k", "64k", "2M") and self.random.random() < .4:
                options.append("extended_l2=on")
            if self.random.random() < .3:
                options.append(f"refcount_bits={choose([8, 32, 64])}")
            if self.random.random() < .2:
                options.append("lazy_refcounts=on")
            if self.random.random() < .2:
                options.append("compression_type=zstd")
        if self.random.random() < .15:
            options += ["encrypt.format=luks", "encrypt.key-secret=s", "encrypt.iter-time=10"]
            secret = True
        if not below and not secret and self.random.random() < .3:
            options.append(f"preallocation={choose(['metadata', 'falloc', 'full'])}")
        return ["-o", ",".join(options)], version, secret

    def first(self):
        size = self.some_size()
        if self.random.random() < .4:
            name = self.fresh_name()
            self.img("create", "-q", "-f", "raw", name, str(size))
            return Disk(name, "raw", bytes(size))
        return self.new_qcow2(size, None)

    def new_qcow2(self, size, below):
        name = self.fresh_name()
        options, version, secret = self.qcow2_options(below)
        if below is not None and below.secret:
            secret = False
            options = ["-o", "cluster_size=64k"]
            version = 3
        words = ["-b", below.name, "-F", below.format] if below else []
        self.img("create", "-q", *(SECRET if secret else []), "-f", "qcow2", *options, *words, name,
                 str(size))
        data = bytearray(size)
        if below:
            held = below.data[:size]
            data[:len(held)] = held
        return Disk(name, "qcow2", data, below, secret, version)

    def overlay(self):
        below = self.top
        if below.secret:
            return self.new_qcow2(self.some_size(), None)
        size = len(below.data) if self.random.random() < .5 else self.some_size()
        return self.new_qcow2(size, below)

    # What is done

    def place_in(self, disk, unit=SECTOR):
        size = len(disk.data)
        start = self.random.randrange(0, size, unit)
        most = self.random.choice([unit, 64 * KIB, 300 * KIB])
        length = min(size - start, self.random.randrange(1, most + 1))
        if unit > 1:
            length = max(unit, length // unit * unit)
        return start, min(length, size - start)

    def write(self):
        disk = self.top
        commands = []
        for _ in range(self.random.randrange(1, 4)):
            start, length = self.place_in(disk, self.random.choice([1, SECTOR]))
            value = self.random.randrange(1, 256)
            kind = self.random.choice(["-q", "-q", "-q -z", "-q -z -u"])
            if "-z" in kind:
                value = 0
                commands.append(f"write {kind} {start} {length}")
            else:
                commands.append(f"write {kind} -P {value} {start} {length}")
            disk.data[start:start + length] = bytes([value]) * length
        self.io(disk, *commands)

    def discard(self):
        """Whole clusters of the largest size, so that what is discarded is known to be zero."""
        disk = self.top
        if disk.version < 3 or disk.format != "qcow2" or len(disk.data) < 2 << 20:
            return
        self.io(disk, "discard -q 0 2M")
        disk.data[:2 << 20] = bytes(2 << 20)

    def compressed(self):
        disk = self.top
        if disk.format != "qcow2" or disk.secret or len(disk.data) < 2 << 20:
            return
        value = self.random.randrange(1, 256)
        self.io(disk, f"write -q -c -P {value} 0 2M")
        disk.data[:2 << 20] = bytes([value]) * (2 << 20)

    def resize(self):
        disk = self.top
        size = self.some_size()
        if disk.version < 3 and disk.snapshots:
            return
        words = ["--shrink"] if size < len(disk.data) else []
        if size > len(disk.data) and self.random.random() < .6:
            modes = ["off", "falloc", "full"] + (["metadata"] if disk.format == "qcow2" else [])
            words = [f"--preallocation={self.random.choice(modes)}"]
        name, rest = disk.words()[-1], disk.words()[:-1]
        self.img("resize", "-q", *words, *rest, name, str(size))
        disk.data = disk.data[:size] + bytes(max(0, size - len(disk.data)))

    def commit(self):
        disk = self.top
        if disk.below is None or disk.secret or disk.below.secret or disk.snapshots:
            return
        below = disk.below
        if below.version < 3 and below.snapshots and len(below.data) < len(disk.data):
            return
        self.img("commit", "-q", "-f", disk.format, disk.name)
        held = below.data[len(disk.data):]
        below.data = bytearray(disk.data) + held
        if len(below.data) > len(disk.data):
            disk.data = disk.data[:len(disk.data)]

    def rebase(self):
        disk = self.top
        if disk.format != "qcow2" or disk.secret or disk.snapshots:
            return
        others = [other for other in self.chain[:-1] if not other.secret]
        other = self.random.choice([None, *others])
        words = ["-c"] if self.random.random() < .2 else []
        target = ["-b", other.name, "-F", other.format] if other else ["-b", ""]
        self.img("rebase", "-q", *words, "-f", "qcow2", *target, disk.name)
        disk.below = other
        if other is None:
            self.chain = [disk]
        else:
            self.chain = self.chain[:self.chain.index(other) + 1] + [disk]

    def snapshot(self):
        disk = self.top
        if disk.format != "qcow2" or disk.secret:
            return
        what = self.random.choice("ccad")
        if what == "c" or not disk.snapshots:
            name = f"s{len(self.log)}"
            self.img("snapshot", "-q", "-c", name, disk.name)
            disk.snapshots[name] = bytes(disk.data)
            return
        name = self.random.choice(list(disk.snapshots))
        self.img("snapshot", "-q", f"-{what}", name, disk.name)
        if what == "a":
            disk.data = bytearray(disk.snapshots[name])
        else:
            del disk.snapshots[name]

    def convert(self):
        disk = self.top
        name = self.fresh_name()
        words = []
        if self.random.random() < .3:
            words.append("-c")
        if self.random.random() < .3:
            words += ["-S", self.random.choice(["0", "4k", "64k"])]
        if self.random.random() < .3:
            words += ["-W", "-m", self.random.choice(["1", "4", "16"])]
        options, version, _ = self.qcow2_options(None)
        fmt = "raw" if "-c" not in words and self.random.random() < .3 else "qcow2"
        options = [] if fmt == "raw" or "encrypt" in options[1] else options
        if "-c" in words and options and "preallocation" in options[1]:
            options = []
        below = None
        if fmt == "qcow2" and disk.below and len(disk.below.data) == len(disk.data) \
                and not disk.below.secret and "preallocation" not in "".join(options):
            below = disk.below
            words += ["-B", below.name, "-F", below.format]
        self.img("convert", *words, *options, "-O", fmt, *disk.words(), name)
        new = Disk(name, fmt, disk.data, below, False, version if options else 3)
        self.chain = (self.chain[:-1] if below else []) + [new]

    def amend(self):
        disk = self.top
        if disk.format != "qcow2" or disk.secret or disk.version < 3:
            return
        option = self.random.choice(["refcount_bits=16", "refcount_bits=64", "lazy_refcounts=on",
                                     "lazy_refcounts=off"])
        self.img("amend", "-q", "-f", "qcow2", "-o", option, disk.name)

    def repair(self):
        if self.top.format == "qcow2":
            self.img("check", "-q", "-r", self.random.choice(["leaks", "all"]), *self.top.words())

    def add(self):
        if len(self.chain) < 4:
            self.chain.append(self.overlay())

    def step(self):
        actions = [self.write] * 6 + [self.discard, self.compressed, self.resize, self.resize,
                                      self.commit, self.rebase, self.snapshot, self.snapshot,
                                      self.convert, self.amend, self.repair, self.add]
        self.random.choice(actions)()

    # What is found

    def check(self):
        for disk in self.chain:
            wanted = bytes(disk.data)
            for program in (compare.OURS / "qemu-img", shutil.which("qemu-img")):
                self.read(program, disk, wanted, [])
            for name, data in disk.snapshots.items():
                self.read(compare.OURS / "qemu-img", disk, data, ["-l", f"snapshot.name={name}"])
            if disk.format == "qcow2":
                done = subprocess.run([shutil.which("qemu-img"), "check", *disk.words()],
                                      cwd=self.place, capture_output=True, text=True, timeout=60,
                                      check=False)
                if done.returncode:
                    raise Failure(f"{disk.name}: {done.stdout}{done.stderr}")

    def read(self, program, disk, wanted, words):
        out = self.place / "out"
        out.unlink(missing_ok=True)
        done = subprocess.run([program, "convert", *words, "-O", "raw", *disk.words(), out],
                              cwd=self.place, capture_output=True, text=True, timeout=60,
                              check=False)
        if done.returncode:
            raise Failure(f"{disk.name}: {done.stderr}")
        found = out.read_bytes()
        if len(found) != len(wanted):
            raise Failure(f"{disk.name} by {program}: {len(found)} bytes, not {len(wanted)}")
        if found != wanted:
            at = next(i for i, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1])
            raise Failure(f"{disk.name} {words} by {program}: {found[at]} at {at}, not "
                          f"{wanted[at]}")


def run_seed(seed, place):
    world = None
    try:
        world = World(seed, place)
        for _ in range(12):
            world.step()
            world.check()
    except Failure as failure:
        log = "\n".join(world.log) if world else ""
        raise AssertionError(f"seed {seed}:\n{log}\n{failure}") from failure


@pytest.mark.parametrize("seed", range(12))
def test_chains_hold_what_was_written(tmp_path, seed):
    run_seed(seed, tmp_path)


def main():
    import tempfile
    from pathlib import Path
    first, count = int(sys.argv[1]), int(sys.argv[2])
    bad = 0
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as place:
            try:
                run_seed(seed, Path(place))
            except AssertionError as error:
                bad += 1
                print(error, flush=True)
    print(f"{count} seeds, {bad} failed")


if __name__ == "__main__":
    main()
