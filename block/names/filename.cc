// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/filename.h"

#include <sys/stat.h>

#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "block/base/error.h"

namespace strata {
namespace {

using boost::json::object;

constexpr std::string_view kDefaultNbdPort = "10809";

bool is_device(const std::string& path) noexcept {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && (S_ISBLK(status.st_mode) || S_ISCHR(status.st_mode));
}

object file_options(std::string_view driver, std::string_view path) {
  object options;
  options["driver"] = std::string(driver);
  options["filename"] = std::string(path);
  return options;
}

std::optional<int> hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

std::string decode_percent(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      std::optional<int> high = hex_digit(text[i + 1]);
      std::optional<int> low = hex_digit(text[i + 2]);
      if (high && low) {
        out += static_cast<char>(*high * 16 + *low);
        i += 2;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

object unix_server(std::string path) {
  object server;
  server["type"] = "unix";
  server["path"] = std::move(path);
  return server;
}

object inet_server(std::string host, std::string port) {
  object server;
  server["type"] = "inet";
  server["host"] = std::move(host);
  server["port"] = std::move(port);
  return server;
}

object nbd_options(object server, std::string export_name, bool secure = false) {
  object options;
  options["driver"] = "nbd";
  // Credentials are to be named elsewhere; none are none of this name.
  if (secure) options["tls-creds"] = "";
  options["server"] = std::move(server);
  if (!export_name.empty()) options["export"] = std::move(export_name);
  return options;
}

bool is_port(std::string_view text) noexcept {
  uint16_t port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size();
}

// "[user@]host[:port]", where the host may be an IPv6 address in brackets.
std::pair<std::string, std::string> split_authority(std::string_view authority) {
  std::string host;
  if (size_t at = authority.find('@'); at != authority.npos) authority.remove_prefix(at + 1);
  if (authority.starts_with('[')) {
    size_t end = authority.find(']');
    if (end == authority.npos) throw Error("No valid URL specified");
    host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
  } else {
    size_t colon = authority.find(':');
    host = authority.substr(0, colon);
    authority.remove_prefix(colon == authority.npos ? authority.size() : colon);
  }
  std::string port(kDefaultNbdPort);
  if (authority.starts_with(':')) port = authority.substr(1);
  if (!is_port(port)) throw Error("No valid URL specified");
  return {host.empty() ? "localhost" : std::move(host), std::move(port)};
}

// nbd://host[:port]/export, nbd+tcp://, nbd+unix:///export?socket=path, and the same over TLS:
// nbds://, nbds+unix://
object parse_nbd_uri(std::string_view scheme, std::string_view rest) {
  rest = rest.substr(0, rest.find('#'));
  size_t question = rest.find('?');
  std::string_view query = question == rest.npos ? "" : rest.substr(question + 1);
  rest = rest.substr(0, question);
  size_t slash = rest.find('/');
  std::string_view authority = rest.substr(0, slash);
  std::string_view path = slash == rest.npos ? "" : rest.substr(slash);
  path.remove_prefix(std::min(path.find_first_not_of('/'), path.size()));
  std::string export_name = decode_percent(path);
  bool secure = scheme.starts_with("nbds");
  if (scheme.ends_with("+unix")) {
    if (!authority.empty() || !query.starts_with("socket=") || query.find('&') != query.npos)
      throw Error("No valid URL specified");
    return nbd_options(unix_server(decode_percent(query.substr(7))), std::move(export_name),
                       secure);
  }
  if (!query.empty()) throw Error("No valid URL specified");
  auto [host, port] = split_authority(authority);
  return nbd_options(inet_server(decode_percent(host), port), std::move(export_name), secure);
}

// nbd:host:port[:exportname=name], nbd:unix:path[:exportname=name]
object parse_nbd_name(std::string_view rest) {
  std::string export_name;
  constexpr std::string_view kExport = ":exportname=";
  if (size_t at = rest.find(kExport); at != rest.npos) {
    export_name = rest.substr(at + kExport.size());
    rest = rest.substr(0, at);
  }
  if (rest.starts_with("unix:"))
    return nbd_options(unix_server(std::string(rest.substr(5))), std::move(export_name));
  size_t colon = rest.rfind(':');
  if (rest.empty()) throw Error("NBD server address missing");
  if (colon == rest.npos || colon + 1 == rest.size())
    throw Error("error parsing address '{}'", rest);
  std::string_view host = rest.substr(0, colon);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  return nbd_options(inet_server(std::string(host), std::string(rest.substr(colon + 1))),
                     std::move(export_name));
}

object parse_null_name(std::string_view driver, std::string_view name) {
  if (name != std::string(driver) + "://")
    throw Error("The only allowed filename for this driver is '{}://'", driver);
  object options;
  options["driver"] = std::string(driver);
  return options;
}

// blkdebug:[config]:image
object parse_blkdebug_name(std::string_view rest) {
  size_t colon = rest.find(':');
  if (colon == rest.npos) throw Error("blkdebug requires both config file and image path");
  object options;
  options["driver"] = "blkdebug";
  if (colon != 0) options["config"] = std::string(rest.substr(0, colon));
  options["image"] = options_of_filename(std::string(rest.substr(colon + 1)));
  return options;
}

}  // namespace

bool has_protocol_prefix(std::string_view name) noexcept {
  size_t end = name.find_first_of(":/");
  return end != name.npos && name[end] == ':';
}

object options_of_filename(const std::string& name) {
  if (!has_protocol_prefix(name) || is_device(name)) return options_of_path(name);
  size_t colon = name.find(':');
  std::string_view prefix = std::string_view(name).substr(0, colon);
  std::string_view rest = std::string_view(name).substr(colon + 1);
  if (prefix == "file") {
    if (is_device(std::string(rest))) return file_options("host_device", rest);
    // A name that looks like a protocol's is called so that it does not.
    if (has_protocol_prefix(rest)) return file_options("file", "./" + std::string(rest));
    return file_options("file", rest);
  }
  if (prefix == "host_device") return file_options("host_device", rest);
  if (prefix == "nbd" || prefix == "nbd+tcp" || prefix == "nbd+unix" || prefix == "nbds" ||
      prefix == "nbds+unix") {
    if (rest.starts_with("//")) return parse_nbd_uri(prefix, rest.substr(2));
    if (prefix == "nbd") return parse_nbd_name(rest);
    throw Error("File name string for NBD must start with 'nbd:'");
  }
  if (prefix == "blkdebug") return parse_blkdebug_name(rest);
  if (prefix == "null-co" || prefix == "null-aio") return parse_null_name(prefix, name);
  throw Error("Unknown protocol '{}'", prefix);
}

object options_of_path(const std::string& path) {
  return file_options(is_device(path) ? "host_device" : "file", path);
}

std::string absolute_name(const std::string& name, const std::string& of) {
  if (name.empty() || name.starts_with('/') || has_protocol_prefix(name)) return name;
  if (of.empty() || of.starts_with("json:"))
    throw Error("Cannot use relative backing file names for '{}'", of);
  size_t start = has_protocol_prefix(of) ? of.find(':') + 1 : 0;
  size_t slash = of.rfind('/');
  size_t end = slash == of.npos ? start : std::max(slash + 1, start);
  return of.substr(0, end) + name;
}

}  // namespace strata
