# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD with what this host's kernel may not have, in a guest: its devices (strata-nbd --connect and
--disconnect), and vsock."""

import os

import pytest

from support.guest import Guest, kernel_module, make_tools_disk, missing
from support.program import ROOT, is_oracle

MIB = 1 << 20
BIN = ROOT / os.environ.get("STRATA_BUILD", "build") / "bin"
MODULES = {"nbd": ["drivers/block/nbd"],
           "vsock": ["net/vmw_vsock/vsock", "net/vmw_vsock/vmw_vsock_virtio_transport_common",
                     "net/vmw_vsock/vsock_loopback"]}

pytestmark = [
    pytest.mark.skipif(is_oracle(), reason="tests our own tools"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture
def boot(daemon, tmp_path):
    """Boots a guest with modules of that name, and programs in /usr/bin of /tools."""
    guests = []

    def boot_guest(modules, *programs):
        files = [kernel_module(name) for name in MODULES[modules]]
        if None in files:
            pytest.skip(f"the guest's kernel has no {modules}")
        daemon.add_null()
        daemon.qmp.cmd("block-export-add", {
            "type": "vhost-user-blk", "id": "e0", "node-name": "disk",
            "addr": {"type": "unix", "path": daemon.file("e0.sock")}})
        make_tools_disk(tmp_path / "tools.img", *(str(BIN / name) for name in programs),
                        files=files)
        guest = Guest(tmp_path, daemon.file("e0.sock"), tools=tmp_path / "tools.img")
        guests.append(guest)
        guest.wait_until_up()
        guest.mount_tools()
        for file in files:
            guest.run(f"insmod /tools/{file.name}")
        guest.run("dd if=/dev/zero of=/tools/tmp/disk.img bs=1M seek=16 count=0 2>/dev/null")
        return guest

    yield boot_guest
    for guest in guests:
        guest.stop()


@pytest.fixture
def guest(boot):
    """Its disk.img of 16 MiB is to be connected by `program`."""
    guest = boot("nbd", "strata-nbd")
    guest.program = "chroot /tools /usr/bin/strata-nbd"
    return guest


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


@pytest.mark.seconds(180)
def test_server_and_client_meet_by_vsock(boot):
    guest = boot("vsock", "strata-storage-daemon", "strata-io")
    guest.run("ip link set lo up; chroot /tools /usr/bin/strata-storage-daemon --daemonize "
              "--blockdev file,node-name=disk,filename=/tmp/disk.img "
              "--nbd-server addr.type=vsock,addr.cid=4294967295,addr.port=1234 "
              "--export nbd,id=e,node-name=disk,writable=on --pidfile /tmp/pid")
    options = "driver=nbd,export=disk,server.type=vsock,server.cid=1,server.port={}"
    io = "chroot /tools /usr/bin/strata-io {}"
    words = guest.run(io.format(f"-c 'write -P 7 1M 2M' -c 'read -P 7 1M 2M' -c 'read -P 0 0 1M' "
                                f"--image-opts {options.format(1234)} 2>&1"))
    assert words.count("2097152/2097152") == 2 and "failed" not in words
    words = guest.run(io.format(f"-c quit --image-opts {options.format(1235)} 2>&1; [ $? = 1 ]"))
    assert "Failed to connect to '1:1235': Connection reset by peer" in words
    guest.run("kill $(cat /tools/tmp/pid); while [ -e /tools/tmp/pid ]; do sleep 0.1; done; "
              "[ $(dd if=/tools/tmp/disk.img bs=1M skip=1 count=2 2>/dev/null | tr -d '\\007' | "
              "wc -c) = 0 ]")
