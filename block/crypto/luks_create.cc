// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/crypto/luks_create.h"

#include <cerrno>

#include "block/base/error.h"
#include "block/crypto/luks_driver.h"
#include "block/crypto/luks_volume.h"
#include "block/graph/open.h"
#include "block/io/backend.h"

namespace strata::crypto {
namespace {

using Options = qapi::BlockdevCreateOptionsLUKS;

constexpr Permissions kExclusive{
    {Permission::consistent_read, Permission::write, Permission::resize}, {}};

Task<NodePtr> node_of(MainLoop& loop, BlockLayer& layer, const qapi::BlockdevRef& reference) {
  if (const auto* name = std::get_if<std::string>(&reference)) co_return layer.lookup_node(*name);
  co_return co_await open_node(loop, layer, *std::get<qapi::Box<qapi::BlockdevOptions>>(reference));
}

[[noreturn]] void throw_too_large() {
  throw Error::from_text("The requested file size is too large", EFBIG);
}

void check_size(const Options& options, uint64_t payload) {
  std::optional<uint64_t> end = checked_add(options.size, payload);
  if (!end || *end > kMaxLength) throw_too_large();
}

Task<void> make_room(Backend& file, uint64_t bytes, qapi::PreallocMode preallocation) {
  TruncateOptions options;
  // There is no metadata but the header.
  if (preallocation != qapi::PreallocMode::metadata) options.preallocation = preallocation;
  bool too_large = false;
  try {
    co_await file.truncate(bytes, options);
  } catch (const Error& error) {
    if (error.error_number() != EFBIG) throw;
    too_large = true;
  }
  if (too_large) throw_too_large();
}

// `file`: where the data goes; null if only a header is made. `header`: where the header goes, if
// not there.
Task<void> create_on(Backend* file, Backend* header, const Options& options, SecretBytes password) {
  bool detached = header != nullptr;
  NewLuks volume = co_await LuksVolume::make(options, std::move(password), detached);
  if (detached) co_await header->truncate(volume.header_bytes());
  if (file != nullptr) {
    if (!detached) co_await file->truncate(0);
    co_await make_room(*file, volume.header.payload_offset() + options.size,
                       options.preallocation.value_or(qapi::PreallocMode::off));
  }
  Backend* place = detached ? header : file;
  co_await LuksVolume::write_new({&place->root()}, volume);
}

}  // namespace

uint64_t luks_payload_offset(const qapi::QCryptoBlockCreateOptionsLUKS& options) {
  return plan_luks_header(parameters_of(options), false).payload_offset();
}

Task<void> create_luks(MainLoop& loop, BlockLayer& layer, Options options) {
  if (!options.file && !options.header)
    throw Error("Either the parameter 'header' or 'file' must be specified");
  bool preallocate =
      options.preallocation.value_or(qapi::PreallocMode::off) != qapi::PreallocMode::off;
  if (preallocate && !options.file)
    throw Error(
        "Parameter 'preallocation' requires 'file' to be specified for formatting LUKS disk");
  Backend file(layer);
  Backend header(layer);
  std::exception_ptr failed;
  try {
    if (options.header)
      header.attach(loop, co_await node_of(loop, layer, *options.header), kExclusive);
    if (options.file) file.attach(loop, co_await node_of(loop, layer, *options.file), kExclusive);
    check_size(options, options.header ? 0 : luks_payload_offset(options));
    SecretBytes password = find_password(layer, options.key_secret, "");
    co_await create_on(options.file ? &file : nullptr, options.header ? &header : nullptr, options,
                       std::move(password));
  } catch (...) {
    failed = std::current_exception();
  }
  if (file.is_attached()) co_await file.close(loop);
  if (header.is_attached()) co_await header.close(loop);
  if (failed) std::rethrow_exception(failed);
}

}  // namespace strata::crypto
