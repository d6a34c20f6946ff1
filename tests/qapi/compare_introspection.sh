#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# PRINT-SCHEMA PYTHON COMPARE REFERENCE: our whole interface against that of QEMU's storage daemon.
set -euo pipefail
answer=$(mktemp -t qapi-schema.XXXXXX)
trap 'rm -f "$answer"' EXIT
"$1" > "$answer"
"$2" "$3" "$answer" "$4"
