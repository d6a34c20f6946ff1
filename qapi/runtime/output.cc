// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writing schema types as JSON: one walk over the tables of type_info.h.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cassert>
#include <string>

#include "qapi/runtime/visitor.h"

namespace strata::qapi {

namespace {

namespace json = boost::json;

template <class T>
const T& as(const void* value) {
  return *static_cast<const T*>(value);
}

void write_members(const TypeInfo& type, const void* value, json::object& out) {
  const ObjectInfo& info = *type.object;
  const auto* bytes = static_cast<const char*>(value);
  if (info.base) write_members(info.base(), value, out);
  for (const MemberInfo& member : info.members) {
    const void* content = member.access.get(bytes + member.offset);
    if (content) out.emplace(member.name, write_value(member.type(), content));
  }
  if (info.branches.empty()) return;
  const auto tag = static_cast<std::size_t>(load_enum(bytes + info.tag_offset));
  const BranchInfo& branch = info.branches[tag];
  const void* content = branch.get(bytes + info.variant_offset);
  assert(content && "the tag of a union names another branch than its variant holds");
  if (branch.type) write_members(branch.type(), content, out);
}

json::value write_array(const ArrayInfo& info, const void* value) {
  const std::size_t size = info.size(value);
  json::array out;
  out.reserve(size);
  for (std::size_t i = 0; i < size; ++i) {
    out.push_back(write_value(info.element(), info.at(value, i)));
  }
  return out;
}

json::value write_alternate(const AlternateInfo& info, const void* value) {
  for (const BranchInfo& branch : info.alternatives) {
    if (const void* content = branch.get(value)) return write_value(branch.type(), content);
  }
  assert(false && "an alternate always holds one of its branches");
  return nullptr;
}

}  // namespace

json::value write_value(const TypeInfo& type, const void* value) {
  switch (type.kind) {
    case Kind::boolean:
      return as<bool>(value);
    case Kind::int8:
      return std::int64_t{as<std::int8_t>(value)};
    case Kind::int16:
      return std::int64_t{as<std::int16_t>(value)};
    case Kind::int32:
      return std::int64_t{as<std::int32_t>(value)};
    case Kind::int64:
      return as<std::int64_t>(value);
    case Kind::uint8:
      return std::int64_t{as<std::uint8_t>(value)};
    case Kind::uint16:
      return std::int64_t{as<std::uint16_t>(value)};
    case Kind::uint32:
      return std::int64_t{as<std::uint32_t>(value)};
    case Kind::uint64:
    case Kind::size:
      return as<std::uint64_t>(value);
    case Kind::number:
      return as<double>(value);
    case Kind::string:
      return json::value(as<std::string>(value));
    case Kind::null:
      return nullptr;
    case Kind::any:
      return as<json::value>(value);
    case Kind::enumeration:
      return json::value(
          type.enumeration().values[static_cast<std::size_t>(load_enum(value))].name);
    case Kind::array:
      return write_array(*type.array, value);
    case Kind::object: {
      json::object out;
      write_members(type, value, out);
      return out;
    }
    case Kind::alternate:
      return write_alternate(*type.alternate, value);
  }
  return nullptr;
}

}  // namespace strata::qapi
