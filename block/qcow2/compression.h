// SPDX-License-Identifier: GPL-2.0-or-later
//
// One cluster, compressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "block/base/bytes.h"
#include "block/base/result.h"
#include "block/qcow2/format/header.h"

namespace strata::qcow2 {

// Fills `out` from the front of `in`, behind which there may be anything. EIO: it cannot be.
Status decompress_cluster(CompressionType type, ConstBytes in, Bytes out) noexcept;

// Into `out`, which is as large as `in`; returns how many bytes it took, 0 if not fewer than `in`
// has. Without a `level` it is done fast; with one as zlib (1 to 9) or zstd (1 to 22) do at it, the
// higher the denser. Deflate keeps to a window of 4 KiB, since QEMU's decoder has no larger one.
// `number` is the cluster's on its disk.
size_t compress_cluster(CompressionType type, std::optional<int> level, uint64_t number,
                        ConstBytes in, Bytes out) noexcept;
int max_compression_level(CompressionType type) noexcept;

}  // namespace strata::qcow2
