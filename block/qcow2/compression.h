// SPDX-License-Identifier: GPL-2.0-or-later
//
// One cluster, compressed.
#pragma once

#include <vector>

#include "block/base/bytes.h"
#include "block/base/result.h"
#include "block/qcow2/format/header.h"

namespace strata::qcow2 {

// Fills `out` from the front of `in`, behind which there may be anything. EIO: it cannot be.
Status decompress_cluster(CompressionType type, ConstBytes in, Bytes out) noexcept;

// Empty if the result would not be smaller than `in`. Deflate keeps to a window of 4 KiB, since
// QEMU's decoder has no larger one.
std::vector<std::byte> compress_cluster(CompressionType type, ConstBytes in);

}  // namespace strata::qcow2
