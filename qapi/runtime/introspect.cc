// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/introspect.h"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <map>
#include <string>
#include <vector>

namespace strata::qapi {

namespace json = boost::json;

template <>
const TypeInfo& type_info<NoArguments>() noexcept {
  static constexpr ObjectInfo object{nullptr, {}};
  static constexpr TypeInfo info{Kind::object, "empty", nullptr, nullptr, &object};
  return info;
}

namespace {

// The name and JSON type of a built-in type; all integers are one.
struct Builtin {
  std::string_view name;
  std::string_view json_type;
};

Builtin builtin(Kind kind) {
  switch (kind) {
    case Kind::boolean:
      return {"bool", "boolean"};
    case Kind::number:
      return {"number", "number"};
    case Kind::string:
      return {"str", "string"};
    case Kind::null:
      return {"null", "null"};
    case Kind::any:
      return {"any", "value"};
    case Kind::enumeration:
    case Kind::array:
    case Kind::object:
    case Kind::alternate:
      return {};
    default:
      return {"int", "int"};
  }
}

json::array names(Features features) {
  json::array result;
  for (const auto feature : features) result.emplace_back(feature);
  return result;
}

void add_features(json::object& out, Features features) {
  if (!features.empty()) out.emplace("features", names(features));
}

class Introspection {
 public:
  explicit Introspection(const EnumFilter& keep) : keep_(keep) {}

  void command(const CommandDescription& info) {
    json::object entry{{"name", info.name}, {"meta-type", "command"}};
    entry.emplace("arg-type", use(info.arguments));
    entry.emplace("ret-type", use(info.returns ? info.returns : type_info<NoArguments>));
    if (info.allow_oob) entry.emplace("allow-oob", true);
    add_features(entry, info.features);
    result_.push_back(std::move(entry));
  }

  void event(const EventDescription& info) {
    json::object entry{{"name", info.name}, {"meta-type", "event"}};
    entry.emplace("arg-type", use(info.data));
    add_features(entry, info.features);
    result_.push_back(std::move(entry));
  }

  json::array finish() {
    // Describing a type may put further ones into use.
    for (std::size_t i = 0; i < used_.size(); ++i) result_.push_back(describe(*used_[i]));
    return std::move(result_);
  }

 private:
  // The name of a type, which is described later.
  std::string use(TypeRef ref) { return use(ref()); }

  std::string use(const TypeInfo& type) {
    const Builtin scalar = builtin(type.kind);
    std::string key;
    if (!scalar.name.empty()) {
      key = scalar.name;
    } else if (type.kind == Kind::array) {
      key = "[" + name_of(type.array->element()) + "]";
    } else {
      key = name_of(type);
    }
    if (known_.emplace(key, used_.size()).second) used_.push_back(&type);
    if (type.kind == Kind::array) use(type.array->element());
    return key;
  }

  std::string name_of(const TypeInfo& type) {
    const Builtin scalar = builtin(type.kind);
    if (!scalar.name.empty()) return std::string(scalar.name);
    if (type.kind == Kind::array) return "[" + name_of(type.array->element()) + "]";
    return std::to_string(numbers_.emplace(&type, numbers_.size()).first->second);
  }

  json::object describe(const TypeInfo& type) {
    json::object entry;
    const Builtin scalar = builtin(type.kind);
    entry.emplace("name", name_of(type));
    if (!scalar.name.empty()) {
      entry.emplace("meta-type", "builtin");
      entry.emplace("json-type", scalar.json_type);
      return entry;
    }
    switch (type.kind) {
      case Kind::enumeration:
        describe_enum(type.enumeration(), entry);
        break;
      case Kind::array:
        entry.emplace("meta-type", "array");
        entry.emplace("element-type", use(type.array->element));
        break;
      case Kind::alternate:
        describe_alternate(*type.alternate, entry);
        break;
      default:
        describe_object(type, entry);
        break;
    }
    add_features(entry, type.features);
    return entry;
  }

  bool keeps(const EnumInfo& info, std::string_view value) const {
    return !keep_ || keep_(info.name, value);
  }

  void describe_enum(const EnumInfo& info, json::object& entry) {
    json::array members;
    json::array values;
    for (const EnumValueInfo& value : info.values) {
      if (!keeps(info, value.name)) continue;
      json::object member{{"name", value.name}};
      add_features(member, value.features);
      members.push_back(std::move(member));
      values.emplace_back(value.name);
    }
    entry.emplace("meta-type", "enum");
    entry.emplace("members", std::move(members));
    entry.emplace("values", std::move(values));
  }

  void describe_alternate(const AlternateInfo& info, json::object& entry) {
    json::array members;
    for (const BranchInfo& branch : info.alternatives) {
      members.push_back(json::object{{"type", use(branch.type)}});
    }
    entry.emplace("meta-type", "alternate");
    entry.emplace("members", std::move(members));
  }

  void describe_object(const TypeInfo& type, json::object& entry) {
    const ObjectInfo& info = *type.object;
    json::array members;
    add_members(info, members);
    entry.emplace("meta-type", "object");
    entry.emplace("members", std::move(members));
    if (info.branches.empty()) return;
    const EnumInfo& tag = info.tag_enum();
    json::array variants;
    for (std::size_t i = 0; i < info.branches.size(); ++i) {
      const std::string_view value = tag.values[i].name;
      if (!keeps(tag, value)) continue;
      const TypeRef branch = info.branches[i].type;
      variants.push_back(
          json::object{{"case", value}, {"type", use(branch ? branch : type_info<NoArguments>)}});
    }
    entry.emplace("tag", info.tag);
    entry.emplace("variants", std::move(variants));
  }

  void add_members(const ObjectInfo& info, json::array& out) {
    if (info.base) add_members(*info.base().object, out);
    for (const MemberInfo& member : info.members) {
      json::object entry{{"name", member.name}};
      if (member.optional) entry.emplace("default", nullptr);
      add_features(entry, member.features);
      entry.emplace("type", use(member.type));
      out.push_back(std::move(entry));
    }
  }

  const EnumFilter& keep_;
  json::array result_;
  std::vector<const TypeInfo*> used_;
  std::map<std::string, std::size_t> known_;
  std::map<const TypeInfo*, std::size_t> numbers_;
};

}  // namespace

json::array introspect(std::span<const CommandDescription* const> commands,
                       std::span<const EventDescription* const> events, const EnumFilter& keep) {
  Introspection result(keep);
  auto command = commands.begin();
  auto event = events.begin();
  while (command != commands.end() || event != events.end()) {
    if (event == events.end() ||
        (command != commands.end() && (*command)->index < (*event)->index)) {
      result.command(**command++);
    } else {
      result.event(**event++);
    }
  }
  return result.finish();
}

}  // namespace strata::qapi
