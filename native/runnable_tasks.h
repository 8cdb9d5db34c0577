// How many threads of this machine want a processor at this moment (/proc/loadavg, fourth field, proc(5)): an instant, not
// the averages. It takes 1 us to ask, on two processors. In a container it is the whole machine's, or the container's own
// where lxcfs is in use.
#pragma once

namespace nbd_serve {

class RunnableTasks {
 public:
  RunnableTasks() = default;
  RunnableTasks(const RunnableTasks&) = delete;
  RunnableTasks& operator=(const RunnableTasks&) = delete;
  ~RunnableTasks() { close(); }

  // A no-op when it is open. Where the kernel does not tell, nothing ever exceeds.
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
