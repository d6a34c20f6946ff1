#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Fails when a C++ file is not formatted as .clang-format says. With --fix, formats them all.
set -euo pipefail
cd "$(dirname "$0")/.."

formatter=clang-format-19
if ! command -v "$formatter" >/dev/null; then
  echo "check_format: $formatter is missing (scripts/setup installs it)" >&2
  exit 1
fi
mode=(--dry-run -Werror)
[ "${1:-}" != --fix ] || mode=(-i)
git ls-files -co --exclude-standard -z -- '*.cc' '*.h' |
  xargs -0 -r -n 16 -P "$(nproc)" "$formatter" "${mode[@]}"
