# SPDX-License-Identifier: GPL-2.0-or-later
"""strata-nbd --connect and --disconnect, in a guest whose kernel has NBD."""

import os

import pytest

from support.guest import Guest, kernel_module, make_tools_disk, missing
from support.program import ROOT, is_oracle

MIB = 1 << 20
NBD = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin/strata-nbd"
MODULE = kernel_module("block/nbd")

pytestmark = [
    pytest.mark.skipif(is_oracle(), reason="tests our own tool"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(MODULE is None, reason="the guest's kernel has no NBD"),
]


@pytest.fixture
def guest(daemon, tmp_path):
    """A guest with the program in /tools, and /tmp/disk.img there of 16 MiB."""
    daemon.add_null()
    daemon.qmp.cmd("block-export-add", {
        "type": "vhost-user-blk", "id": "e0", "node-name": "disk",
        "addr": {"type": "unix", "path": daemon.file("e0.sock")}})
    make_tools_disk(tmp_path / "tools.img", str(NBD), files=[MODULE])
    guest = Guest(tmp_path, daemon.file("e0.sock"), tools=tmp_path / "tools.img")
    guest.wait_until_up()
    guest.mount_tools()
    guest.run("insmod /tools/nbd.ko nbds_max=2; ls /dev/nbd0; "
              "dd if=/dev/zero of=/tools/tmp/disk.img bs=1M seek=16 count=0 2>/dev/null")
    guest.program = "chroot /tools /usr/bin/strata-nbd"
    yield guest
    guest.stop()


def size_of(guest):
    return int(guest.run("cat /sys/block/nbd0/size")) * 512


@pytest.mark.seconds(180)
def test_an_image_is_a_device_of_the_kernel_until_it_is_disconnected(guest):
    guest.run(f"{guest.program} -c /dev/nbd0 -f raw /tmp/disk.img")
    assert size_of(guest) == 16 * MIB
    guest.run("mke2fs -q /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt && "
              "dd if=/dev/urandom of=/mnt/data bs=64k count=32 2>/dev/null && sync && "
              "sha256sum /mnt/data > /tmp/sum && umount /mnt")
    assert "Failed to set NBD socket" in guest.run(
        f"{guest.program} -c /dev/nbd0 -r -f raw /tmp/disk.img 2>&1; [ $? = 1 ]")
    assert guest.run(f"{guest.program} -d /dev/nbd0") == "/dev/nbd0 disconnected"
    guest.run("while pidof strata-nbd; do sleep 0.1; done")
    assert size_of(guest) == 0

    guest.run(f"{guest.program} -r -c /dev/nbd0 -f raw /tmp/disk.img")
    assert guest.run("cat /sys/block/nbd0/ro") == "1"
    guest.run("mount -t ext4 -o ro /dev/nbd0 /mnt && sha256sum -c -s /tmp/sum && umount /mnt")
    guest.run("kill $(pidof strata-nbd); while pidof strata-nbd; do sleep 0.1; done")
    assert size_of(guest) == 0
    assert "Call Trace" not in guest.run("dmesg")


@pytest.mark.seconds(180)
def test_a_verbose_server_stays_in_front_and_says_what_is_connected(guest):
    guest.run(f"({guest.program} -v -c /dev/nbd1 -f raw /tmp/disk.img > /tmp/out 2>&1; "
              "echo $? > /tmp/status) & while ! grep -q connected /tmp/out; do sleep 0.1; done")
    assert guest.run("cat /tmp/out") == "NBD device /dev/nbd1 is now connected to /tmp/disk.img"
    guest.run("[ ! -e /tmp/status ]; dd if=/dev/nbd1 of=/dev/null bs=1M 2>/dev/null; "
              f"{guest.program} --disconnect /dev/nbd1; "
              "while [ ! -e /tmp/status ]; do sleep 0.1; done; [ $(cat /tmp/status) = 0 ]")
