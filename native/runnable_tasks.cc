#include "runnable_tasks.h"

#include <fcntl.h>
#ifdef __linux__
#include <linux/magic.h>
#include <sys/vfs.h>
#endif
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace nbd_serve {

void RunnableTasks::open() {
#ifdef __linux__
  if (fd_ >= 0) return;
  fd_ = ::open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  struct statfs status;
  if (fd_ < 0 || ::fstatfs(fd_, &status) != 0 || status.f_type != PROC_SUPER_MAGIC) close();
  processors_ = ::sysconf(_SC_NPROCESSORS_ONLN);
#endif
}

void RunnableTasks::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

bool RunnableTasks::exceed_processors() const {
  if (fd_ < 0 || processors_ <= 0) return false;
  // "0.39 1.19 1.57 3/78 23190": runnable 3, of 78.
  char text[64];
  const ssize_t length = ::pread(fd_, text, sizeof text - 1, 0);
  if (length <= 0) return false;
  text[length] = '\0';
  const char* begin = std::strchr(text, '/');
  if (begin == nullptr) return false;
  while (begin > text && begin[-1] != ' ') --begin;
  return std::atol(begin) > processors_;
}

}  // namespace nbd_serve
