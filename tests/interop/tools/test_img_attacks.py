# SPDX-License-Identifier: GPL-2.0-or-later
"""What images may not make strata-img do."""

import json
import resource
import shutil
import struct
import subprocess

import pytest

import compare

PROGRAM = compare.OURS / "qemu-img"
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="needs the program")


def img(*arguments, cwd, **more):
    return subprocess.run([PROGRAM, *arguments], cwd=cwd, capture_output=True, text=True,
                          timeout=60, check=False, **more)


def make(*arguments, cwd):
    done = img("create", "-q", "-f", "qcow2", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


def set_data_file(path, name):
    """Writes another name of a data file, not longer than the old one, into an image."""
    image = bytearray(path.read_bytes())
    at = image.index(struct.pack(">I", 0x44415441))
    length = struct.unpack_from(">I", image, at + 4)[0]
    assert len(name) <= length
    struct.pack_into(">I", image, at + 4, len(name))
    image[at + 8:at + 8 + length] = name.encode().ljust(length, b"\0")
    path.write_bytes(image)


def set_backing_name(path, name):
    image = bytearray(path.read_bytes())
    at = struct.unpack_from(">Q", image, 8)[0]
    struct.pack_into(">I", image, 16, len(name))
    image[at:at + len(name)] = name.encode()
    path.write_bytes(image)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("name", ["secret", "json:{\"driver\":\"file\",\"filename\":\"secret\"}",
                                  "nbd://localhost/secret"])
def test_info_opens_nothing_but_the_image(tmp_path, name):
    long_name = "x" * 60
    make("-o", f"data_file={long_name}", "image", "1M", cwd=tmp_path)
    (tmp_path / "secret").write_bytes(b"hidden" * 100)
    (tmp_path / long_name).unlink()
    set_data_file(tmp_path / "image", name)
    done = subprocess.run(["strace", "-f", "-e", "trace=open,openat,connect,socket", "-o", "trace",
                           PROGRAM, "info", "image"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    trace = (tmp_path / "trace").read_text()
    assert "\"image\"" in trace
    assert "secret" not in trace and "AF_INET" not in trace


def test_a_data_file_is_what_its_name_says_literally(tmp_path):
    long_name = "x" * 60
    make("-o", f"data_file={long_name}", "image", "1M", cwd=tmp_path)
    set_data_file(tmp_path / "image", "json:{\"driver\":\"null-co\"}")
    done = img("map", "-f", "qcow2", "image", cwd=tmp_path)
    assert done.returncode == 1
    assert "json:{\"driver\":\"null-co\"}': No such file" in done.stderr


def test_a_guessed_image_does_not_write_to_a_data_file_elsewhere(tmp_path):
    (tmp_path / "images").mkdir()
    victim = tmp_path / "victim"
    make("-o", f"data_file={victim}", "images/image", "1M", cwd=tmp_path)
    victim.write_bytes(b"precious" * 1000)
    before = victim.read_bytes()
    done = img("resize", "images/image", "2M", cwd=tmp_path)
    assert done.returncode == 1 and "format was guessed" in done.stderr
    assert victim.read_bytes() == before
    assert img("resize", "-f", "qcow2", "images/image", "2M", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("name", [
    "nbd://localhost/x", "nbd:unix:/nowhere",
    "json:{\"file.driver\":\"nbd\",\"file.path\":\"/nowhere\"}",
    "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"host_device\",\"filename\":\"/dev/zero\"}}",
    "json:{\"driver\":\"raw\",\"file.filename\":\"/dev/zero\"}",
    "json:{\"driver\":\"raw\",\"file\":\"some-node\"}"])
def test_a_backing_name_in_an_image_leads_to_files_only(tmp_path, name):
    make("-u", "-F", "raw", "-b", name, "image", "1M", cwd=tmp_path)
    for command in (["map"], ["info", "--backing-chain"], ["convert", "-O", "raw"]):
        done = img(*command, "image", *(["out"] if command[0] == "convert" else []), cwd=tmp_path)
        assert done.returncode == 1, command
        assert "that an image contains" in done.stderr, done.stderr
    done = img("info", "image", cwd=tmp_path)
    assert done.returncode == 0 and "backing file: " + name in done.stdout


def test_a_backing_name_that_is_json_reads_a_file(tmp_path):
    (tmp_path / "base").write_bytes(b"\5" * 65536)
    name = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "base"},
                       "read-only": False, "node-name": "mine"})
    make("-u", "-F", "raw", "-b", "json:" + name, "image", "64k", cwd=tmp_path)
    assert img("convert", "-O", "raw", "image", "out", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out").read_bytes() == b"\5" * 65536


def test_a_listed_driver_is_followed(tmp_path):
    make("-u", "-F", "raw", "-b", "nbd:unix:/nowhere", "image", "1M", cwd=tmp_path)
    done = img("map", "image", cwd=tmp_path, env={"STRATA_BACKING_DRIVERS": "host_device,nbd"})
    assert done.returncode == 1
    assert "that an image contains" not in done.stderr and "/nowhere" in done.stderr


def test_loops_of_backing_files_end(tmp_path):
    for name, below in (("a", "b"), ("b", "c"), ("c", "a")):
        make("-u", "-F", "qcow2", "-b", below, name, "1M", cwd=tmp_path)
    make("-u", "-F", "qcow2", "-b", "./self", "self", "1M", cwd=tmp_path)
    for name in ("a", "self"):
        for command in ("map", "info --backing-chain", "check"):
            done = img(*command.split(), name, cwd=tmp_path)
            if command != "check":
                assert done.returncode == 1 and "infinite loop" in done.stderr, done.stderr


def test_a_chain_of_ten_thousand_ends_in_bounded_memory(tmp_path):
    """10 000 links to one image under as many names would be one too; files of their own are."""
    make("-u", "-F", "qcow2", "-b", "i00001", "-o", "cluster_size=512", "i00000", "1M",
         cwd=tmp_path)
    first = (tmp_path / "i00000").read_bytes()
    for i in range(1, 10000):
        path = tmp_path / f"i{i:05}"
        path.write_bytes(first.replace(b"i00001", f"i{i + 1:05}".encode()))

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    for command in ("map", "info --backing-chain"):
        done = img(*command.split(), "i00000", cwd=tmp_path, preexec_fn=limit)
        assert done.returncode == 1 and "backing file" in done.stderr, done.stderr[:200]


def test_a_guessed_raw_disk_stays_one(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    make("-u", "-F", "raw", "-b", "/etc/shadow", "evil", "1M", cwd=tmp_path)
    program = compare.OURS / "qemu-io"
    done = subprocess.run([program, "-c", "write -s evil 0 64k", "disk"], cwd=tmp_path, timeout=60,
                          capture_output=True, text=True, check=False)
    assert "Operation not permitted" in done.stdout + done.stderr
    assert (tmp_path / "disk").read_bytes()[:4] == bytes(4)


@pytest.mark.parametrize("magic, name", [
    (b"KDMV", "vmdk"), (b"conectix", "vpc"), (b"vhdxfile", "vhdx"), (b"QED\0", "qed"),
    (b"QFI\xfb\0\0\0\1", "qcow"), (b"\0" * 64 + b"\x7f\x10\xda\xbe", "vdi"),
    (b"WithoutFreeSpace\2\0\0\0", "parallels")])
def test_other_formats_are_recognised_and_refused(tmp_path, magic, name):
    (tmp_path / "disk").write_bytes(magic.ljust(4096, b"\0"))
    done = img("info", "disk", cwd=tmp_path)
    assert done.returncode == 1
    assert f"Image is in {name} format, which is not built" in done.stderr


@pytest.mark.parametrize("name, end, found", [
    ("disk.dmg", b"koly\0\0\0\4", "dmg"), ("disk.dmg", b"", "raw"), ("disk", b"koly", "raw"),
    ("disk.dmg.old", b"koly", "raw"), (".dmg", b"koly", "dmg")])
def test_an_apple_image_is_known_by_its_name_and_trailer(tmp_path, name, end, found):
    (tmp_path / name).write_bytes(bytes(8192) + end.ljust(512, b"\0"))
    done = img("info", name, cwd=tmp_path)
    if found == "raw":
        assert done.returncode == 0 and "file format: raw\n" in done.stdout
    else:
        assert done.returncode == 1 and "Image is in dmg format, which is not built" in done.stderr


@pytest.mark.parametrize("size", ["8191P", "9223372036854775807", "4E"])
def test_sizes_beyond_all_bounds_are_refused(tmp_path, size):
    done = img("create", "-f", "qcow2", "image", size, cwd=tmp_path)
    assert done.returncode == 1 and "qemu-img: image: " in done.stderr
    assert not (tmp_path / "image").exists()
