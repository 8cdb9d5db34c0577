// How many threads of this machine want a processor at this moment (/proc/loadavg, fourth field, proc(5)): an instant, not
// the averages. It takes 1 us to ask, on two processors; the kernel looks at each. In a container it is the whole machine's.
#pragma once

namespace nbd_serve {

class RunnableTasks {
 public:
  RunnableTasks() = default;
  RunnableTasks(const RunnableTasks&) = delete;
  RunnableTasks& operator=(const RunnableTasks&) = delete;
  ~RunnableTasks() { close(); }

  // A no-op when it is open. Where it is not the kernel that tells (lxcfs, a program that may be slow), nothing ever exceeds.
  void open();
  void close();
  // More threads than processors, the caller's included: somebody waits for one.
  bool exceed_processors() const;

 private:
  int fd_ = -1;
  // When it was opened: asking takes 6 us, and they change seldom.
  long processors_ = 0;
};

}  // namespace nbd_serve
