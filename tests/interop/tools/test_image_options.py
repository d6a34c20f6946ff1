# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of images as command lines spell them: each row opens an image, or is refused, as QEMU's
program does it."""

import shutil
import subprocess

import pytest

import compare

pytestmark = pytest.mark.skipif(
    not (compare.available("qemu-img") and compare.available("qemu-io")),
    reason="needs the programs of both")

Q = "driver=qcow2,file.filename=q"
R = "driver=raw,file.filename=r"
O = "driver=qcow2,file.filename=o"  # over q
E = "driver=qcow2,file.filename=e"  # LUKS
B = "driver=blkdebug,image.driver=file,image.filename=r"
OPTIONS = f"""
{Q}
file.filename=q
{Q},read-only=on
{Q},read-only=maybe
{Q},force-share=on,read-only=off
{Q},auto-read-only=on
{Q},cache.direct=on
{Q},cache.direct=x
{Q},cache.no-flush=on
{Q},cache=none
{R},cache=unsafe
driver=file,filename=r,cache=none
{Q},discard=on
{Q},discard=off
{Q},discard=unmap
{Q},discard=foo
{Q},file.discard=on
{Q},detect-zeroes=on
{Q},detect-zeroes=unmap
{Q},detect-zeroes=unmap,discard=unmap
{Q},node-name=n
{Q},node-name=1n
{Q},node-name=
{Q},lazy-refcounts=on
{Q},lazy-refcounts=x
{Q},lazy_refcounts=on
{Q},overlap-check=all
{Q},overlap-check=foo
{Q},overlap-check.template=none,overlap-check.main-header=on
{Q},overlap-check.foo=on
{Q},overlap-check=all,overlap-check.template=none
{Q},overlap-check.template=none,overlap-check=all
{Q},overlap-check=all,overlap-check.template=all
{Q},overlap-check.main-header=off,overlap-check=foo
driver=qcow2,file=n,file.filename=q
driver=qcow2,file.filename=q,file=n
driver=qcow2,file=n,file.driver=file
driver=raw,file=n,file.filename=r
{Q},data-file=n,data-file.driver=file,data-file.filename=r
{O},backing=n,backing.driver=raw
{O},backing.driver=raw,backing=n
{O},backing=n,backing.file.filename=q
driver=blkdebug,image=n,image.driver=file
{Q},pass-discard-request=on,pass-discard-snapshot=off,pass-discard-other=on
{Q},l2-cache-size=1M
{Q},l2-cache-size=x
{Q},l2-cache-size=16E
{Q},l2-cache-entry-size=4k
{Q},l2-cache-entry-size=3k
{Q},refcount-cache-size=256k
{Q},cache-size=1M,l2-cache-size=512k
{Q},cache-size=1M,l2-cache-size=2M
{Q},cache-size=1M,l2-cache-size=512k,refcount-cache-size=512k
{Q},cache-clean-interval=0
{Q},cache-clean-interval=x
{Q},cache-clean-interval=4294967296
{Q},encrypt.format=luks
{Q},encrypt.foo=1
{Q},encrypt.format=foo
{E},encrypt.format=foo
{E},encrypt.format=luks,encrypt.key-secret=s
{E},encrypt.format=aes,encrypt.key-secret=s
{E},encrypt.key-secret=s
{Q},backing=
{Q},backing.driver=raw,backing.file.filename=r
{Q},backing.driver=raw
{Q},backing.file.filename=nosuch
{O},backing.file.locking=off
{O},backing.file.locking=foo
{O},backing.file.driver=file
{O},backing.file.foo=1
{O},backing.driver=raw,backing.file.cache.direct=off
{O},backing.driver=foo
{O},backing.read-only=foo
{O},backing.detect-zeroes=foo
{O},backing.l2-cache-size=x
{O},backing.foo=1
{Q},foo=1
{Q},foo.bar=1
{Q},file.foo=1
{Q},file.driver=raw
{Q},file.driver=foo
{Q},file.locking=off
{Q},file.locking=foo
{Q},file.aio=foo
{Q},file.detect-zeroes=foo
{Q},file.cache.direct=foo
{Q},file.read-only=foo
{Q},file.locking=auto
{Q},file.drop-cache=off
{Q},throttling.iops-total=10
{Q},copy-on-read=on
{Q},format=qcow2
{Q},media=disk
{Q},id=d
{Q},driver=raw
driver=foo,file.filename=q
driver=
{R},size=1M
{R},size=1M,offset=512
{R},offset=1
{R},offset=x
{R},size=100G
{R},size=
{R},overlap-check.main-header=on
{R},key-secret=s
driver=raw,file.filename=file:r
driver=raw,file.filename=nbd:unix:/nowhere
file.filename=json:{{}}
driver=file,filename=r
driver=file,filename=nosuch
driver=file
driver=raw
driver=qcow2
driver=luks
driver=luks,file.filename=r
driver=luks,file.filename=r,key-secret=s
filename=r
q
r,file.locking=off
r,filename=q
driver=null-co
driver=null-co,size=1M
driver=null-co,latency-ns=1
driver=raw,file.driver=null-co,file.size=1M
driver=qcow2,file.driver=null-co
driver=blkdebug
driver=blkdebug,image.driver=raw,image.file.filename=r
driver=blkdebug,image.driver=file,image.filename=r,align=512
driver=blkdebug,image.driver=file,image.filename=r,align=3
driver=blkdebug,image.driver=file,image.filename=r,align=x
driver=blkdebug,image.driver=file,image.filename=r,inject-error.0.event=read_aio
driver=blkdebug,image=nosuch
{B},config=
{B},inject-error.0.errno=5
{B},inject-error.0.event=foo
{B},inject-error.0.event=read_aio,inject-error.0.errno=x
{B},inject-error.0.event=read_aio,inject-error.0.iotype=foo
{B},set-state.0.event=read_aio,set-state.0.new_state=x
{B},set-state.0.new_state=1
driver=copy-on-read
driver=copy-on-read,file.driver=qcow2,file.file.filename=q
driver=compress
driver=compress,file.driver=qcow2,file.file.filename=q
driver=compress,file.driver=raw,file.file.filename=r
driver=nbd
driver=nbd,port=1
driver=nbd,host=a,path=/b
driver=nbd,path=/nowhere
driver=nbd,server.type=unix,server.path=/nowhere
driver=nbd,path=/a,server.type=unix,server.path=/b
driver=nbd,server.type=foo
=
,
file.filename=a,,b
driver=raw,,file.filename=r
""".split()
NAMES = r"""
json:{}
json:{"driver":"raw"}
json:{"driver":"raw","file":{"driver":"file","filename":"r"}}
json:{"driver":"raw","file.filename":"r"}
json:{"driver":"raw","file.driver":"file","file":{"filename":"r"}}
json:{"file.filename":"q"}
json:{"filename":"r"}
json:{"file.filename":"q","driver":"qcow2","lazy-refcounts":true}
json:{"file.filename":"q","driver":"qcow2","l2-cache-size":"1M"}
json:{"file.filename":"q","driver":"qcow2","backing":null}
json:{"file.filename":"q","driver":"qcow2","backing":""}
json:{"driver":"raw","file.filename":"r","cache":true}
json:{"driver":"raw","file.filename":"r","foo":1}
json:{"driver":"raw","size":1e6,"file.filename":"r"}
json:{"driver":"raw","size":1048576.0,"file.filename":"r"}
json:{"driver":"null-co","size":1048576}
json:{"driver":"null-co","size":"1M"}
json:[]
json:
json:{
nbd:
nbd:x
nbd:unix:/nowhere
nbd+unix:///?socket=/nowhere
nbd+unix://
file:r
file:nosuch
raw:r
blkdebug::r
blkdebug:nosuch:r
blkdebug:r
null-co://
null-co://x
foo:bar
nosuch
""".split()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    place = tmp_path_factory.mktemp("options")
    (place / "r").write_bytes(b"\7" * (3 << 20))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", place / "q", "2M"], check=True,
                   timeout=60)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 1M", place / "q"], check=True,
                   timeout=60)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "q", "-F", "qcow2", "o"],
                   cwd=place, check=True, timeout=60)
    subprocess.run(["qemu-img", "create", "-q", "--object", "secret,id=s,data=x", "-f", "qcow2",
                    "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "e",
                    "2M"], cwd=place, check=True, timeout=60)
    return place


def outcome(program, words, place):
    status, out, err = compare.run(program, words, place)
    return status, out, err


@pytest.mark.parametrize("options", OPTIONS)
def test_options_open_an_image_as_qemu_does(images, options):
    words = ["-r", "--image-opts", "--object", "secret,id=s,data=x", "-c", "length", "-c",
             "read -q -P 7 0 512", options]
    assert outcome(compare.OURS / "qemu-io", words, images) == \
        outcome(shutil.which("qemu-io"), words, images)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_opens_an_image_as_qemu_does(images, name):
    words = ["-r", "-c", "length", name]
    assert outcome(compare.OURS / "qemu-io", words, images) == \
        outcome(shutil.which("qemu-io"), words, images)


@pytest.mark.parametrize("options, parameter", [
    (f"{R},offset=-1", "offset"), (f"{R},size=-1", "size"), (f"{B},align=-1", "align"),
    (f"{Q},l2-cache-size=-1", "l2-cache-size")])
def test_negative_sizes_are_out_of_range(images, options, parameter):
    """In the words of QEMU 10.2."""
    words = ["-r", "--image-opts", "-c", "length", options]
    status, _, err = outcome(compare.OURS / "qemu-io", words, images)
    assert status == 1
    assert err == ("qemu-io: can't open: "
                   f"Value '-1' is out of range for parameter '{parameter}'\n")
