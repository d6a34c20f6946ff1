# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images: what either program writes the other reads, and both refuse the same."""

import itertools
import subprocess

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not (compare.available("qemu-img") and compare.available("qemu-io")),
    reason="needs the programs of both")

SECRET = ["--object", "secret,id=s,data=abc"]
OTHER = ["--object", "secret,id=t,data=xyz"]

# QEMU 7.2 takes no keys of 24 bytes but with XTS.
CIPHERS = [
    (cipher, mode, ivgen, "sha512" if cipher == "aes-128" else "sha256")
    for cipher, (mode, ivgen) in itertools.product(
        ("aes-128", "aes-256", "serpent-256", "twofish-128", "cast5-128"),
        (("xts", "plain64"), ("cbc", "essiv"), ("cbc", "plain"), ("ctr", "plain64")))
    if not (cipher == "cast5-128" and (mode == "xts" or ivgen == "essiv"))
]
CLUSTERS = [
    (method, size, subclusters, data_file)
    for method, size, subclusters, data_file in itertools.product(
        ("luks", "aes"), (4096, 65536), ("off", "on"), (False, True))
    if not (subclusters == "on" and size == 4096)
]


def program(whose, name):
    return str(compare.OURS / name) if whose == "ours" else name


def run(whose, name, *words, cwd, check=True):
    for _ in range(5):
        done = subprocess.run([program(whose, name), *words], cwd=cwd, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120, check=False)
        # QEMU measures how fast it derives keys by a clock that may stand still meanwhile.
        if whose == "ours" or "Unable to get accurate CPU usage" not in done.stderr:
            break
    if check:
        assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    return done


def io(whose, image, *commands, cwd, check=True):
    words = [word for command in commands for word in ("-c", command)]
    return run(whose, "qemu-io", *SECRET, *OTHER, *words, "--image-opts", image, cwd=cwd,
               check=check)


@pytest.mark.parametrize("writer, reader", [("ours", "qemu"), ("qemu", "ours")])
@pytest.mark.parametrize("cipher, mode, ivgen, digest", CIPHERS)
def test_luks_is_read_by_the_other(tmp_path, writer, reader, cipher, mode, ivgen, digest):
    options = (f"key-secret=s,iter-time=1,cipher-alg={cipher},cipher-mode={mode},"
               f"ivgen-alg={ivgen},hash-alg={digest}")
    image = "driver=luks,key-secret=s,file.filename=x.luks"
    run(writer, "qemu-img", "create", "-q", *SECRET, "-f", "luks", "-o", options, "x.luks", "1M",
        cwd=tmp_path)
    io(writer, image, "write -P 0x5a 0 300k", "write -P 7 4100 100", cwd=tmp_path)
    io(reader, image, "read -P 0x5a 0 4096", "read -P 7 4100 100", "read -P 0x5a 4608 290k",
       cwd=tmp_path)


@pytest.mark.parametrize("writer, reader", [("ours", "qemu"), ("qemu", "ours")])
@pytest.mark.parametrize("method, cluster, subclusters, data_file", CLUSTERS)
def test_encrypted_qcow2_is_read_by_the_other(tmp_path, writer, reader, method, cluster,
                                              subclusters, data_file):
    """Attack S8: what is copied around a write is encrypted for the place it is copied to; so is
    what is written over what is there."""
    options = (f"encrypt.format={method},encrypt.key-secret=s,cluster_size={cluster},"
               f"extended_l2={subclusters}")
    if method == "luks":
        options += ",encrypt.iter-time=1"
    if data_file:
        options += ",data_file=x.data"
    image = "driver=qcow2,encrypt.key-secret=s,file.filename=x.qcow2"
    run(writer, "qemu-img", "create", "-q", *SECRET, "-f", "qcow2", "-o", options, "x.qcow2",
        "4M", cwd=tmp_path)
    io(writer, image, "write -P 0x5a 0 300k", "write -P 7 2000k 5k", "write -P 9 3000k 512",
       "write -z 64k 128k", "write -P 8 100k 1k", "write -P 6 16k 8k", "write -P 5 33333 77",
       cwd=tmp_path)
    io(reader, image, "read -P 0x5a 0 16k", "read -P 6 16k 8k", "read -P 0x5a 24k 8757",
       "read -P 5 33333 77", "read -P 0x5a 33410 32126", "read -P 0 64k 36k", "read -P 8 100k 1k",
       "read -P 0 101k 91k", "read -P 0x5a 192k 108k", "read -P 7 2000k 5k", "read -P 0 2005k 100k",
       "read -P 9 3000k 512", cwd=tmp_path)
    run("qemu", "qemu-img", "check", "-q", *SECRET, "--image-opts", image, cwd=tmp_path)


def prepare(directory):
    run("qemu", "qemu-img", "create", "-q", *SECRET, "-f", "luks", "-o",
        "key-secret=s,iter-time=1", "a.luks", "1M", cwd=directory)
    run("qemu", "qemu-img", "create", "-q", *SECRET, "-f", "qcow2", "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1", "a.qcow2", "1M",
        cwd=directory)
    run("qemu", "qemu-img", "create", "-q", *SECRET, "-f", "qcow2", "-o",
        "encryption=on,encrypt.key-secret=s", "aes.qcow2", "1M", cwd=directory)
    run("qemu", "qemu-img", "create", "-q", "-f", "qcow2", "plain.qcow2", "1M", cwd=directory)


REFUSED = [
    ["qemu-io", "-c", "read 0 512", "a.luks"],
    ["qemu-io", "-c", "read 0 512", "a.qcow2"],
    ["qemu-io", "-c", "read 0 512", "aes.qcow2"],
    ["qemu-io", "-c", "read 0 512", "--image-opts",
     "driver=luks,key-secret=none,file.filename=a.luks"],
    ["qemu-io", *OTHER, "-c", "read 0 512", "--image-opts",
     "driver=luks,key-secret=t,file.filename=a.luks"],
    ["qemu-io", *OTHER, "-c", "read 0 512", "--image-opts",
     "encrypt.key-secret=t,file.filename=a.qcow2"],
    ["qemu-io", *SECRET, "-c", "read 0 512", "--image-opts",
     "encrypt.format=aes,encrypt.key-secret=s,file.filename=a.qcow2"],
    ["qemu-io", *SECRET, "-c", "read 0 512", "--image-opts",
     "encrypt.format=luks,encrypt.key-secret=s,file.filename=aes.qcow2"],
    ["qemu-io", *SECRET, "-c", "read 0 512", "--image-opts",
     "encrypt.format=luks,encrypt.key-secret=s,file.filename=plain.qcow2"],
    ["qemu-img", "create", "-f", "luks", "-o", "iter-time=10", "z", "1M"],
    ["qemu-img", "create", "-f", "luks", "-o", "key-secret=none", "z", "1M"],
    ["qemu-img", "create", "-f", "luks", *SECRET, "-o", "key-secret=s,cipher-alg=des", "z", "1M"],
    ["qemu-img", "create", "-f", "luks", *SECRET, "-o",
     "key-secret=s,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha1", "z", "1M"],
    ["qemu-img", "create", "-f", "qcow2", "-o", "encrypt.format=luks", "z", "1M"],
    ["qemu-img", "create", "-f", "qcow2", "-o", "encrypt.key-secret=s", "z", "1M"],
    ["qemu-img", "create", "-f", "qcow2", "-o", "encryption=on,encrypt.format=luks", "z", "1M"],
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_it_is_refused_as_qemu_refuses_it(tmp_path, words):
    prepare(tmp_path)
    ours = run("ours", *words, cwd=tmp_path, check=False)
    qemu = run("qemu", *words, cwd=tmp_path, check=False)
    assert (ours.returncode, ours.stdout, ours.stderr) == (qemu.returncode, qemu.stdout,
                                                            qemu.stderr)


def test_attack_encrypted_flag_without_a_crypto_header_is_no_crash(tmp_path):
    prepare(tmp_path)
    image = bytearray((tmp_path / "a.qcow2").read_bytes())
    at = image.index(bytes.fromhex("0537be77"))
    image[at:at + 4] = b"none"
    (tmp_path / "a.qcow2").write_bytes(image)
    done = run("ours", "qemu-img", "info", "a.qcow2", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "Missing CRYPTO header for crypt method 2" in done.stderr


def test_a_detached_header_opens_data_that_lies_elsewhere(tmp_path):
    run("ours", "qemu-img", "create", "-q", *SECRET, "-f", "luks", "-o",
        "key-secret=s,iter-time=1,detached-header=on", "head.luks", "1M", cwd=tmp_path)
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    image = "driver=luks,key-secret=s,file.filename=data,header.filename=head.luks"
    io("ours", image, "write -P 3 0 1M", "read -P 3 4k 8k", cwd=tmp_path)
    assert (tmp_path / "data").stat().st_size == 1 << 20
    info = run("ours", "qemu-img", "info", *SECRET, "--image-opts", image, cwd=tmp_path).stdout
    assert "detached header: true" in info and "payload offset: 0" in info


@pytest.mark.parametrize("kind", ["aes", "luks"])
@pytest.mark.parametrize("over", [False, True], ids=["alone", "overlay"])
def test_zeroes_stay_zeroes_in_an_older_version(tmp_path, kind, over):
    """Clusters that are zero by their entry become data: encrypted zeroes."""
    secret = ["--object", "secret,id=s,data=hunter2"]
    image = tmp_path / "t.qcow2"
    options = f"encrypt.format={kind},encrypt.key-secret=s"
    if kind == "luks":
        options += ",encrypt.iter-time=10"
    below = []
    img, io = compare.OURS / "qemu-img", compare.OURS / "qemu-io"
    if over:
        base = tmp_path / "b"
        subprocess.run([img, "create", "-q", "-f", "raw", base, "1M"], check=True)
        subprocess.run([io, "-f", "raw", "-c", "write -q -P 7 0 1M", base], check=True)
        below = ["-b", base, "-F", "raw"]
    subprocess.run([img, "create", "-q", "-f", "qcow2", *secret, "-o", options, *below, image,
                    "1M"], check=True)
    node = f"driver=qcow2,encrypt.key-secret=s,file.filename={image}"
    subprocess.run([io, *secret, "--image-opts", "-c", "write -q -P 1 0 256k",
                    "-c", "write -q -z 64k 64k", "-c", "write -q -z 512k 64k", node], check=True)
    subprocess.run([img, "amend", *secret, "--image-opts", "-o", "compat=0.10", node],
                   check=True)
    for program in (io, "qemu-io"):
        done = subprocess.run([program, *secret, "--image-opts", "-r", "-c", "read -q -P 1 0 64k",
                               "-c", "read -q -P 0 64k 64k", "-c", "read -q -P 1 128k 128k",
                               "-c", "read -q -P 0 512k 64k", node], check=False,
                              capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), program
