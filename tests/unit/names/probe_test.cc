// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/probe.h"

#include <catch2/catch.hpp>
#include <string>

using namespace strata;

namespace {

std::string_view format_of(std::string_view header) {
  return probe_format({reinterpret_cast<const std::byte*>(header.data()), header.size()});
}

std::string at(size_t offset, std::string_view bytes) {
  return std::string(offset, '\0') + std::string(bytes);
}

}  // namespace

TEST_CASE("each format is known by its first bytes") {
  using namespace std::string_view_literals;
  CHECK(format_of("QFI\xfb\0\0\0\2"sv) == "qcow2");
  CHECK(format_of("QFI\xfb\0\0\0\3"sv) == "qcow2");
  CHECK(format_of("QFI\xfb\xff\xff\xff\xff"sv) == "qcow2");
  CHECK(format_of("QFI\xfb\0\0\0\1"sv) == "qcow");
  CHECK(format_of("QED\0"sv) == "qed");
  CHECK(format_of("LUKS\xba\xbe\0\1"sv) == "luks");
  CHECK(format_of("vhdxfile"sv) == "vhdx");
  CHECK(format_of("conectix"sv) == "vpc");
  CHECK(format_of(at(0x40, "\x7f\x10\xda\xbe"sv)) == "vdi");
  CHECK(format_of("WithoutFreeSpace\2\0\0\0"sv) == "parallels");
  CHECK(format_of("WithouFreSpacExt\2\0\0\0"sv) == "parallels");
  CHECK(format_of("KDMV"sv) == "vmdk");
  CHECK(format_of("COWD"sv) == "vmdk");
  CHECK(format_of("# Disk DescriptorFile\n\n  \nversion=1\n"sv) == "vmdk");
  CHECK(format_of("#\r\n\r\nversion=3"sv) == "vmdk");
  CHECK(format_of("#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 "sv) ==
        "cloop");
}

TEST_CASE("what is nearly a format is raw") {
  using namespace std::string_view_literals;
  for (std::string_view header :
       {""sv, "Q"sv, "QFI"sv, "QFI\xfb"sv, "QFI\xfb\0\0\0\0"sv, "QFI\xfb\0\0\0"sv, "QED"sv,
        "LUKS\xba\xbe\0\2"sv, "LUKS\xba\xbe"sv, "LUKS"sv, "WithoutFreeSpace\1\0\0\0"sv,
        "version=4"sv, "x\nversion=1"sv, "#!/bin/sh\necho"sv, "\0\0\0\0"sv})
    CHECK(format_of(header) == "raw");
  CHECK(format_of(at(0x41, "\x7f\x10\xda\xbe"sv)) == "raw");
}

TEST_CASE("every beginning of a header is looked at safely") {
  std::string header = "#" + std::string(2000, 'x') + "\nversion=1\n";
  for (size_t size = 0; size <= header.size(); ++size)
    CHECK((format_of({header.data(), size}) == "vmdk") == (size >= header.size() - 1));
  for (int byte = 0; byte < 256; ++byte) CHECK(format_of(std::string(2048, char(byte))) == "raw");
}
