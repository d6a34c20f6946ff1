# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest: Debian's cloud kernel under QEMU's TCG, with a shell on a serial line."""

import gzip
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from support.program import slow_factor
from support.qmp import QMP
from support.tools import is_listening

TREE = Path(__file__).resolve().parent.parent.parent
QEMU = "qemu-system-x86_64"
BUSYBOX = "/bin/busybox"
MODULES = ["virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_legacy_dev",
           "virtio/virtio_pci_modern_dev", "virtio/virtio_pci", "block/virtio_blk"]
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
for module in %s; do insmod /$module.ko; done
exec 3<> /dev/ttyS1
stty -echo <&3
cd /
echo @@ready@@ >&3
while read -r line <&3; do eval "$line" >&3 2>&1; done
"""
BOOT_SECONDS = 50
# What a guest's kernel says about a disk that fails.
TROUBLE = re.compile(
    r"I/O error|Buffer I/O|EXT4-fs error|EXT4-fs \([^)]*\): (?:.*error|Remounting)"
    r"|blk_update_request|hung_task|blocked for more than|Call Trace|id \d+ is not")


def kernel_root():
    """The unpacked kernel package, or None where there is none."""
    found = subprocess.run([TREE / "scripts" / "guest-kernel", "--check"],
                           capture_output=True, text=True)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def missing():
    """Why no guest can be started; empty if one can."""
    if not shutil.which(QEMU):
        return f"{QEMU} is not installed"
    if not os.path.exists(BUSYBOX):
        return "busybox-static is not installed"
    if kernel_root() is None:
        return "the guest's kernel cannot be fetched"
    return ""


def missing_fio():
    """Why a guest cannot have fio; empty if it can."""
    return "" if shutil.which("fio") else "fio is not installed"


def kernel_module(name):
    """The file of a module of the guest's kernel, "net/vmw_vsock/vsock"; None: there is none."""
    found = kernel_root() and list(kernel_root().glob(f"lib/modules/*/kernel/{name}.ko"))
    return found[0] if found else None


def make_tools_disk(path, *programs, files=()):
    """A read-only disk of this host's programs, in /usr/bin, and all that they are linked with,
    where it is here, to `chroot` into. `files` are in its root directory."""
    with tempfile.TemporaryDirectory() as tree:
        for program in programs:
            found = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
            bin_directory = Path(tree, "usr/bin")
            bin_directory.mkdir(parents=True, exist_ok=True)
            shutil.copy(program, bin_directory)
            for name in re.findall(r"(/\S+)", found.stdout):
                target = Path(tree + os.path.realpath(os.path.dirname(name)))
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(name, target / os.path.basename(name))
        for file in files:
            shutil.copy(file, tree)
        for name, place in (("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin")):
            os.symlink(place, f"{tree}/{name}")
        for name in ("dev", "proc", "sys", "tmp"):
            os.mkdir(f"{tree}/{name}")
        size = sum(entry.stat().st_size for entry in Path(tree).rglob("*") if entry.is_file())
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, path,
                        f"{size * 5 // 4096 + 4096}k"], check=True)


def cpio_entry(name, mode, data=b""):
    name = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def make_initramfs(root, path):
    drivers = next(root.glob("lib/modules/*/kernel/drivers"))
    names = [Path(module).name for module in MODULES]
    archive = b"".join(cpio_entry(name, 0o40755)
                       for name in ("bin", "dev", "proc", "sys", "mnt", "tmp"))
    archive += cpio_entry("bin/busybox", 0o100755, Path(BUSYBOX).read_bytes())
    archive += cpio_entry("init", 0o100755, (INIT % " ".join(names)).encode())
    for module, name in zip(MODULES, names):
        archive += cpio_entry(f"{name}.ko", 0o100644, (drivers / f"{module}.ko").read_bytes())
    archive += cpio_entry("TRAILER!!!", 0)
    Path(path).write_bytes(gzip.compress(archive, 1))


class Guest:
    """Started by the constructor; `directory` takes its sockets and logs. `tools` is a disk image
    that it sees as /dev/vdb and mounts at /tools with mount_tools()."""

    MEMORY = "192M"

    def __init__(self, directory, vhost_path, name="guest", queues=1, device="", incoming=None,
                 reconnect=True, tools=None):
        self.directory = Path(directory)
        self.name = name
        root = kernel_root()
        kernel = next(root.glob("boot/vmlinuz-*"))
        initramfs = self.file("initramfs")
        if not os.path.exists(initramfs):
            make_initramfs(root, initramfs)
        command = [
            QEMU, "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "pc,memory-backend=memory", "-m", self.MEMORY, "-smp", "2", "-no-reboot",
            "-object", f"memory-backend-memfd,id=memory,size={self.MEMORY},share=on",
            "-kernel", str(kernel), "-initrd", initramfs,
            "-append", "console=ttyS0 panic=-1 quiet loglevel=4 tsc=unstable random.trust_cpu=on "
            "no_timer_check",
            "-serial", f"file:{self.file(name + '.log')}",
            "-serial", f"unix:{self.file(name + '.sh')},server=on,wait=off",
            "-qmp", f"unix:{self.file(name + '.qmp')},server=on,wait=off",
            "-chardev", f"socket,id=disk,path={vhost_path}" + (",reconnect=1" if reconnect else ""),
            "-device", f"vhost-user-blk-pci,chardev=disk,num-queues={queues}{device}"]
        if tools:
            command += ["-drive", f"if=none,id=tools,format=raw,read-only=on,file={tools}",
                        "-device", "virtio-blk-pci,drive=tools"]
        if incoming:
            command += ["-incoming", incoming]
        with open(self.file(name + ".stderr"), "wb") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr,
                                            stderr=stderr, cwd=directory)
        self.qmp = QMP.connect(self.wait_for_socket(name + ".qmp"))
        self.shell = socket.socket(socket.AF_UNIX)
        self.shell.connect(self.wait_for_socket(name + ".sh"))
        self.pending = b""

    def file(self, name):
        return str(self.directory / name)

    def text(self, suffix):
        return Path(self.file(self.name + suffix)).read_text(errors="replace")

    @property
    def log(self):
        return self.text(".log")

    def wait_for_socket(self, name):
        limit = time.monotonic() + 20 * slow_factor()
        while not is_listening(self.file(name)):
            assert self.process.poll() is None, self.text(".stderr")
            assert time.monotonic() < limit, f"no {name}: {self.text('.stderr')}"
            time.sleep(0.01)
        return self.file(name)

    def wait_until_up(self):
        self.receive_until(rb"@@ready@@\r?\n", BOOT_SECONDS)
        return self

    def receive_until(self, pattern, timeout):
        """What comes before the pattern, and the match."""
        limit = time.monotonic() + timeout * slow_factor()
        while True:
            found = re.search(pattern, self.pending)
            if found:
                before = self.pending[:found.start()]
                self.pending = self.pending[found.end():]
                return before.decode(errors="replace").replace("\r", ""), found
            left = limit - time.monotonic()
            assert left > 0, f"no answer, but {self.pending[-500:]!r}\n{self.log}"
            self.shell.settimeout(left)
            try:
                piece = self.shell.recv(65536)
            except TimeoutError:
                continue
            assert piece, f"the guest is gone: {self.text('.stderr')}\n{self.log}"
            self.pending += piece

    def start(self, command):
        """Sends a command, one line that runs in a shell of its own; finish() waits for its end."""
        self.shell.sendall(f"({command}); echo @@$?@@\n".encode())

    def finish(self, timeout=60):
        output, found = self.receive_until(rb"@@(\d+)@@\r?\n", timeout)
        assert found.group(1) == b"0", f"{output}\n{self.log}"
        return output.strip()

    def run(self, command, timeout=60):
        self.start(command)
        return self.finish(timeout)

    def mount_tools(self):
        self.run("mkdir -p /tools && mount -t ext4 -o ro /dev/vdb /tools && "
                 "for d in dev proc sys; do mount --bind /$d /tools/$d; done && "
                 "mount -t tmpfs none /tools/tmp")

    def take_shell(self, other):
        """Goes on with the shell of a guest that has migrated here."""
        self.pending = other.pending

    def check_log(self):
        log = self.run("dmesg")
        assert not TROUBLE.search(log), log

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.shell.close()
        self.qmp.close()
