# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest on vhost-user-blk disks: it works, and does not notice when the daemon dies."""

import os
import subprocess

import pytest

from support.guest import Guest, missing
from support.program import slow_factor

MIB = 1 << 20
KILLS = int(os.environ.get("STRATA_GUEST_KILLS", "3"))

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

FILE_SYSTEM = """
mke2fs -q /dev/vda && mount -t ext4 /dev/vda /mnt &&
dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null && cp /tmp/data /mnt/data && sync &&
echo 3 > /proc/sys/vm/drop_caches && cmp /tmp/data /mnt/data && rm /mnt/data && sync &&
fstrim /mnt && umount /mnt && sync && echo all well
"""


@pytest.fixture
def boot(tmp_path):
    guests = []

    def boot_guest(*args, **kwargs):
        guests.append(Guest(tmp_path, *args, **kwargs))
        return guests[-1]

    yield boot_guest
    for guest in guests:
        guest.stop()


def add_export(daemon, name="e0", node="disk", **options):
    daemon.qmp.cmd("block-export-add", dict({
        "type": "vhost-user-blk", "id": name, "node-name": node, "writable": True,
        "addr": {"type": "unix", "path": daemon.file(f"{name}.sock")}},
        **{key.replace("_", "-"): value for key, value in options.items()}))
    return daemon.file(f"{name}.sock")


def one_line(script):
    return " ".join(script.split("\n"))


def test_guest_uses_a_raw_disk(daemon, boot):
    daemon.add_file(size=64 * MIB, discard="unmap")
    guest = boot(add_export(daemon)).wait_until_up()
    assert guest.run("cat /sys/block/vda/size") == str(64 * MIB // 512)
    assert guest.run(one_line(FILE_SYSTEM)).endswith("all well")
    guest.run("cat /dev/urandom | head -c 8388608 > /dev/vda; sync")
    before = os.stat(daemon.file("disk.img")).st_blocks
    guest.run("blkdiscard /dev/vda")
    assert os.stat(daemon.file("disk.img")).st_blocks < before
    guest.check_log()


def test_guest_uses_qcow2_with_two_queues_and_packed_rings(daemon, boot):
    path = daemon.file("disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    for name in ("t0", "t1"):
        daemon.qmp.cmd("object-add", {"qom-type": "iothread", "id": name})
    daemon.qmp.cmd("blockdev-add", {"driver": "qcow2", "node-name": "disk", "discard": "unmap",
                                    "file": {"driver": "file", "filename": path}})
    socket = add_export(daemon, num_queues=2, iothread=["t0", "t1"])
    guest = boot(socket, queues=2, device=",packed=on").wait_until_up()
    assert guest.run("ls /sys/block/vda/mq | wc -l") == "2"
    assert guest.run(one_line(FILE_SYSTEM)).endswith("all well")
    guest.check_log()
    guest.stop()
    daemon.qmp.cmd("block-export-del", {"id": "e0", "mode": "hard"})
    daemon.qmp.event("BLOCK_EXPORT_DELETED")
    daemon.qmp.cmd("blockdev-del", {"node-name": "disk"})
    assert "No errors" in subprocess.run(["qemu-img", "check", path], capture_output=True,
                                         text=True, check=True).stdout


# Two writers, each of which compares what it wrote before, round by round, past the page cache.
LOAD = """
load() {
  round=0;
  while [ ! -e /tmp/stop ]; do
    round=$((round + 1));
    dd if=/tmp/data of=/dev/vda bs=16k seek=$((($1 * 64) + round % 32)) count=4
      skip=$((round % 60)) conv=notrunc oflag=direct 2>/dev/null || exit 1;
    dd if=/dev/vda bs=16k skip=$((($1 * 64) + round % 32)) count=4 iflag=direct of=/tmp/back$1
      2>/dev/null || exit 1;
    dd if=/tmp/data bs=16k skip=$((round % 60)) count=4 of=/tmp/want$1 2>/dev/null;
    cmp /tmp/back$1 /tmp/want$1 || exit 1;
    echo $round > /tmp/round$1;
  done;
}
"""


@pytest.mark.parametrize("device", ["", ",packed=on"], ids=["split", "packed"])
def test_guest_does_not_notice_that_the_daemon_is_killed(start, boot, device):
    daemon = start.prepare("--blockdev",
                           "driver=file,node-name=disk,filename=disk.img,cache.direct=on")
    daemon.image(size=64 * MIB)
    daemon.start()
    guest = boot(add_export(daemon), device=device).wait_until_up()
    guest.run("dd if=/dev/urandom of=/tmp/data bs=16k count=64 2>/dev/null")
    body = one_line(LOAD)
    guest.run(f"echo '{body}' > /tmp/load.sh; echo 'load $1' >> /tmp/load.sh")
    guest.run("rm -f /tmp/stop; for n in 0 1 2 3; do (sh /tmp/load.sh $n; echo $? > /tmp/end$n) & "
              "done")
    for _ in range(KILLS):
        before = int(guest.run("cat /tmp/round0 2>/dev/null || echo 0"))
        guest.run(f"while [ $(cat /tmp/round0 2>/dev/null || echo 0) -le {before + 3} ]; do "
                  "[ -e /tmp/end0 ] && exit 1; sleep 0.1; done; true")
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        add_export(daemon)
    before = int(guest.run("cat /tmp/round0"))
    guest.run(f"while [ $(cat /tmp/round0) -le {before + 3} ]; do [ -e /tmp/end0 ] && exit 1; "
              "sleep 0.1; done; touch /tmp/stop; for n in 0 1 2 3; do while [ ! -e /tmp/end$n ]; "
              "do sleep 0.1; done; done")
    assert guest.run("cat /tmp/end0 /tmp/end1 /tmp/end2 /tmp/end3").split() == ["0"] * 4
    guest.check_log()


def test_guest_sees_a_resize(daemon, boot):
    daemon.add_file(size=16 * MIB)
    guest = boot(add_export(daemon)).wait_until_up()
    assert guest.run("cat /sys/block/vda/size") == "32768"
    daemon.qmp.cmd("block_resize", {"node-name": "disk", "size": 32 * MIB})
    guest.run("while [ $(cat /sys/block/vda/size) != 65536 ]; do sleep 0.1; done")
    guest.run("dd if=/dev/zero of=/dev/vda bs=1M seek=31 count=1 oflag=direct")
    guest.check_log()


def test_guest_migrates_between_two_qemus(daemon, boot, tmp_path):
    """Each QEMU has an export of its own on the same node."""
    daemon.add_file(size=64 * MIB)
    paths = [add_export(daemon, name) for name in ("source", "target")]
    source = boot(paths[0]).wait_until_up()
    source.run("mke2fs -q /dev/vda && mount -t ext4 /dev/vda /mnt && "
               "dd if=/dev/urandom of=/mnt/data bs=64k count=32 2>/dev/null && sync && "
               "sha256sum /mnt/data > /tmp/sum")
    # It writes while its memory moves.
    source.run("(i=0; while [ ! -e /tmp/stop ]; do dd if=/mnt/data of=/mnt/copy bs=64k count=8 "
               "conv=fsync 2>/dev/null || touch /tmp/failed; i=$((i+1)); echo $i > /tmp/round; "
               "done; touch /tmp/done) &")
    target = boot(paths[1], name="target", incoming=f"unix:{tmp_path}/migration")
    source.qmp.cmd("migrate-set-parameters", {"max-bandwidth": 1 << 30, "downtime-limit": 2000})
    source.qmp.cmd("migrate", {"uri": f"unix:{tmp_path}/migration"})
    limit = 60 * slow_factor()
    target.qmp.event("RESUME", timeout=limit)
    assert source.qmp.cmd("query-migrate")["status"] == "completed"
    target.run("r=$(cat /tmp/round); while [ $(cat /tmp/round) -le $r ]; do sleep 0.1; done; "
               "touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.1; done; "
               "[ ! -e /tmp/failed ]")
    target.run("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum -c -s /tmp/sum && "
               "dd if=/mnt/data bs=64k count=8 2>/dev/null | cmp - /mnt/copy && umount /mnt")
    target.check_log()
