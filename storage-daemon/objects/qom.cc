// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/qom.h"

#include <algorithm>
#include <array>

#include "block/base/error.h"
#include "storage-daemon/chardev/registry.h"
#include "storage-daemon/objects/registry.h"

namespace strata {
namespace {

using boost::json::value;

// ---- Types

struct QomType {
  std::string_view name;
  std::string_view parent;
  bool abstract = false;
};

constexpr std::string_view kUserCreatable = "user-creatable";

constexpr std::array kTypes = std::to_array<QomType>({
    {"object", "", true},
    {"interface", "", true},
    {kUserCreatable, "interface", true},
    {"container", "object"},
    {"event-loop-base", "object", true},
    {"iothread", "event-loop-base"},
    {"main-loop", "event-loop-base"},
    {"secret_common", "object", true},
    {"secret", "secret_common"},
    {"throttle-group", "object"},
    {"chardev", "object", true},
    {"chardev-fd", "chardev", true},
    {"chardev-file", "chardev-fd"},
    {"chardev-stdio", "chardev-fd"},
    {"chardev-null", "chardev"},
    {"chardev-pty", "chardev"},
    {"chardev-ringbuf", "chardev"},
    {"chardev-memory", "chardev-ringbuf"},
    {"chardev-socket", "chardev"},
});

const QomType* find_type(std::string_view name) {
  auto found = std::ranges::find(kTypes, name, &QomType::name);
  return found == kTypes.end() ? nullptr : &*found;
}

const CreatableType* find_creatable(std::string_view name) {
  for (const CreatableType& type : creatable_types()) {
    if (to_string(type.type) == name) return &type;
  }
  return nullptr;
}

bool descends_from(const QomType* type, std::string_view ancestor) {
  if (ancestor == kUserCreatable && find_creatable(type->name) != nullptr) return true;
  for (; type != nullptr; type = find_type(type->parent)) {
    if (type->name == ancestor) return true;
  }
  return false;
}

std::vector<qapi::ObjectPropertyInfo> own_properties(std::span<const Property> properties) {
  std::vector<qapi::ObjectPropertyInfo> infos{{.name = "type", .type = "string"}};
  for (const Property& property : properties)
    infos.push_back({.name = std::string(property.name), .type = std::string(property.type)});
  return infos;
}

std::string_view last_part(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

std::vector<qapi::ObjectTypeInfo> list_object_types(const std::string* implements, bool abstract) {
  std::vector<qapi::ObjectTypeInfo> infos;
  for (const QomType& type : kTypes) {
    if (type.abstract && !abstract) continue;
    if (implements != nullptr && !descends_from(&type, *implements)) continue;
    qapi::ObjectTypeInfo info{.name = std::string(type.name)};
    if (type.abstract) info.abstract = true;
    if (!type.parent.empty()) info.parent = type.parent;
    infos.push_back(std::move(info));
  }
  return infos;
}

std::vector<qapi::ObjectPropertyInfo> list_type_properties(const std::string& name) {
  const QomType* type = find_type(name);
  if (type == nullptr) throw Error(ErrorClass::DeviceNotFound, "Class '{}' not found", name);
  if (descends_from(type, "interface")) throw Error("Parameter 'typename' expects a QOM type");
  const CreatableType* creatable = find_creatable(name);
  return own_properties(creatable != nullptr ? creatable->properties : std::span<const Property>());
}

// ---- The tree

std::vector<QomTree::Item> QomTree::items() const {
  std::vector<Item> all;
  Item root{.path = "/", .type = "container", .children = {"/objects", "/chardevs"}};
  Item objects{.path = "/objects", .type = "container"};
  Item chardevs{.path = "/chardevs", .type = "container"};
  for (const auto& object : objects_.all()) {
    all.push_back(
        {.path = "/objects/" + object->id(), .type = object->type(), .object = object.get()});
    objects.children.push_back(all.back().path);
  }
  for (const auto& device : chardevs_.all()) {
    all.push_back({.path = "/chardevs/" + device->id(), .type = device->qom_type()});
    chardevs.children.push_back(all.back().path);
  }
  all.push_back(std::move(root));
  all.push_back(std::move(objects));
  all.push_back(std::move(chardevs));
  return all;
}

QomTree::Item QomTree::find(const std::string& path) const {
  std::vector<Item> all = items();
  bool absolute = path.starts_with('/');
  std::string end = absolute ? path : "/" + path;
  end.erase(
      std::unique(end.begin(), end.end(), [](char a, char b) { return a == '/' && b == '/'; }),
      end.end());
  if (end.size() > 1 && end.ends_with('/')) end.pop_back();
  const Item* found = nullptr;
  for (const Item& item : all) {
    bool matches = absolute ? item.path == end : path.empty() || item.path.ends_with(end);
    if (!matches) continue;
    if (found != nullptr) throw Error("Path '{}' is ambiguous", path);
    found = &item;
  }
  if (found == nullptr) throw Error(ErrorClass::DeviceNotFound, "Device '{}' not found", path);
  return *found;
}

std::vector<qapi::ObjectPropertyInfo> QomTree::properties(const Item& item) const {
  auto infos = own_properties(item.object != nullptr ? item.object->properties()
                                                     : std::span<const Property>());
  std::vector<Item> all = items();
  for (const std::string& child : item.children) {
    auto found = std::ranges::find(all, child, &Item::path);
    infos.push_back(
        {.name = std::string(last_part(child)), .type = fmt::format("child<{}>", found->type)});
  }
  return infos;
}

std::vector<qapi::ObjectPropertyInfo> QomTree::list(const std::string& path) const {
  return properties(find(path));
}

value QomTree::get(const std::string& path, const std::string& name) const {
  Item item = find(path);
  if (name == "type") return value(item.type);
  for (const std::string& child : item.children) {
    if (last_part(child) == name) return value(child);
  }
  if (item.object != nullptr) {
    for (const Property& property : item.object->properties()) {
      if (property.name == name) return property.get(*item.object);
    }
  }
  throw Error("Property '{}.{}' not found", item.type, name);
}

void QomTree::set(const std::string& path, const std::string& name, const value& to) const {
  Item item = find(path);
  bool is_child = std::ranges::any_of(
      item.children, [&](const std::string& child) { return last_part(child) == name; });
  if (name == "type" || is_child) throw Error("Property '{}.{}' is not writable", item.type, name);
  if (item.object != nullptr) {
    for (const Property& property : item.object->properties()) {
      if (property.name != name) continue;
      if (property.set == nullptr) throw Error("Property '{}.{}' is not writable", item.type, name);
      return property.set(*item.object, to);
    }
  }
  throw Error("Property '{}.{}' not found", item.type, name);
}

std::vector<qapi::ObjectPropertyValue> QomTree::list_values(const std::string& path) const {
  Item item = find(path);
  std::vector<qapi::ObjectPropertyValue> values;
  for (qapi::ObjectPropertyInfo& info : properties(item)) {
    value current = get(item.path, info.name);
    values.push_back(
        {.name = std::move(info.name), .type = std::move(info.type), .value = std::move(current)});
  }
  return values;
}

}  // namespace strata
