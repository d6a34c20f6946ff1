// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/compression.h"

#include <isa-l/igzip_lib.h>
#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <memory>
#include <new>

namespace strata::qcow2 {
namespace {

constexpr int kWindowBits = 12;

struct FreeDecompressor {
  void operator()(libdeflate_decompressor* d) const noexcept { libdeflate_free_decompressor(d); }
};

Status inflate(ConstBytes in, Bytes out) noexcept {
  static thread_local std::unique_ptr<libdeflate_decompressor, FreeDecompressor> decompressor(
      libdeflate_alloc_decompressor());
  if (!decompressor) return Status::error(ENOMEM);
  size_t used = 0;
  libdeflate_result result = libdeflate_deflate_decompress_ex(
      decompressor.get(), in.data(), in.size(), out.data(), out.size(), &used, nullptr);
  return Status::error(result == LIBDEFLATE_SUCCESS ? 0 : EIO);
}

struct FreeZstd {
  void operator()(ZSTD_DCtx* context) const noexcept { ZSTD_freeDCtx(context); }
};

// Frames one after the other until the cluster is full.
Status unzstd(ConstBytes in, Bytes out) noexcept {
  static thread_local std::unique_ptr<ZSTD_DCtx, FreeZstd> context(ZSTD_createDCtx());
  if (!context) return Status::error(ENOMEM);
  ZSTD_DCtx_reset(context.get(), ZSTD_reset_session_only);
  ZSTD_inBuffer input{in.data(), in.size(), 0};
  ZSTD_outBuffer output{out.data(), out.size(), 0};
  while (output.pos < output.size) {
    size_t in_before = input.pos;
    size_t out_before = output.pos;
    size_t result = ZSTD_decompressStream(context.get(), &output, &input);
    if (ZSTD_isError(result)) return Status::error(EIO);
    if (input.pos == in_before && output.pos == out_before) return Status::error(EIO);
  }
  return Status();
}

// With so small a window the library's highest level finds less than this one.
size_t fast_deflate(ConstBytes in, Bytes out) noexcept {
  static thread_local std::unique_ptr<uint8_t[]> level_memory(new (std::nothrow)
                                                                  uint8_t[ISAL_DEF_LVL2_MEDIUM]);
  if (!level_memory) return 0;
  isal_zstream stream;
  isal_deflate_init(&stream);
  stream.level = 2;
  stream.level_buf = level_memory.get();
  stream.level_buf_size = ISAL_DEF_LVL2_MEDIUM;
  stream.hist_bits = kWindowBits;
  stream.end_of_stream = 1;
  stream.flush = NO_FLUSH;
  stream.next_in = reinterpret_cast<uint8_t*>(const_cast<std::byte*>(in.data()));
  stream.avail_in = static_cast<uint32_t>(in.size());
  stream.next_out = reinterpret_cast<uint8_t*>(out.data());
  stream.avail_out = static_cast<uint32_t>(out.size() - 1);
  if (isal_deflate(&stream) != COMP_OK || stream.internal_state.state != ZSTATE_END) return 0;
  return stream.total_out;
}

size_t dense_deflate(int level, ConstBytes in, Bytes out) noexcept {
  z_stream stream{};
  constexpr int kMemoryLevel = 9;
  if (deflateInit2(&stream, level, Z_DEFLATED, -kWindowBits, kMemoryLevel, Z_DEFAULT_STRATEGY) !=
      Z_OK)
    return 0;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size() - 1);
  bool fits = deflate(&stream, Z_FINISH) == Z_STREAM_END;
  size_t size = stream.total_out;
  deflateEnd(&stream);
  return fits ? size : 0;
}

// ISA-L packs text and programs about a tenth less densely than zlib's default does. Where there is
// something to gain, every fourth cluster gets zlib's time: that keeps images within some 8
// percent, at a quarter of its time for all of them.
size_t mixed_deflate(uint64_t number, ConstBytes in, Bytes out) noexcept {
  constexpr uint64_t kOneOf = 4;
  constexpr int kLevel = 5;
  size_t size = fast_deflate(in, out);
  if (size == 0 || number % kOneOf != 0) return size;
  size = dense_deflate(kLevel, in, out);
  return size != 0 ? size : fast_deflate(in, out);
}

size_t zstd(int level, ConstBytes in, Bytes out) noexcept {
  size_t size = ZSTD_compress(out.data(), out.size() - 1, in.data(), in.size(), level);
  return ZSTD_isError(size) ? 0 : size;
}

}  // namespace

Status decompress_cluster(CompressionType type, ConstBytes in, Bytes out) noexcept {
  return type == CompressionType::zstd ? unzstd(in, out) : inflate(in, out);
}

size_t compress_cluster(CompressionType type, std::optional<int> level, uint64_t number,
                        ConstBytes in, Bytes out) noexcept {
  if (type == CompressionType::zstd) return zstd(level.value_or(ZSTD_CLEVEL_DEFAULT), in, out);
  return level ? dense_deflate(*level, in, out) : mixed_deflate(number, in, out);
}

int max_compression_level(CompressionType type) noexcept {
  return type == CompressionType::zstd ? ZSTD_maxCLevel() : Z_BEST_COMPRESSION;
}

}  // namespace strata::qcow2
