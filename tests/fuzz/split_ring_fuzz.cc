// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/fuzz/ring_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return strata::virtio::fuzz_ring<false>(data, size);
}
