// SPDX-License-Identifier: GPL-2.0-or-later
#include <bit>
#include <boost/json/object.hpp>

#include "block/qcow2/image.h"
#include "block/qcow2/measure.h"
#include "block/qcow2/qcow2.h"
#include "qapi/runtime/json_writer.h"
#include "tools/common/claims.h"
#include "tools/img/command.h"
#include "tools/img/create_options.h"
#include "tools/img/encryption.h"
#include "tools/img/snapshot_choice.h"

namespace strata::tools {
namespace {

struct Request {
  ImageChoice image;
  std::string output_format = "raw";
  std::string options;
  std::optional<SnapshotChoice> snapshot;
  std::optional<int64_t> size;
  OutputFormat output = OutputFormat::human;
};

std::vector<std::string> parse(Words& words, Request& request) {
  auto snapshot = [&request](const std::string& text) {
    request.snapshot = parse_snapshot_choice(text);
  };
  return words.parse({
      {"-s, --size BYTES", "of a new image of this size", size_into(request.size, "image size")},
      {"-O, --target-format FMT", "format of the new image (default: raw)",
       into(request.output_format)},
      option_list_option("-o, --target-format-options LIST", request.options),
      {"-f, --source-format FMT", "format of the image to be copied (default: guessed)",
       into(request.image.format)},
      image_options_option(request.image),
      force_share_option(request.image.flags),
      {"-l, --snapshot SNAPSHOT", "which of its snapshots is to be copied", snapshot},
      output_option(request.output),
  });
}

struct Measure {
  uint64_t required = 0;
  uint64_t fully_allocated = 0;
  std::optional<uint64_t> bitmaps;
};

// The clusters that hold data, in bytes.
Task<uint64_t> data_bytes(Backend& image, uint64_t cluster) {
  Claims claims(image.node());
  uint64_t bytes = 0;
  for (uint64_t offset = 0; offset < image.length();) {
    auto chain = co_await image.block_status(offset, image.length() - offset);
    if (!chain) throw Error::from_errno(chain.error_number(), "Unable to get block status");
    claims.add(chain->status);
    uint64_t run = chain->status.bytes;
    StatusFlags flags = chain->status.flags;
    if (!flags.has(StatusFlag::zero) &&
        flags.has_all(StatusFlags{StatusFlag::data} | StatusFlag::allocated)) {
      run = align_up(offset + run, cluster) - offset;
      bytes += offset % cluster + run;
    }
    offset += run;
  }
  co_return bytes;
}

uint64_t number_of(const CreateValues& values, const char* name, uint64_t otherwise) {
  auto found = values.find(name);
  return found == values.end() ? otherwise : std::stoull(found->second);
}

// Throws Error for options that contradict each other or the format.
qcow2::Geometry geometry_of(const CreateValues& values) {
  uint64_t cluster = number_of(values, "cluster_size", 65536);
  if (!is_power_of_two(cluster) || cluster < 512 || cluster > 2048 * 1024)
    throw Error("Cluster size must be a power of two between 512 and 2048k");
  uint64_t bits = number_of(values, "refcount_bits", 16);
  if (bits == 0 || bits > 64 || !is_power_of_two(bits))
    throw Error("Refcount width must be a power of two and may not exceed 64 bits");
  auto compat = values.find("compat");
  bool v2 = compat != values.end() && (compat->second == "0.10" || compat->second == "v2");
  if (v2 && bits != 16)
    throw Error(
        "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
        "compat=1.1 or greater)");
  qcow2::Header header;
  header.version = v2 ? 2 : 3;
  header.cluster_bits = static_cast<unsigned>(std::countr_zero(cluster));
  header.refcount_order = static_cast<unsigned>(std::countr_zero(bits));
  auto extended = values.find("extended_l2");
  if (extended != values.end() && extended->second == "on") {
    if (header.cluster_bits < qcow2::kMinExtendedClusterBits)
      throw Error("Extended L2 entries are only supported with cluster sizes of at least {} bytes",
                  1 << qcow2::kMinExtendedClusterBits);
    header.incompatible |= qcow2::kIncompatibleExtendedL2;
  }
  return header.geometry();
}

Task<Measure> measure_qcow2(const BlockLayer& layer, const CreateValues& values, uint64_t size,
                            Backend* image) {
  qcow2::Geometry geometry = geometry_of(values);
  size = align_up(size, geometry.cluster_size());
  Measure measure;
  measure.fully_allocated = qcow2::full_file_size(geometry, size);
  auto encryption = values.find("encrypt.format");
  if (encryption != values.end() && encryption->second == "luks")
    measure.fully_allocated += geometry.round_up(luks_header_bytes(layer, values, "encrypt."));
  auto preallocation = values.find("preallocation");
  uint64_t data = 0;
  if (preallocation != values.end() &&
      (preallocation->second == "full" || preallocation->second == "falloc"))
    data = size;
  else if (image != nullptr && values.contains("backing_file"))
    data = size;  // how much of it is in the backing file nobody knows
  else if (image != nullptr)
    data = co_await data_bytes(*image, geometry.cluster_size());
  measure.required = measure.fully_allocated - size + data;
  const qcow2::Image* source = image != nullptr ? qcow2::image_of(image->node()) : nullptr;
  auto compat = values.find("compat");
  bool keeps = compat == values.end() || (compat->second != "0.10" && compat->second != "v2");
  if (!keeps || source == nullptr || source->header().version < 3) co_return measure;
  std::vector<qcow2::MeasuredBitmap> bitmaps;
  for (const qcow2::BitmapEntry& bitmap : source->bitmaps())
    bitmaps.push_back({uint64_t{1} << bitmap.granularity_bits, bitmap.name.size()});
  measure.bitmaps = qcow2::bitmaps_file_size(geometry, image->length(), bitmaps);
  co_return measure;
}

void print(const Measure& measure, OutputFormat output) {
  if (output == OutputFormat::json) {
    boost::json::object info;
    if (measure.bitmaps) info["bitmaps"] = *measure.bitmaps;
    info["required"] = measure.required;
    info["fully-allocated"] = measure.fully_allocated;
    fmt::print("{}\n", qapi::write_json(info, qapi::JsonStyle::pretty));
    return;
  }
  fmt::print("required size: {}\nfully allocated size: {}\n", measure.required,
             measure.fully_allocated);
  if (measure.bitmaps) fmt::print("bitmaps size: {}\n", *measure.bitmaps);
}

}  // namespace

Task<int> run_measure(Images& images, Words& words) {
  Request request;
  std::vector<std::string> rest = parse(words, request);
  if (rest.size() > 1) throw Error("At most one filename argument is allowed.");
  if (rest.empty() && (request.image.by_options || request.image.format || request.snapshot))
    throw Error("--image-opts, -f, and -l require a filename argument.");
  if (rest.empty() && !request.size)
    throw Error("Either --size N or one filename must be specified.");
  if (!rest.empty() && request.size)
    throw Error("--size N cannot be used together with a filename.");

  uint64_t size = static_cast<uint64_t>(request.size.value_or(0));
  Backend* image = nullptr;
  if (!rest.empty()) {
    image = co_await images.open(rest[0], request.image);
    if (request.snapshot) co_await show_snapshot(image->node(), *request.snapshot);
    size = image->length();
  }
  const std::string any_file = "file";
  auto known = create_options(images.tool().layer(), request.output_format, &any_file);
  CreateValues values;
  try {
    parse_create_options(known, request.options, values);
  } catch (const Error& error) {
    report(error);
    throw Error("Invalid options for file format '{}'", request.output_format);
  }
  const BlockLayer& layer = images.tool().layer();
  if (request.output_format == "luks")
    size += luks_header_bytes(layer, values, "");
  else
    size = align_up(size, kSectorSize);
  Measure measure{size, size, std::nullopt};
  if (request.output_format == "qcow2")
    measure = co_await measure_qcow2(layer, values, size, image);
  print(measure, request.output);
  co_return 0;
}

}  // namespace strata::tools
