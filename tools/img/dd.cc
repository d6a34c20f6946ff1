// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <cerrno>

#include "block/base/aligned_buffer.h"
#include "tools/common/claims.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"
#include "tools/img/joined_piece.h"

namespace strata::tools {
namespace {

struct Request {
  ImageChoice image;
  std::string output_format = "raw";
  std::optional<std::string> input;
  std::optional<std::string> output;
  int64_t block_size = 512;
  std::optional<int64_t> count;
  int64_t skip = 0;
};

void parse_operand(Request& request, const std::string& word) {
  size_t equals = word.find('=');
  std::string name = word.substr(0, equals);
  std::string value = equals == word.npos ? "" : word.substr(equals + 1);
  if (equals == word.npos)
    throw Error("unrecognized operand {}", word);
  else if (name == "if")
    request.input = value;
  else if (name == "of")
    request.output = value;
  else if (name == "bs")
    request.block_size = parse_number(value, "bs", 1, INT32_MAX);
  else if (name == "count")
    request.count = parse_number(value, "count");
  else if (name == "skip")
    request.skip = parse_number(value, "skip");
  else
    throw Error("unrecognized operand {}", name);
}

// The bytes from `begin` on that the operands select of an image of `length` bytes.
ByteRange selected(const Request& request, uint64_t length) {
  auto block = static_cast<uint64_t>(request.block_size);
  uint64_t end = length;
  if (request.count) {
    // Counted from the first block that is copied.
    uint64_t wanted =
        checked_mul(static_cast<uint64_t>(*request.count), block).value_or(UINT64_MAX);
    uint64_t skipped = checked_mul(static_cast<uint64_t>(request.skip), block).value_or(UINT64_MAX);
    end = std::min(length, checked_add(wanted, skipped).value_or(UINT64_MAX));
  }
  uint64_t begin = checked_mul(static_cast<uint64_t>(request.skip), block).value_or(UINT64_MAX);
  if (begin > length) return {length, 0};
  return {begin, end > begin ? end - begin : 0};
}

void check(Status status, const char* what) {
  if (!status.ok())
    throw Error::from_errno(status.error_number(), "error while {} image file", what);
}

// Several blocks at once, and no more than that what reads as zeroes in a target that does so, too.
class Copy {
 public:
  Copy(Backend& from, Backend& to, ByteRange range, uint64_t block)
      : from_(from),
        to_(to),
        range_(range),
        block_(block),
        most_(std::max(block, align_down(kAtOnce, block))),
        buffer_(std::min(most_, range.bytes)),
        claims_(from.node()),
        keeps_holes_(to.node().driver().has_zero_init()) {}

  Task<void> run() {
    if (!buffer_) throw Error::from_errno(ENOMEM, "Could not allocate a buffer");
    for (uint64_t done = 0; done < range_.bytes;) {
      BlockStatus next = co_await look(done);
      bool hole = keeps_holes_ && next.flags.has(StatusFlag::zero);
      if (auto piece = joined_.add({{done, next.bytes}, hole})) co_await copy(*piece);
      done += next.bytes;
    }
    if (auto piece = joined_.take()) co_await copy(*piece);
  }

 private:
  static constexpr uint64_t kAtOnce = 2 << 20;

  Task<BlockStatus> look(uint64_t done) {
    uint64_t left = range_.bytes - done;
    auto answer = co_await from_.block_status(range_.offset + done, left);
    // What cannot be asked about is read, which tells what is wrong.
    if (!answer) co_return BlockStatus{StatusFlag::data, std::min(left, block_)};
    claims_.add(answer->status);
    co_return answer->status;
  }

  Task<void> copy(Piece piece) {
    uint64_t done = piece.zero ? piece.range.end() : piece.range.offset;
    while (done < piece.range.end()) {
      uint64_t size = std::min(most_, piece.range.end() - done);
      IoVector memory = IoVector::buffer(buffer_.data(), size);
      Status status = co_await from_.preadv(range_.offset + done, memory);
      // The blocks before the bad one are still to be copied.
      if (!status.ok() && size > block_) {
        most_ = block_;
        continue;
      }
      check(status, "reading from input");
      check(co_await to_.pwritev(done, memory), "writing to output");
      done += size;
    }
  }

  Backend& from_;
  Backend& to_;
  ByteRange range_;
  uint64_t block_;
  uint64_t most_;  // bytes read at once
  AlignedBuffer buffer_;
  Claims claims_;
  JoinedPiece joined_;
  bool keeps_holes_;
};

}  // namespace

Task<int> run_dd(Images& images, Words& words) {
  Request request;
  std::vector<std::string> operands = words.parse({
      format_option(request.image),
      {"-O, --output-format FMT", "format of the output (default: raw)",
       into(request.output_format)},
      image_options_option(request.image),
      force_share_option(request.image.flags),
  });
  for (const std::string& word : operands) parse_operand(request, word);
  if (!request.input || !request.output) throw Error("Must specify both input and output files");
  Backend* from = co_await images.open(*request.input, request.image);
  create_options(images.tool().layer(), request.output_format, &*request.output);

  uint64_t length = from->length();
  ByteRange range = selected(request, length);
  uint64_t begin =
      checked_mul(static_cast<uint64_t>(request.skip), static_cast<uint64_t>(request.block_size))
          .value_or(UINT64_MAX);
  CreateValues values{{"size", std::to_string(range.bytes)}};
  std::optional<Error> failed;
  try {
    co_await create_image(images.tool(), *request.output, request.output_format, values);
  } catch (Error& error) {
    failed = std::move(error).prepend(
        fmt::format("{}: error while creating output image: ", *request.output));
  }
  if (failed) throw *failed;
  ImageChoice target{.format = request.output_format, .flags = {.writable = true}};
  Backend* to = co_await images.open(*request.output, std::move(target));
  if (begin > length) {
    log_error("{}: cannot skip to specified offset", *request.input);
    co_return 0;
  }
  co_await Copy(*from, *to, range, static_cast<uint64_t>(request.block_size)).run();
  co_return 0;
}

}  // namespace strata::tools
