// SPDX-License-Identifier: GPL-2.0-or-later
//
// Cancellation is a visible argument: whoever may be told to give up takes a CancelToken.
//
//   CancelSource source;
//   scope.spawn(serve(client, source.token()));
//   ...
//   source.cancel();          // serve() sees it at its next wait
//   co_await scope.join();
#pragma once

#include <utility>

namespace strata {

class CancelToken;

// Belongs to one executor, as do its tokens. What the kernel has been given is not cancelled: only
// waits are.
class CancelSource {
 public:
  // Called once, by cancel(), unless destroyed earlier. It must not throw, nor destroy the source.
  class [[nodiscard]] Subscription {
   public:
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   protected:
    Subscription() noexcept = default;
    virtual ~Subscription() { unlink(); }
    // Does nothing for a token that can never be cancelled.
    void subscribe(const CancelToken& token) noexcept;
    void unlink() noexcept {
      if (previous_ == nullptr) return;
      *previous_ = next_;
      if (next_ != nullptr) next_->previous_ = previous_;
      previous_ = nullptr;
    }
    virtual void cancelled() noexcept = 0;

   private:
    friend class CancelSource;
    Subscription** previous_ = nullptr;
    Subscription* next_ = nullptr;
  };

  CancelSource() noexcept = default;
  ~CancelSource() {
    while (first_ != nullptr) first_->unlink();
  }
  CancelSource(const CancelSource&) = delete;
  CancelSource& operator=(const CancelSource&) = delete;

  CancelToken token() noexcept;
  bool is_cancelled() const noexcept { return cancelled_; }
  void cancel() noexcept {
    cancelled_ = true;
    while (first_ != nullptr) {
      Subscription& subscription = *first_;
      subscription.unlink();
      subscription.cancelled();
    }
  }

 private:
  Subscription* first_ = nullptr;
  bool cancelled_ = false;
};

// The default token is never cancelled. A token must not outlive its source.
class CancelToken {
 public:
  CancelToken() noexcept = default;
  bool is_cancelled() const noexcept { return source_ != nullptr && source_->is_cancelled(); }

 private:
  friend class CancelSource;
  explicit CancelToken(CancelSource* source) noexcept : source_(source) {}
  CancelSource* source_ = nullptr;
};

inline CancelToken CancelSource::token() noexcept {
  return CancelToken(this);
}

inline void CancelSource::Subscription::subscribe(const CancelToken& token) noexcept {
  if (token.source_ == nullptr) return;
  previous_ = &token.source_->first_;
  next_ = token.source_->first_;
  if (next_ != nullptr) next_->previous_ = &next_;
  token.source_->first_ = this;
}

}  // namespace strata
