// SPDX-License-Identifier: GPL-2.0-or-later
//
// Reading JSON into schema types: one walk over the tables of type_info.h.
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <limits>
#include <string>

#include "block/base/error.h"
#include "qapi/runtime/scalars.h"
#include "qapi/runtime/visitor.h"

namespace strata::qapi {

namespace {

namespace json = boost::json;

// Where the walk is. Lives on the stack; its text is made only when there is an error to report.
struct Path {
  const Path* parent = nullptr;
  std::string_view name;  // of a member; at the root, of the whole
  std::size_t index = 0;  // of an array element
  bool is_element = false;
};

std::string full_name(const Path& path, InputForm form) {
  if (!path.parent) return std::string(path.name);
  std::string result = full_name(*path.parent, form);
  if (path.is_element) {
    const std::string index = std::to_string(path.index);
    return form == InputForm::keyval ? result + "." + index : result + "[" + index + "]";
  }
  if (!result.empty()) result += '.';
  return result.append(path.name);
}

// The short name some of QEMU's texts use: of the member itself, "null" for an array element.
std::string_view short_name(const Path& path) {
  return path.is_element || path.name.empty() ? std::string_view("null") : path.name;
}

class Reader {
 public:
  explicit Reader(InputForm form) : form_(form) {}

  void read(const TypeInfo& type, void* out, const json::value& value, const Path& path) {
    switch (type.kind) {
      case Kind::boolean:
        return store(out, boolean(value, path));
      case Kind::int8:
        return limited<std::int8_t>(out, int64(value, path), path, "int8_t");
      case Kind::int16:
        return limited<std::int16_t>(out, int64(value, path), path, "int16_t");
      case Kind::int32:
        return limited<std::int32_t>(out, int64(value, path), path, "int32_t");
      case Kind::int64:
        return store(out, int64(value, path));
      case Kind::uint8:
        return limited<std::uint8_t>(out, uint64(value, path), path, "uint8_t");
      case Kind::uint16:
        return limited<std::uint16_t>(out, uint64(value, path), path, "uint16_t");
      case Kind::uint32:
        return limited<std::uint32_t>(out, uint64(value, path), path, "uint32_t");
      case Kind::uint64:
        return store(out, uint64(value, path));
      case Kind::size:
        return store(out, size(value, path));
      case Kind::number:
        return store(out, number(value, path));
      case Kind::string:
        *static_cast<std::string*>(out) = string(value, path);
        return;
      case Kind::null:
        return null(value, path);
      case Kind::any:
        *static_cast<json::value*>(out) = value;
        return;
      case Kind::enumeration:
        return enumeration(type, out, value, path);
      case Kind::array:
        return array(*type.array, out, value, path);
      case Kind::object:
        return object(type, out, value, path);
      case Kind::alternate:
        return alternate(type, out, value, path);
    }
  }

 private:
  [[noreturn]] void wrong_type(const Path& path, std::string_view expected) const {
    throw Error("Invalid parameter type for '{}', expected: {}", full_name(path, form_), expected);
  }

  // The text of a scalar in keyval form.
  std::string text(const json::value& value, const Path& path) const {
    if (const auto* string = value.if_string()) return {string->data(), string->size()};
    throw Error("Parameters '{}.*' are unexpected", full_name(path, form_));
  }

  template <class T>
  static void store(void* out, T value) {
    *static_cast<T*>(out) = value;
  }

  template <class T, class Wide>
  static void limited(void* out, Wide value, const Path& path, std::string_view type) {
    if (value < static_cast<Wide>(std::numeric_limits<T>::min()) ||
        value > static_cast<Wide>(std::numeric_limits<T>::max())) {
      throw Error("Parameter '{}' expects {}", short_name(path), type);
    }
    store(out, static_cast<T>(value));
  }

  template <class T>
  T expect(const std::optional<T>& parsed, const Path& path, std::string_view what) const {
    if (!parsed) throw Error("Parameter '{}' expects {}", full_name(path, form_), what);
    return *parsed;
  }

  bool boolean(const json::value& value, const Path& path) const {
    if (form_ == InputForm::keyval) {
      return expect(parse_switch(text(value, path)), path, "'on' or 'off'");
    }
    if (!value.is_bool()) wrong_type(path, "boolean");
    return value.get_bool();
  }

  std::int64_t int64(const json::value& value, const Path& path) const {
    if (form_ == InputForm::keyval) {
      return expect(parse_int64(text(value, path)), path, "integer");
    }
    if (!value.is_int64()) wrong_type(path, "integer");
    return value.get_int64();
  }

  std::uint64_t uint64(const json::value& value, const Path& path) const {
    if (form_ == InputForm::keyval) {
      return expect(parse_uint64(text(value, path)), path, "integer");
    }
    if (value.is_uint64()) return value.get_uint64();
    // Clients have come to rely on negative numbers wrapping.
    if (value.is_int64()) return static_cast<std::uint64_t>(value.get_int64());
    wrong_type(path, "uint64");
  }

  std::uint64_t size(const json::value& value, const Path& path) const {
    if (form_ == InputForm::keyval) return expect(parse_size(text(value, path)), path, "size");
    return uint64(value, path);
  }

  double number(const json::value& value, const Path& path) const {
    if (form_ == InputForm::keyval) {
      const auto parsed = parse_number(text(value, path));
      if (!parsed) wrong_type(path, "number");
      return *parsed;
    }
    if (value.is_double()) return value.get_double();
    if (value.is_int64()) return static_cast<double>(value.get_int64());
    if (value.is_uint64()) return static_cast<double>(value.get_uint64());
    wrong_type(path, "number");
  }

  std::string string(const json::value& value, const Path& path) const {
    if (form_ == InputForm::keyval) return text(value, path);
    const auto* string = value.if_string();
    if (!string) wrong_type(path, "string");
    return {string->data(), string->size()};
  }

  void null(const json::value& value, const Path& path) const {
    if (value.is_null()) return;
    if (form_ != InputForm::keyval || !text(value, path).empty()) wrong_type(path, "null");
  }

  void enumeration(const TypeInfo& type, void* out, const json::value& value, const Path& path) {
    const std::string name = string(value, path);
    const int index = type.enumeration().find(name);
    if (index < 0) {
      throw Error("Parameter '{}' does not accept value '{}'", short_name(path), name);
    }
    store_enum(out, index);
  }

  void array(const ArrayInfo& info, void* out, const json::value& value, const Path& path) {
    const auto* elements = value.if_array();
    if (!elements) wrong_type(path, "array");
    std::size_t index = 0;
    for (const auto& element : *elements) {
      read(info.element(), info.append(out), element, Path{&path, {}, index++, true});
    }
  }

  void object(const TypeInfo& type, void* out, const json::value& value, const Path& path) {
    const auto* members = value.if_object();
    if (!members) wrong_type(path, "object");
    const std::size_t known = read_members(type, out, *members, path);
    if (known == members->size()) return;
    for (const auto& member : *members) {
      if (!has_member(type, out, member.key())) {
        throw Error("Parameter '{}' is unexpected", full_name(Path{&path, member.key()}, form_));
      }
    }
  }

  // Returns how many of `input`'s members belong to the type.
  std::size_t read_members(const TypeInfo& type, void* out, const json::object& input,
                           const Path& path) {
    const ObjectInfo& info = *type.object;
    std::size_t known = info.base ? read_members(info.base(), out, input, path) : 0;
    for (const MemberInfo& member : info.members) {
      const json::value* found = input.if_contains(member.name);
      const Path here{&path, member.name};
      if (!found) {
        if (member.optional) continue;
        throw Error("Parameter '{}' is missing", full_name(here, form_));
      }
      ++known;
      read(member.type(), member.access.emplace(static_cast<char*>(out) + member.offset), *found,
           here);
    }
    if (info.branches.empty()) return known;
    const BranchInfo& branch = selected(info, out);
    void* content = branch.emplace(static_cast<char*>(out) + info.variant_offset);
    return branch.type ? known + read_members(branch.type(), content, input, path) : known;
  }

  static const BranchInfo& selected(const ObjectInfo& info, const void* object) {
    const int tag = load_enum(static_cast<const char*>(object) + info.tag_offset);
    return info.branches[static_cast<std::size_t>(tag)];
  }

  static bool has_member(const TypeInfo& type, const void* object, std::string_view name) {
    const ObjectInfo& info = *type.object;
    if (info.base && has_member(info.base(), object, name)) return true;
    for (const MemberInfo& member : info.members) {
      if (member.name == name) return true;
    }
    if (info.branches.empty()) return false;
    const BranchInfo& branch = selected(info, object);
    return branch.type &&
           has_member(branch.type(),
                      branch.get(static_cast<const char*>(object) + info.variant_offset), name);
  }

  void alternate(const TypeInfo& type, void* out, const json::value& value, const Path& path) {
    for (const BranchInfo& branch : type.alternate->alternatives) {
      if (accepts(branch.type(), value)) {
        return read(branch.type(), branch.emplace(out), value, path);
      }
    }
    throw Error("Invalid parameter type for '{}', expected: {}", short_name(path), type.name);
  }

  // Whether a branch of an alternate is the one for this kind of JSON value.
  bool accepts(const TypeInfo& type, const json::value& value) const {
    const json::string* string = value.if_string();
    const bool is_text = form_ == InputForm::keyval && string;
    switch (type.kind) {
      case Kind::boolean:
        return is_text ? parse_switch({string->data(), string->size()}).has_value()
                       : value.is_bool();
      case Kind::null:
        return value.is_null();
      case Kind::object:
        return value.is_object();
      case Kind::array:
        return value.is_array();
      case Kind::string:
        return string != nullptr;
      case Kind::enumeration:
        return string && (!is_text || type.enumeration().find(*string) >= 0);
      case Kind::any:
      case Kind::alternate:
        return false;
      default:
        return is_text ? parse_number({string->data(), string->size()}).has_value()
                       : value.is_number();
    }
  }

  InputForm form_;
};

}  // namespace

void read_value(const TypeInfo& type, void* out, const json::value& value, InputForm form,
                std::string_view name) {
  Reader(form).read(type, out, value, Path{nullptr, name});
}

void select_branch(const TypeInfo& type, void* object, int value) {
  const ObjectInfo& info = *type.object;
  store_enum(static_cast<char*>(object) + info.tag_offset, value);
  info.branches[static_cast<std::size_t>(value)].emplace(static_cast<char*>(object) +
                                                         info.variant_offset);
}

}  // namespace strata::qapi
