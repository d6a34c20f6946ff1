// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/compression.h"

#include <isa-l/igzip_lib.h>
#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <memory>
#include <mutex>
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

// What packing with deflate needs besides the cluster; kept for the next one, whoever packs it.
class Deflater {
 public:
  Deflater() = default;
  ~Deflater() { end(); }
  Deflater(const Deflater&) = delete;
  Deflater& operator=(const Deflater&) = delete;

  size_t fast(ConstBytes in, Bytes out) noexcept;
  size_t dense(int level, ConstBytes in, Bytes out) noexcept;
  size_t mixed(uint64_t number, ConstBytes in, Bytes out) noexcept;

  // One that nobody uses; nothing: there is no memory for another.
  static std::unique_ptr<Deflater> take() noexcept;
  static void give_back(std::unique_ptr<Deflater> deflater) noexcept;

 private:
  bool prepare(int level) noexcept;
  void end() noexcept {
    if (level_) deflateEnd(&zlib_);
    level_.reset();
  }

  std::unique_ptr<uint8_t[]> memory_;  // ISA-L's
  z_stream zlib_{};
  std::optional<int> level_;  // of zlib_, which is there
  std::unique_ptr<Deflater> next_idle_;
};

std::mutex idle_mutex;
std::unique_ptr<Deflater> idle;

std::unique_ptr<Deflater> Deflater::take() noexcept {
  std::lock_guard lock(idle_mutex);
  if (!idle) return std::unique_ptr<Deflater>(new (std::nothrow) Deflater());
  std::unique_ptr<Deflater> first = std::move(idle);
  idle = std::move(first->next_idle_);
  return first;
}

void Deflater::give_back(std::unique_ptr<Deflater> deflater) noexcept {
  std::lock_guard lock(idle_mutex);
  deflater->next_idle_ = std::move(idle);
  idle = std::move(deflater);
}

// With so small a window the library's highest level finds less than this one.
size_t Deflater::fast(ConstBytes in, Bytes out) noexcept {
  if (!memory_) memory_.reset(new (std::nothrow) uint8_t[ISAL_DEF_LVL2_MEDIUM]);
  if (!memory_) return 0;
  isal_zstream stream;
  isal_deflate_init(&stream);
  stream.level = 2;
  stream.level_buf = memory_.get();
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

bool Deflater::prepare(int level) noexcept {
  if (level_ == level) return deflateReset(&zlib_) == Z_OK;
  end();
  constexpr int kMemoryLevel = 9;
  if (deflateInit2(&zlib_, level, Z_DEFLATED, -kWindowBits, kMemoryLevel, Z_DEFAULT_STRATEGY) !=
      Z_OK)
    return false;
  level_ = level;
  return true;
}

size_t Deflater::dense(int level, ConstBytes in, Bytes out) noexcept {
  if (!prepare(level)) return 0;
  zlib_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(in.data()));
  zlib_.avail_in = static_cast<uInt>(in.size());
  zlib_.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib_.avail_out = static_cast<uInt>(out.size() - 1);
  return deflate(&zlib_, Z_FINISH) == Z_STREAM_END ? zlib_.total_out : 0;
}

// ISA-L packs text and programs about a tenth less densely than zlib's default does. Where there is
// something to gain, every fourth cluster gets zlib's time: that keeps images within some 8
// percent, at a quarter of its time for all of them.
size_t Deflater::mixed(uint64_t number, ConstBytes in, Bytes out) noexcept {
  constexpr uint64_t kOneOf = 4;
  constexpr int kLevel = 5;
  size_t size = fast(in, out);
  if (size == 0 || number % kOneOf != 0) return size;
  size = dense(kLevel, in, out);
  return size != 0 ? size : fast(in, out);
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
  std::unique_ptr<Deflater> deflater = Deflater::take();
  if (!deflater) return 0;
  size_t size = level ? deflater->dense(*level, in, out) : deflater->mixed(number, in, out);
  Deflater::give_back(std::move(deflater));
  return size;
}

int max_compression_level(CompressionType type) noexcept {
  return type == CompressionType::zstd ? ZSTD_maxCLevel() : Z_BEST_COMPRESSION;
}

}  // namespace strata::qcow2
