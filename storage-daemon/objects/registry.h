// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/aio/main_loop.h"
#include "qapi/types_qom.h"
#include "storage-daemon/objects/object.h"

namespace strata {

class TlsCredentials;

// The objects that users made, by id.
class ObjectRegistry {
 public:
  // Whether something outside uses the object, so that it must stay.
  using InUse = std::function<bool(const UserObject& object)>;

  explicit ObjectRegistry(InUse in_use) : in_use_(std::move(in_use)) {}

  // For object-add and --object. Throws Error.
  void add(MainLoop& loop, const qapi::ObjectOptions& options);
  void remove(MainLoop& loop, std::string_view id);
  // Latest first, whatever uses them.
  void remove_all(MainLoop& loop) noexcept;

  // Null if there is none.
  UserObject* find(std::string_view id) const noexcept;
  template <class Object>
  Object* find_as(std::string_view id) const noexcept {
    return dynamic_cast<Object*>(find(id));
  }
  // Throws Error where there are none of that id.
  std::shared_ptr<TlsCredentials> find_tls_credentials(std::string_view id) const;
  // The bytes that the secret holds; nothing where there is no secret of that id.
  std::optional<std::string> find_secret(std::string_view id) const;
  const std::vector<std::unique_ptr<UserObject>>& all() const noexcept { return objects_; }

 private:
  std::unique_ptr<UserObject> make(MainLoop& loop, const qapi::ObjectOptions& options) const;
  std::unique_ptr<UserObject> make_tls_object(const qapi::ObjectOptions& options) const;
  std::unique_ptr<UserObject> make_authz_object(const qapi::ObjectOptions& options) const;

  InUse in_use_;
  std::vector<std::unique_ptr<UserObject>> objects_;
};

// The types that add() makes, by name in the order of the alphabet, with their properties.
struct CreatableType {
  qapi::ObjectType type;
  std::string_view parent;
  std::span<const Property> properties;
};
std::span<const CreatableType> creatable_types() noexcept;

// The answers to --object help and --object TYPE,help.
std::string creatable_types_help();
std::string properties_help(const CreatableType& type);

}  // namespace strata
