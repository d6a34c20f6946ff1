// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/json_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <iterator>
#include <vector>

#include "qapi/runtime/utf8.h"

namespace strata::qapi {

namespace json = boost::json;

std::uint32_t dictionary_bucket(std::string_view key) noexcept {
  std::uint32_t value = 0x238F13AFU * static_cast<std::uint32_t>(key.size());
  for (std::size_t i = 0; i < key.size(); ++i) {
    value += static_cast<std::uint32_t>(static_cast<unsigned char>(key[i])) << (i * 5 % 24);
  }
  return (1103515243U * value + 12345U) % 512;
}

namespace {

class Writer {
 public:
  explicit Writer(JsonStyle style, std::FILE* to = nullptr)
      : pretty_(style == JsonStyle::pretty), to_(to) {}

  void value(const json::value& value) {
    switch (value.kind()) {
      case json::kind::null:
        out_ += "null";
        return;
      case json::kind::bool_:
        out_ += value.get_bool() ? "true" : "false";
        return;
      case json::kind::int64:
        fmt::format_to(end(), "{}", value.get_int64());
        return;
      case json::kind::uint64:
        fmt::format_to(end(), "{}", value.get_uint64());
        return;
      case json::kind::double_:
        fmt::format_to(end(), "{:.17g}", value.get_double());
        return;
      case json::kind::string:
        string(value.get_string());
        return;
      case json::kind::array:
        array(value.get_array());
        return;
      case json::kind::object:
        object(value.get_object());
        return;
    }
  }

  std::string take() { return std::move(out_); }
  void flush() {
    std::fwrite(out_.data(), 1, out_.size(), to_);
    out_.clear();
  }

 private:
  std::back_insert_iterator<std::string> end() { return std::back_inserter(out_); }

  void begin_element(bool first) {
    if (to_ != nullptr && out_.size() >= kMostGathered) flush();
    if (!first) out_ += pretty_ ? "," : ", ";
    new_line();
  }

  void new_line() {
    if (!pretty_) return;
    out_ += '\n';
    out_.append(static_cast<std::size_t>(4 * depth_), ' ');
  }

  void array(const json::array& array) {
    out_ += '[';
    ++depth_;
    bool first = true;
    for (const auto& element : array) {
      begin_element(first);
      value(element);
      first = false;
    }
    --depth_;
    new_line();
    out_ += ']';
  }

  // By bucket; within a bucket what was inserted later comes first.
  static std::vector<const json::key_value_pair*> ordered(const json::object& object) {
    struct Keyed {
      std::uint32_t bucket;
      std::size_t index;
      const json::key_value_pair* member;
    };
    std::vector<Keyed> keyed;
    keyed.reserve(object.size());
    for (const auto& member : object) {
      keyed.push_back({dictionary_bucket(member.key()), keyed.size(), &member});
    }
    std::sort(keyed.begin(), keyed.end(), [](const Keyed& a, const Keyed& b) {
      return a.bucket != b.bucket ? a.bucket < b.bucket : a.index > b.index;
    });
    std::vector<const json::key_value_pair*> result;
    result.reserve(keyed.size());
    for (const Keyed& entry : keyed) result.push_back(entry.member);
    return result;
  }

  void object(const json::object& object) {
    out_ += '{';
    ++depth_;
    bool first = true;
    for (const auto* member : ordered(object)) {
      begin_element(first);
      string(member->key());
      out_ += ": ";
      value(member->value());
      first = false;
    }
    --depth_;
    new_line();
    out_ += '}';
  }

  void string(std::string_view text) {
    out_ += '"';
    while (!text.empty()) {
      const std::int32_t code = take_code_point(text);
      character(code < 0 ? 0xFFFD : code);
    }
    out_ += '"';
  }

  void character(std::int32_t code) {
    switch (code) {
      case '"':
        out_ += "\\\"";
        return;
      case '\\':
        out_ += "\\\\";
        return;
      case '\b':
        out_ += "\\b";
        return;
      case '\f':
        out_ += "\\f";
        return;
      case '\n':
        out_ += "\\n";
        return;
      case '\r':
        out_ += "\\r";
        return;
      case '\t':
        out_ += "\\t";
        return;
      default:
        break;
    }
    if (code >= 0x20 && code < 0x7F) {
      out_ += static_cast<char>(code);
    } else if (code > 0xFFFF) {
      const std::int32_t offset = code - 0x10000;
      fmt::format_to(end(), "\\u{:04X}\\u{:04X}", 0xD800 + (offset >> 10),
                     0xDC00 + (offset & 0x3FF));
    } else {
      fmt::format_to(end(), "\\u{:04X}", code);
    }
  }

  static constexpr std::size_t kMostGathered = 64 * 1024;

  bool pretty_;
  std::FILE* to_;
  int depth_ = 0;
  std::string out_;
};

}  // namespace

std::string write_json(const json::value& value, JsonStyle style) {
  Writer writer(style);
  writer.value(value);
  return writer.take();
}

void print_json(std::FILE* to, const json::value& value, JsonStyle style) {
  Writer writer(style, to);
  writer.value(value);
  writer.flush();
  std::fputc('\n', to);
}

}  // namespace strata::qapi
