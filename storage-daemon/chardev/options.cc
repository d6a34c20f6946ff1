// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/chardev/options.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <functional>
#include <map>
#include <optional>

#include "block/base/error.h"
#include "block/base/option_words.h"
#include "qapi/runtime/scalars.h"

namespace strata {
namespace {

using Kind = qapi::ChardevBackendKind;

enum class Type { string, boolean, number, size };

struct Parameter {
  std::string_view name;
  Type type;
};

// In the order of the alphabet.
constexpr std::array kParameters = std::to_array<Parameter>({
    {"abstract", Type::boolean},    {"append", Type::boolean},    {"backend", Type::string},
    {"chardev", Type::string},      {"cols", Type::number},       {"debug", Type::number},
    {"delay", Type::boolean},       {"fd", Type::string},         {"height", Type::number},
    {"host", Type::string},         {"input-path", Type::string}, {"ipv4", Type::boolean},
    {"ipv6", Type::boolean},        {"localaddr", Type::string},  {"localport", Type::string},
    {"logappend", Type::boolean},   {"logfile", Type::string},    {"logtimestamp", Type::boolean},
    {"mux", Type::boolean},         {"name", Type::string},       {"nodelay", Type::boolean},
    {"path", Type::string},         {"port", Type::string},       {"reconnect", Type::number},
    {"reconnect-ms", Type::number}, {"rows", Type::number},       {"server", Type::boolean},
    {"signal", Type::boolean},      {"size", Type::size},         {"telnet", Type::boolean},
    {"tight", Type::boolean},       {"tls-authz", Type::string},  {"tls-creds", Type::string},
    {"tn3270", Type::boolean},      {"to", Type::number},         {"wait", Type::boolean},
    {"websocket", Type::boolean},   {"width", Type::number},
});

bool is_help(std::string_view text) {
  return text == "help" || text == "?";
}

bool is_identifier(std::string_view id) {
  if (id.empty() || !std::isalpha(static_cast<unsigned char>(id[0]))) return false;
  return std::ranges::all_of(
      id, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; });
}

// The values, checked against their types; the last of several counts.
class Values {
 public:
  void set(const OptionWord& word) {
    auto known = std::ranges::find(kParameters, word.key, &Parameter::name);
    if (known == kParameters.end()) throw Error("Invalid parameter '{}'", word.key);
    check(*known, word.value);
    values_.insert_or_assign(word.key, word.value);
  }

  bool has(const std::string& name) const { return values_.contains(name); }
  std::optional<std::string> text(const std::string& name) const {
    auto found = values_.find(name);
    return found == values_.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<bool> boolean(const std::string& name) const {
    auto value = text(name);
    return value ? qapi::parse_switch(*value) : std::nullopt;
  }
  std::optional<uint64_t> number(const std::string& name) const {
    auto value = text(name);
    return value ? qapi::parse_uint64(*value) : std::nullopt;
  }
  std::optional<uint64_t> size(const std::string& name) const {
    auto value = text(name);
    return value ? qapi::parse_size(*value) : std::nullopt;
  }

 private:
  static void check(const Parameter& parameter, const std::string& value) {
    switch (parameter.type) {
      case Type::string:
        return;
      case Type::boolean:
        if (!qapi::parse_switch(value))
          throw Error("Parameter '{}' expects 'on' or 'off'", parameter.name);
        return;
      case Type::number:
        if (!qapi::parse_uint64(value))
          throw Error("Parameter '{}' expects a number", parameter.name);
        return;
      case Type::size:
        if (!qapi::parse_size(value)) throw qapi::not_a_size(parameter.name, value);
        return;
    }
  }

  std::map<std::string, std::string> values_;
};

void fill_common(qapi::ChardevCommon& common, const Values& values) {
  common.logfile = values.text("logfile");
  common.logappend = values.boolean("logappend");
  common.logtimestamp = values.boolean("logtimestamp");
}

qapi::SocketAddressLegacy parse_address(const Values& values) {
  qapi::SocketAddressLegacy address;
  auto path = values.text("path");
  auto host = values.text("host");
  auto fd = values.text("fd");
  if (path.has_value() + host.has_value() + fd.has_value() > 1)
    throw Error("None or one of 'path', 'fd' or 'host' option required.");
  if (host && !values.has("port")) throw Error("chardev: socket: no port given");
  if (path) {
    address.select(qapi::SocketAddressType::unix_);
    auto& local = address.get_if<qapi::UnixSocketAddressWrapper>()->data;
    local.path = *path;
    local.tight = values.boolean("tight").value_or(true);
    local.abstract = values.boolean("abstract").value_or(false);
  } else if (host) {
    address.select(qapi::SocketAddressType::inet);
    auto& inet = address.get_if<qapi::InetSocketAddressWrapper>()->data;
    inet.host = *host;
    inet.port = *values.text("port");
    if (auto to = values.number("to")) {
      if (*to > 65535) throw Error("Parameter 'to' expects a port number");
      inet.to = static_cast<uint16_t>(*to);
    }
    inet.ipv4 = values.boolean("ipv4");
    inet.ipv6 = values.boolean("ipv6");
  } else {
    address.select(qapi::SocketAddressType::fd);
    address.get_if<qapi::FdSocketAddressWrapper>()->data.str = fd.value_or("");
  }
  return address;
}

std::optional<int64_t> parse_reconnect(const Values& values) {
  auto seconds = values.number("reconnect");
  auto milliseconds = values.number("reconnect-ms");
  if (seconds && milliseconds) throw Error("'reconnect' and 'reconnect-ms' are mutually exclusive");
  constexpr uint64_t kMost = 1000ull * 3600 * 24 * 365;
  if (seconds) return static_cast<int64_t>(std::min(*seconds, kMost / 1000) * 1000);
  if (milliseconds) return static_cast<int64_t>(std::min(*milliseconds, kMost));
  return std::nullopt;
}

void fill(qapi::ChardevSocket& socket, const Values& values) {
  bool server = values.boolean("server").value_or(false);
  if (!server && values.has("wait"))
    throw Error("'wait' option is incompatible with socket in client connect mode");
  socket.addr = parse_address(values);
  socket.server = server;
  if (server) socket.wait = values.boolean("wait").value_or(true);
  socket.nodelay =
      values.has("delay") ? !*values.boolean("delay") : values.boolean("nodelay").value_or(false);
  socket.telnet = values.boolean("telnet");
  socket.tn3270 = values.boolean("tn3270");
  socket.websocket = values.boolean("websocket");
  socket.tls_creds = values.text("tls-creds");
  socket.tls_authz = values.text("tls-authz");
  socket.reconnect_ms = parse_reconnect(values);
}

void fill(qapi::ChardevFile& file, const Values& values) {
  auto path = values.text("path");
  if (!path) throw Error("chardev: file: no filename given");
  file.out = *path;
  file.in = values.text("input-path");
  file.append = values.boolean("append").value_or(false);
}

void fill(qapi::ChardevStdio& stdio, const Values& values) {
  stdio.signal = values.boolean("signal");
}

void fill(qapi::ChardevRingbuf& ringbuf, const Values& values) {
  auto size = values.size("size");
  // 0 stands for the default, as in QEMU.
  if (size && *size != 0) ringbuf.size = static_cast<int64_t>(std::min<uint64_t>(*size, INT64_MAX));
}

void fill(qapi::ChardevPty& pty, const Values& values) {
  pty.path = values.text("path");
}

// Of backends that are not built nothing is asked.
template <class Options>
void fill(Options&, const Values&) {}

}  // namespace

ChardevHelp chardev_help(std::string_view text) {
  if (is_help(text)) return ChardevHelp::backends;
  for (const OptionWord& word : split_option(text, "backend")) {
    if (word.short_form && is_help(word.key)) return ChardevHelp::options;
  }
  return ChardevHelp::none;
}

std::string chardev_options_help() {
  constexpr std::array kTypes = {"str", "bool (on/off)", "num", "size"};
  std::string text = "chardev options:\n";
  for (const Parameter& parameter : kParameters)
    text += fmt::format("  {}=<{}>\n", parameter.name, kTypes[static_cast<size_t>(parameter.type)]);
  return text;
}

ChardevOption parse_chardev_option(std::string_view text) {
  ChardevOption option;
  Values values;
  std::vector<OptionWord> words = split_option(text, "backend");
  for (const OptionWord& word : words) {
    if (word.key != "id") continue;
    option.id = word.value;
    if (!is_identifier(option.id))
      throw Error("Parameter 'id' expects an identifier")
          .hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n");
  }
  for (const OptionWord& word : words) {
    if (word.short_form && word.key != "id")
      option.warnings.push_back(
          fmt::format("short-form boolean option '{0}' deprecated\n"
                      "Please use {0}={1} instead",
                      word.key, word.value));
    if (word.key != "id") values.set(word);
  }
  if (option.id.empty()) throw Error("chardev: no id specified");
  auto backend = values.text("backend");
  if (!backend) throw Error("chardev: \"{}\" missing backend", option.id);
  auto kind = qapi::from_string<Kind>(*backend);
  if (!kind) throw Error("'{}' is not a valid char driver name", *backend);
  option.backend.select(*kind);
  std::visit(
      [&](auto& branch) {
        if constexpr (requires { branch.data; }) {
          fill_common(branch.data, values);
          fill(branch.data, values);
        }
      },
      option.backend.u);
  if (values.boolean("mux").value_or(false)) throw Error("'mux' is not a valid char driver name");
  return option;
}

}  // namespace strata
