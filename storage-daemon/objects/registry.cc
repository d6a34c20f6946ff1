// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/registry.h"

#include <algorithm>
#include <array>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "storage-daemon/objects/event_loop.h"
#include "storage-daemon/objects/secret.h"
#include "storage-daemon/objects/throttle_group.h"

namespace strata {

using qapi::ObjectType;

std::span<const CreatableType> creatable_types() noexcept {
  static const std::array kTypes{
      CreatableType{ObjectType::iothread, "event-loop-base", IothreadObject::property_table()},
      CreatableType{ObjectType::main_loop, "event-loop-base", MainLoopObject::property_table()},
      CreatableType{ObjectType::secret, "secret_common", SecretObject::property_table()},
      CreatableType{ObjectType::throttle_group, "object", ThrottleGroupObject::property_table()},
  };
  return kTypes;
}

std::string creatable_types_help() {
  std::string text = "List of user creatable objects:\n";
  for (const CreatableType& type : creatable_types())
    text += fmt::format("  {}\n", to_string(type.type));
  return text;
}

std::string properties_help(const CreatableType& type) {
  std::vector<std::string> lines;
  for (const Property& property : type.properties) {
    if (property.is_option)
      lines.push_back(fmt::format("  {}=<{}>\n", property.name, property.type));
  }
  std::ranges::sort(lines);
  std::string text = fmt::format("{} options:\n", to_string(type.type));
  for (const std::string& line : lines) text += line;
  return text;
}

UserObject* ObjectRegistry::find(std::string_view id) const noexcept {
  for (const auto& object : objects_) {
    if (object->id() == id) return object.get();
  }
  return nullptr;
}

std::unique_ptr<UserObject> ObjectRegistry::make(MainLoop& loop,
                                                 const qapi::ObjectOptions& options) const {
  switch (options.qom_type) {
    case ObjectType::iothread:
      return std::make_unique<IothreadObject>(options.id,
                                              *options.get_if<qapi::IothreadProperties>());
    case ObjectType::main_loop:
      for (const auto& object : objects_) {
        if (dynamic_cast<MainLoopObject*>(object.get()) != nullptr)
          throw Error("only one main-loop instance allowed");
      }
      return std::make_unique<MainLoopObject>(loop, options.id,
                                              *options.get_if<qapi::MainLoopProperties>());
    case ObjectType::secret:
      return std::make_unique<SecretObject>(
          options.id, *options.get_if<qapi::SecretProperties>(),
          [this](std::string_view id) { return find_as<SecretObject>(id); });
    case ObjectType::throttle_group:
      return std::make_unique<ThrottleGroupObject>(
          options.id, *options.get_if<qapi::ThrottleGroupProperties>());
    default:
      throw Error("invalid object type: {}", to_string(options.qom_type));
  }
}

void ObjectRegistry::add(MainLoop& loop, const qapi::ObjectOptions& options) {
  if (!is_wellformed_id(options.id))
    throw Error("Parameter 'id' expects an identifier")
        .hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n");
  std::unique_ptr<UserObject> object = make(loop, options);
  if (find(options.id) != nullptr)
    throw Error("attempt to add duplicate property '{}' to object (type 'container')", options.id);
  objects_.push_back(std::move(object));
}

void ObjectRegistry::remove(MainLoop&, std::string_view id) {
  UserObject* object = find(id);
  if (object == nullptr) throw Error("object '{}' not found", id);
  if (!object->can_be_deleted() || in_use_(*object))
    throw Error("object '{}' is in use, can not be deleted", id);
  std::erase_if(objects_, [object](const auto& owned) { return owned.get() == object; });
}

void ObjectRegistry::remove_all(MainLoop&) noexcept {
  while (!objects_.empty()) objects_.pop_back();
}

}  // namespace strata
