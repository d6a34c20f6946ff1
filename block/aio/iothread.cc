// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/iothread.h"

#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

#include <future>

namespace strata {

IoThread::IoThread(std::string id) : context_(std::move(id)) {
  std::promise<pid_t> started;
  thread_ = std::thread([this, &started] {
    pthread_setname_np(pthread_self(), ("IO " + context_.name()).substr(0, 15).c_str());
    started.set_value(::gettid());
    context_.run();
    context_.end_services();
  });
  thread_id_ = started.get_future().get();
}

IoThread::~IoThread() {
  context_.request_stop();
  thread_.join();
}

}  // namespace strata
