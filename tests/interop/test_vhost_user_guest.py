# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest on vhost-user-blk disks: it works, and does not notice when the daemon dies."""

import os
import subprocess

import pytest

from support.guest import Guest, make_tools_disk, missing, missing_fio
from support.program import slow_factor
from support.tools import is_listening, wait_until

MIB = 1 << 20
KILLS = int(os.environ.get("STRATA_GUEST_KILLS", "20"))

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


# Round after round of writing the whole disk in random order and comparing it, past the page cache.
FIO = """
round=0;
while [ ! -e /tmp/stop ]; do
  round=$((round + 1));
  chroot /tools /usr/bin/fio --name=load --filename=/dev/vda --size=16M --bsrange=4k-64k
    --rw=randwrite --direct=1 --ioengine=libaio --iodepth=16 --randseed=$round --verify=crc32c
    --verify_fatal=1 --verify_state_save=0 --thread > /tmp/fio.log 2>&1 || break;
  echo $round > /tmp/round;
done;
[ -e /tmp/stop ]; echo $? > /tmp/end
"""


def disk_counters(guest):
    """Requests that the guest's disk has completed, and those under way."""
    fields = guest.run("cat /sys/block/vda/stat; [ ! -e /tmp/end ] || cat /tmp/fio.log").split()
    assert len(fields) < 20, fields
    return int(fields[0]) + int(fields[4]), int(fields[8])


def run_under_load(guest):
    """Waits until the disk has done some more; some requests are then under way."""
    before, _ = disk_counters(guest)

    def runs():
        done, under_way = disk_counters(guest)
        return done > before + 20 and under_way > 0
    wait_until(runs, "requests of the guest", 60)


@pytest.fixture
def slow_disk(tmp_path):
    """The socket of an NBD server that is slower than a guest, but not as slow as the daemon's
    return: what a killed daemon had asked for is done by then."""
    sock = str(tmp_path / "slow.sock")
    (tmp_path / "slow.img").write_bytes(bytes(16 * MIB))
    process = subprocess.Popen([
        "qemu-storage-daemon", "--object", "throttle-group,id=slow,x-iops-total=400",
        "--blockdev", f"driver=file,node-name=file,filename={tmp_path}/slow.img",
        "--blockdev", "driver=throttle,node-name=disk,file=file,throttle-group=slow",
        "--nbd-server", f"addr.type=unix,addr.path={sock}",
        "--export", "type=nbd,id=disk,node-name=disk,writable=on"], stdin=subprocess.DEVNULL)
    wait_until(lambda: is_listening(sock), sock)
    yield sock
    process.kill()
    process.wait()


@pytest.mark.seconds(300)
@pytest.mark.skipif(bool(missing_fio()), reason=missing_fio())
@pytest.mark.parametrize("device", ["", ",packed=on"], ids=["split", "packed"])
def test_guest_does_not_notice_that_the_daemon_is_killed(start, boot, slow_disk, tmp_path,
                                                         device):
    """Some requests are always under way when the daemon is killed."""
    make_tools_disk(tmp_path / "tools.img", "/usr/bin/fio")
    daemon = start("--blockdev", f"driver=nbd,node-name=disk,server.type=unix,"
                   f"server.path={slow_disk},export=disk")
    guest = boot(add_export(daemon), device=device, tools=tmp_path / "tools.img").wait_until_up()
    guest.mount_tools()
    guest.run(f"echo '{one_line(FIO)}' > /tmp/load.sh; (sh /tmp/load.sh &)")
    for _ in range(KILLS):
        run_under_load(guest)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        add_export(daemon)
    run_under_load(guest)
    guest.run("touch /tmp/stop; while [ ! -e /tmp/end ]; do sleep 0.1; done", timeout=120)
    assert guest.run("cat /tmp/end") == "0", guest.run("cat /tmp/fio.log")
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
