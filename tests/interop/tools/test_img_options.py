# SPDX-License-Identifier: GPL-2.0-or-later
"""strata-img knows the options of qemu-img 10.2, tells of each in its help, and has it in the
manual."""

import re
import subprocess

import pytest

import compare
from support.program import ROOT

IMG = str(compare.BUILD / "bin/strata-img")
OPTIONS = {
    "amend": "--object --image-opts -p -q -f -t --force -o",
    "bench": "-c -d -f --flush-interval -i -n --no-drain -o --pattern -q -s -S -t -w -U "
             "--image-opts",
    "bitmap": "--merge --add --remove --clear --enable --disable -b -F -g --object --image-opts -f",
    "check": "--object --image-opts -q -f --output -r -T -U",
    "commit": "--object --image-opts -q -f -t -b -r -d -p",
    "compare": "--object --image-opts -f -F -T -p -q -s -U",
    "convert": "--object --image-opts --target-image-opts --target-is-zero --bitmaps "
               "--skip-broken-bitmaps -U -C -c -p -q -n -f -t -T -O -b -B -F -o -l -S -r -m -W "
               "--salvage",
    "create": "-f -o -b -B -F -u -q --object",
    "dd": "--image-opts -U -f -O --object",
    "info": "--object --image-opts -f --output --backing-chain --limits -t -U",
    "map": "--object --image-opts -f --start-offset --max-length --output -U",
    "measure": "--output -O -o --size --object --image-opts -f -l -U",
    "rebase": "--object --image-opts -U -q -f -t -T -p -u -c -b -B -F",
    "resize": "--object --image-opts -f --preallocation -q --shrink",
    "snapshot": "--object -f --image-opts -U -q -l -a -c -d",
}


def img(*words):
    return subprocess.run([IMG, *words], capture_output=True, text=True, timeout=60, check=False)


def spellings(command):
    """Each line of the help that names an option: ("-f", "--format", "FMT")."""
    done = img(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    return [re.split(r",? ", line.strip()) for line in done.stdout.splitlines()
            if line.startswith("  -")]


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_the_options(command):
    named = {word for line in spellings(command) for word in line}
    assert set(OPTIONS[command].split()) | {"-h", "--help"} <= named


@pytest.mark.parametrize("command", OPTIONS)
def test_every_spelling_is_read(command):
    for line in spellings(command):
        for word in line:
            if not word.startswith("-") or word in ("-h", "--help"):
                continue
            with_value = not line[-1].startswith("-")
            words = [word, "1" if word != "--object" else "secret,id=a,data=b"]
            done = img(command, *words[:1 + with_value], "--no-such-option", "x")
            # Some values are wrong; what follows them is looked at where they are not.
            assert done.returncode in (1, 2)
            assert "unrecognized option '" + word not in done.stderr
            if with_value:
                assert img(command, word).stderr.startswith(
                    f"strata-img: missing argument for option '{word}'\n") or command == "resize"


@pytest.mark.parametrize("command", OPTIONS)
def test_the_manual_has_the_options(command):
    manual = (ROOT / "docs/man/strata-img.1").read_text(encoding="utf-8").replace("\\-", "-")
    section = re.search(rf'(?s)\n\.SS {command}\n(.*?)\n\.S', manual).group(1)
    common = re.search(r"(?s)\.SH OPTIONS OF MANY COMMANDS\n(.*?)\n\.SH", manual).group(1)
    for line in spellings(command):
        for word in line:
            if word.startswith("-") and word not in ("-h", "--help"):
                words = re.compile(rf"(?<![\w-]){word}(?![\w-])")
                assert words.search(section) or words.search(common), word


def test_a_long_option_may_be_cut_short():
    assert "qcow2" in img("create", "--form", "qcow2", "--opt", "help").stdout
    done = img("create", "--back", "x")
    assert done.returncode == 1 and "unrecognized option '--back'" in done.stderr


def test_completion_knows_the_options_of_a_command():
    script = f"""
        source {ROOT}/docs/completion/strata-img
        COMP_WORDS=({IMG} convert --target-f) COMP_CWORD=2
        _strata_img
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60,
                          check=True)
    assert done.stdout.split() == ["--target-format", "--target-format-options"]
