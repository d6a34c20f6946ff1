// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/names.h"

namespace strata::nbd {

std::string_view to_string(Option option) noexcept {
  switch (option) {
    case Option::export_name:
      return "export name";
    case Option::abort:
      return "abort";
    case Option::list:
      return "list";
    case Option::peek_export:
      break;
    case Option::starttls:
      return "starttls";
    case Option::info:
      return "info";
    case Option::go:
      return "go";
    case Option::structured_reply:
      return "structured reply";
    case Option::list_meta_context:
      return "list meta context";
    case Option::set_meta_context:
      return "set meta context";
    case Option::extended_headers:
      return "extended headers";
  }
  return "<unknown>";
}

std::string_view to_string(OptionReply reply) noexcept {
  switch (reply) {
    case OptionReply::ack:
      return "ack";
    case OptionReply::server:
      return "server";
    case OptionReply::info:
      return "info";
    case OptionReply::meta_context:
      return "meta context";
    case OptionReply::err_unsup:
      return "unsupported";
    case OptionReply::err_policy:
      return "denied by policy";
    case OptionReply::err_invalid:
      return "invalid";
    case OptionReply::err_platform:
      return "platform lacks support";
    case OptionReply::err_tls_reqd:
      return "TLS required";
    case OptionReply::err_unknown:
      return "export unknown";
    case OptionReply::err_shutdown:
      return "server shutting down";
    case OptionReply::err_block_size_reqd:
      return "block size required";
    case OptionReply::err_too_big:
      return "option payload too big";
    case OptionReply::err_ext_header_reqd:
      return "extended headers required";
  }
  return "<unknown>";
}

std::string_view to_string(Command command) noexcept {
  switch (command) {
    case Command::read:
      return "read";
    case Command::write:
      return "write";
    case Command::disconnect:
      return "disconnect";
    case Command::flush:
      return "flush";
    case Command::trim:
      return "trim";
    case Command::cache:
      return "cache";
    case Command::write_zeroes:
      return "write zeroes";
    case Command::block_status:
      return "block status";
  }
  return "<unknown>";
}

}  // namespace strata::nbd
