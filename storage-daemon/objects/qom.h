// SPDX-License-Identifier: GPL-2.0-or-later
//
// Objects and character devices as the tree that QEMU shows: /objects/ID, /chardevs/ID.
#pragma once

#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "qapi/types_qom.h"

namespace strata {

class Chardev;
class ChardevRegistry;
class ObjectRegistry;
class UserObject;

class QomTree {
 public:
  QomTree(const ObjectRegistry& objects, const ChardevRegistry& chardevs)
      : objects_(objects), chardevs_(chardevs) {}

  // `path` is absolute ("/objects/a") or the end of one ("a"). All throw Error.
  std::vector<qapi::ObjectPropertyInfo> list(const std::string& path) const;
  boost::json::value get(const std::string& path, const std::string& property) const;
  void set(const std::string& path, const std::string& property,
           const boost::json::value& value) const;
  std::vector<qapi::ObjectPropertyValue> list_values(const std::string& path) const;

 private:
  struct Item {
    std::string path;
    std::string_view type;
    UserObject* object = nullptr;       // of a user's object
    std::vector<std::string> children;  // paths
  };

  std::vector<Item> items() const;
  Item find(const std::string& path) const;
  std::vector<qapi::ObjectPropertyInfo> properties(const Item& item) const;

  const ObjectRegistry& objects_;
  const ChardevRegistry& chardevs_;
};

// What qom-list-types and qom-list-properties say.
std::vector<qapi::ObjectTypeInfo> list_object_types(const std::string* implements, bool abstract);
std::vector<qapi::ObjectPropertyInfo> list_type_properties(const std::string& type);

}  // namespace strata
