// Exhaustive interleavings of the real native/write_windows.cc with a model of src/plugins/file/durability.ts,
// over a fake kernel, with an error at every call.
//
//   event loop   one actor: takes the next request of a connection, or delivers the next completion
//   pool         up to thread_count coroutines: advance, drain, fdatasync, pwrite, each stopping at every
//                step of a system call
//   device       one actor: ends the write-back of a page, well or badly
//
// The fake kernel has pages that are clean, dirty or under write-back, and one error mark for the one open
// file description (errseq_t in mm/filemap.c): a failed write-back sets it and leaves the page clean, that is
// lost; the first call that waits and looks (sync_file_range with WAIT, fdatasync) is told and clears it.
//
// Invariants, checked at every answer:
//   1  FLUSH or FUA succeeds only when everything acknowledged before it was received is on the disk.
//   2  A FLUSH or FUA received after a write-back failed never succeeds.
//   3  The exit code is 0 only when everything acknowledged is on the disk and nothing failed.
//   4  A drain that tells no error has all of its ranges on the disk, unless the error was told before or is
//      in the hands of an fdatasync.
//   5  Something can always go on until the program has ended (no deadlock).
//
// The search is a depth-first one by re-execution: a run follows a list of choices, then extends it; a state
// that was seen before ends the run. Usage: model [mutation]. Exit code 0: all programs hold; 1: a violation,
// with its trace; 2: usage; 3: the model itself is wrong.
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <ucontext.h>

#include <array>
#include <list>
#include <map>
#include <set>
#include <string>
#include <unordered_set>

#include "page_cache.h"
#include "write_windows.h"

#undef private

namespace model {
namespace {

using nbd_serve::WriteWindows;

constexpr int kPageCount = 3;
constexpr size_t kStackBytes = 64 * 1024;
constexpr uint64_t kStateCountMax = 4'000'000;

// Ways to break the rule. Each must be found, or the checker proves nothing.
enum class Mutation {
  none,
  // An error of a watched call is not remembered.
  no_latch,
  // FLUSH answers as soon as its fdatasync is back.
  no_wait_for_watched,
  // A FLUSH joins the fdatasync that is already running.
  join_running_flush,
  // The result of the write that fills a window is dropped (nbdkit before 2025-04).
  unwatched_advance,
  // The latch is forgotten once it was reported, as fdatasync itself forgets.
  report_once,
  // A change in the pool is not recorded.
  forgotten_change,
};

struct Program {
  const char* name;
  size_t window_count;
  uint64_t window_bytes_max;
  int error_budget;
  int thread_count;
  // Requests of each connection. W: write inline, P: write in the pool, U: write with FUA (page follows);
  // F: FLUSH, D: drain after a pause, C: the connection closes. When all are answered the server ends.
  std::vector<std::string> connections;
};

// ---- choices -------------------------------------------------------------------------------------------

std::vector<int> path;
std::vector<int> widths;
size_t position;
bool is_unwinding;
std::vector<std::string> trace;
bool is_tracing;
std::unordered_set<uint64_t> seen;

struct Unwind {};

void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
void say(const char* format, ...) {
  if (!is_tracing) return;
  char text[200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  trace.push_back(text);
}

// One of `width` ways to go on.
int choose(int width) {
  if (width == 1) return 0;
  if (position == path.size()) {
    path.push_back(0);
    widths.push_back(width);
  }
  if (widths[position] != width) bug("a run does not repeat");
  return path[position++];
}

// ---- coroutines ----------------------------------------------------------------------------------------

enum class Kind { advance, drain, fdatasync, pwrite };
const char* const kKindNames[] = {"advance", "drain", "fdatasync", "pwrite"};

struct Operation {
  Kind kind;
  int id;
  int connection;
  int page;
  int request;
  bool is_running = false;
  bool is_executed = false;
  bool is_delivered = false;
  std::function<bool()> ready;
  // Where it stands, for the state: a number for the step, and the range it works on.
  uint64_t step = 0;
  // Its local variables across a system call or wait: the window in hand, and what wait_for_taken compares.
  uint64_t ticket_in_hand = 0;
  uint64_t wait_began_at = 0;
  bool has_met_error = false;
  std::unique_ptr<WriteWindows::Call> call;
  int64_t result = 0;
  // Invariant 4: versions recorded when a drain was submitted.
  std::array<int, kPageCount> recorded{};
  ucontext_t context;
  char* stack = nullptr;
};

std::vector<std::unique_ptr<Operation>> operations;
std::vector<char*> free_stacks;
ucontext_t scheduler;
Operation* current;

// ---- the fake kernel -----------------------------------------------------------------------------------

enum class State : uint8_t { clean, dirty, write_back, write_back_and_dirty };

struct Page {
  int cached = 0;
  int submitted = 0;
  int disk = 0;
  State state = State::clean;
};

struct Kernel {
  Page pages[kPageCount];
  int mark = 0;
  int errors_left = 0;
  bool has_lost = false;
};
Kernel kernel;

bool is_under_write_back(int page) { return kernel.pages[page].state >= State::write_back; }

bool is_any_under_write_back(int begin, int end) {
  for (int page = begin; page < end; ++page) {
    if (is_under_write_back(page)) return true;
  }
  return false;
}

int consume_mark() {
  const int error = kernel.mark;
  kernel.mark = 0;
  if (error != 0 && current != nullptr) current->has_met_error = true;
  return error;
}

bool injects_error(const char* call) {
  if (kernel.errors_left == 0 || choose(2) == 0) return false;
  kernel.errors_left -= 1;
  if (current != nullptr) current->has_met_error = true;
  say("  %s fails by itself", call);
  return true;
}

void step(uint64_t number, int begin, int end) {
  current->step = number << 16 | static_cast<uint64_t>(begin) << 8 | static_cast<uint64_t>(end);
}

// Kernel's rule: a page that is under write-back is waited for before it is submitted again.
void submit(int begin, int end) {
  for (int index = begin; index < end; ++index) {
    Page& page = kernel.pages[index];
    if (page.state != State::dirty) continue;
    page.state = State::write_back;
    page.submitted = page.cached;
  }
}

void write_page(int page, int version) {
  kernel.pages[page].cached = version;
  kernel.pages[page].state =
      is_under_write_back(page) ? State::write_back_and_dirty : State::dirty;
}

// One write-back ends. A failed page counts as clean: nobody tries again (ext4, XFS).
void end_write_back(int index, bool succeeds) {
  Page& page = kernel.pages[index];
  if (succeeds) {
    page.disk = page.submitted;
  } else {
    kernel.mark = ENOSPC;
    kernel.has_lost = true;
    kernel.errors_left -= 1;
  }
  page.state = page.state == State::write_back_and_dirty ? State::dirty : State::clean;
  say("device: page %d version %d %s", index, page.submitted, succeeds ? "written" : "LOST");
}

// Data integrity write-back: waits for what is on its way, and takes along what was dirtied meanwhile.
int64_t write_and_wait(int begin, int end, uint64_t number) {
  step(number, begin, end);
  block_until([] { return true; });
  for (int page = begin; page < end; ++page) {
    if (kernel.pages[page].state != State::write_back_and_dirty) continue;
    step(number + 1 + 100 * static_cast<uint64_t>(page), begin, end);
    block_until([page] { return !is_under_write_back(page); });
  }
  submit(begin, end);
  step(number + 2, begin, end);
  block_until([begin, end] { return !is_any_under_write_back(begin, end); });
  // Between the end of the wait and the look at the mark somebody else may look.
  step(number + 3, begin, end);
  block_until([] { return true; });
  return -consume_mark();
}

int64_t fdatasync() {
  const int64_t result = write_and_wait(0, kPageCount, 10);
  // The journal or the device's own cache: the data is written, and the call fails all the same.
  return result == 0 && injects_error("fdatasync") ? -EIO : result;
}

// ---- the server ----------------------------------------------------------------------------------------

struct Request {
  char type;
  int connection = 0;
  int page = 0;
  int version = 0;
  bool is_acknowledged = false;
  // For FLUSH and FUA: what was acknowledged, and whether something was lost, when it was received.
  std::array<int, kPageCount> promised{};
  bool is_after_loss = false;
};

struct Flush {
  std::vector<int> waiters;
  bool is_synced = false;
  int64_t result = 0;
  std::set<int> waits_for;
};

constexpr int kShutdown = -1;

struct Server {
  std::vector<std::unique_ptr<Request>> requests;
  std::vector<size_t> next;
  std::vector<std::shared_ptr<WriteWindows>> windows;
  std::deque<int> queue;
  std::deque<int> completed;
  int running_count = 0;
  std::array<int, kPageCount> acknowledged{};
  std::array<int, kPageCount> recorded{};
  // Requests in the order in which their ranges were added: with it a sequence number says which ranges.
  std::vector<int> add_order;
  int version_next = 1;
  // durability.ts
  bool is_lost = false;
  bool is_reported = false;
  bool has_unflushed = false;
  std::set<int> watched;
  std::unique_ptr<Flush> running;
  bool has_following = false;
  std::vector<int> following;
  bool is_error_told = false;
  bool is_closing = false;
  bool is_ended = false;
};

Server server;
const Program* program;
Mutation mutation;
std::string violation;
uint64_t flush_ok_count;
uint64_t flush_failed_count;
uint64_t lost_run_count;

void violate(const std::string& text) {
  if (violation.empty()) violation = text;
  say("VIOLATION: %s", text.c_str());
}

int enqueue(Kind kind, int connection, int page, int request) {
  operations.push_back(std::make_unique<Operation>());
  Operation& operation = *operations.back();
  operation.kind = kind;
  operation.id = static_cast<int>(operations.size()) - 1;
  operation.connection = connection;
  operation.page = page;
  operation.request = request;
  if (kind == Kind::advance || kind == Kind::drain) {
    operation.call = std::make_unique<WriteWindows::Call>(server.windows[static_cast<size_t>(connection)]);
    operation.recorded = server.recorded;
  }
  server.queue.push_back(operation.id);
  return operation.id;
}

void latch() {
  if (mutation != Mutation::no_latch) server.is_lost = true;
  server.is_error_told = true;
  say("  latched");
}

void start_flush(std::vector<int> waiters) {
  server.running = std::make_unique<Flush>();
  server.running->waiters = std::move(waiters);
  server.has_unflushed = false;
  enqueue(Kind::fdatasync, -1, 0, -1);
}

void flush(int waiter) {
  if (server.has_following) {
    server.following.push_back(waiter);
  } else if (server.running == nullptr) {
    start_flush({waiter});
  } else if (mutation == Mutation::join_running_flush) {
    server.running->waiters.push_back(waiter);
  } else {
    server.has_following = true;
    server.following = {waiter};
  }
}

void acknowledge(Request& request) {
  request.is_acknowledged = true;
  server.acknowledged[static_cast<size_t>(request.page)] =
      std::max(server.acknowledged[static_cast<size_t>(request.page)], request.version);
}

bool is_on_disk(const std::array<int, kPageCount>& versions) {
  for (int page = 0; page < kPageCount; ++page) {
    if (kernel.pages[page].disk < versions[static_cast<size_t>(page)]) return false;
  }
  return true;
}

void end_server(bool is_flushed) {
  int result = is_flushed ? 0 : 1;
  if (injects_error("close")) {
    latch();
    result = 1;
  }
  // FilePlugin.close looks at the latch again.
  if (server.is_lost) result = 1;
  say("exit code %d", result);
  server.is_ended = true;
  if (result == 0 && !is_on_disk(server.acknowledged)) violate("exit code 0 with acknowledged data lost");
  if (result == 0 && kernel.has_lost) violate("exit code 0 after a loss");
}

void answer_flush(int waiter, bool succeeds) {
  if (waiter == kShutdown) return end_server(succeeds);
  Request& request = *server.requests[static_cast<size_t>(waiter)];
  request.is_acknowledged = true;
  (succeeds ? flush_ok_count : flush_failed_count) += 1;
  say("request %d (%c) is answered: %s", waiter, request.type, succeeds ? "success" : "error");
  if (!succeeds) return;
  if (request.type == 'U') acknowledge(request);
  if (!is_on_disk(request.promised)) violate("FLUSH succeeds, and what was acknowledged is not on the disk");
  if (request.is_after_loss) violate("FLUSH succeeds after a loss");
}

void check_running_flush() {
  if (server.running == nullptr || !server.running->is_synced || !server.running->waits_for.empty()) return;
  const std::unique_ptr<Flush> done = std::move(server.running);
  bool succeeds = !server.is_lost && done->result == 0;
  if (mutation == Mutation::report_once && !succeeds) {
    server.is_lost = false;
  }
  for (const int waiter : done->waiters) answer_flush(waiter, succeeds);
  if (server.has_following) {
    server.has_following = false;
    std::vector<int> waiters = std::move(server.following);
    server.following.clear();
    start_flush(std::move(waiters));
  }
}

void watch(int operation, bool is_watched) {
  if (is_watched) server.watched.insert(operation);
}

// A write is in the page cache: FileHandle.#wrote. True when its reply waits for an advance.
bool record(Request& request, int index, int connection) {
  server.recorded[static_cast<size_t>(request.page)] = request.version;
  server.add_order.push_back(index);
  if (!server.windows[static_cast<size_t>(connection)]->add(static_cast<uint64_t>(request.page), 1)) return false;
  watch(enqueue(Kind::advance, connection, request.page, index), mutation != Mutation::unwatched_advance);
  return true;
}

void written(int index) {
  Request& request = *server.requests[static_cast<size_t>(index)];
  if (request.type == 'U') {
    request.promised = server.acknowledged;
    request.promised[static_cast<size_t>(request.page)] = request.version;
    flush(index);
  } else {
    say("request %d (%c) is answered", index, request.type);
    acknowledge(request);
  }
}

void receive(int connection) {
  const std::string& text = program->connections[static_cast<size_t>(connection)];
  size_t& next = server.next[static_cast<size_t>(connection)];
  const int index = static_cast<int>(server.requests.size());
  server.requests.push_back(std::make_unique<Request>());
  Request& request = *server.requests.back();
  request.type = text[next++];
  request.connection = connection;
  request.promised = server.acknowledged;
  request.is_after_loss = kernel.has_lost;
  if (request.type == 'W' || request.type == 'P' || request.type == 'U') {
    request.page = text[next++] - '0';
    request.version = server.version_next++;
  }
  say("request %d: connection %d %c %d (version %d)", index, connection, request.type, request.page,
      request.version);
  switch (request.type) {
    case 'W':
      server.has_unflushed = true;
      write_page(request.page, request.version);
      if (!record(request, index, connection)) written(index);
      break;
    case 'P':
    case 'U':
      enqueue(Kind::pwrite, connection, request.page, index);
      break;
    case 'F':
      flush(index);
      break;
    case 'D':
    case 'C':
      if (server.windows[static_cast<size_t>(connection)]->pending_bytes() > 0) {
        watch(enqueue(Kind::drain, connection, 0, index), true);
      } else {
        request.is_acknowledged = true;
      }
      break;
    default:
      bug("unknown request");
  }
}

void deliver() {
  const int id = server.completed.front();
  server.completed.pop_front();
  Operation& operation = *operations[static_cast<size_t>(id)];
  operation.is_delivered = true;
  if (operation.call != nullptr) {
    operation.call->forget();
    operation.result = -operation.call->failure().error;
  }
  say("event loop: %s %d is back with %d", kKindNames[static_cast<int>(operation.kind)], id,
      static_cast<int>(operation.result));
  switch (operation.kind) {
    case Kind::pwrite: {
      Request& request = *server.requests[static_cast<size_t>(operation.request)];
      if (mutation != Mutation::forgotten_change) server.has_unflushed = true;
      if (!record(request, operation.request, operation.connection)) written(operation.request);
      break;
    }
    case Kind::fdatasync:
      if (operation.result < 0) latch();
      server.running->is_synced = true;
      server.running->result = operation.result;
      if (mutation != Mutation::no_wait_for_watched) server.running->waits_for = server.watched;
      check_running_flush();
      break;
    case Kind::advance:
    case Kind::drain: {
      const bool is_watched = server.watched.erase(id) > 0;
      if (operation.result < 0 && is_watched) latch();
      if (operation.kind == Kind::drain && operation.result == 0 && !server.is_error_told &&
          server.running == nullptr) {
        for (size_t page = 0; page < kPageCount; ++page) {
          // Only what this connection's windows have recorded: with one connection that is everything.
          if (program->connections.size() == 1 && kernel.pages[page].disk < operation.recorded[page] &&
              kernel.pages[page].state == State::clean) {
            violate("a drain tells no error, and a page of its is lost");
          }
        }
      }
      if (operation.kind == Kind::advance) {
        written(operation.request);
      } else {
        server.requests[static_cast<size_t>(operation.request)]->is_acknowledged = true;
      }
      if (server.running != nullptr) server.running->waits_for.erase(id);
      check_running_flush();
      break;
    }
  }
}

// Connection.closed waits for everything in flight; then FilePlugin.close runs.
bool can_shut_down() {
  if (server.is_closing || server.running != nullptr || !server.queue.empty() || !server.completed.empty() ||
      server.running_count > 0) {
    return false;
  }
  for (size_t connection = 0; connection < server.next.size(); ++connection) {
    if (server.next[connection] < program->connections[connection].size()) return false;
  }
  return true;
}

void shut_down() {
  server.is_closing = true;
  say("shutdown");
  if (server.has_unflushed) {
    flush(kShutdown);
  } else {
    end_server(!server.is_lost);
  }
}

// ---- the pool ------------------------------------------------------------------------------------------

void execute(Operation& operation) {
  switch (operation.kind) {
    case Kind::advance:
      operation.call->advance();
      break;
    case Kind::drain:
      operation.call->drain();
      break;
    case Kind::fdatasync:
      operation.result = fdatasync();
      break;
    case Kind::pwrite:
      step(1, operation.page, operation.page);
      block_until([] { return true; });
      write_page(operation.page, server.requests[static_cast<size_t>(operation.request)]->version);
      break;
  }
}

void coroutine_main() {
  try {
    execute(*current);
    current->is_executed = true;
  } catch (const Unwind&) {
  }
  current->is_running = false;
  setcontext(&scheduler);
}

void resume(Operation& operation) {
  current = &operation;
  if (!operation.is_running) {
    operation.is_running = true;
    if (free_stacks.empty()) free_stacks.push_back(static_cast<char*>(std::malloc(kStackBytes)));
    operation.stack = free_stacks.back();
    free_stacks.pop_back();
    getcontext(&operation.context);
    operation.context.uc_stack.ss_sp = operation.stack;
    operation.context.uc_stack.ss_size = kStackBytes;
    operation.context.uc_link = nullptr;
    makecontext(&operation.context, coroutine_main, 0);
  }
  swapcontext(&scheduler, &operation.context);
  if (!operation.is_running) {
    free_stacks.push_back(operation.stack);
    operation.stack = nullptr;
  }
  current = nullptr;
}

// ---- the state -----------------------------------------------------------------------------------------

class Hash {
 public:
  void add(uint64_t value) {
    state_ = (state_ ^ value) * 0x9e3779b97f4a7c15u;
    state_ ^= state_ >> 29;
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0x243f6a8885a308d3u;
};

void add_window(Hash* hash, const nbd_serve::Window& window) {
  hash->add(window.sequence);
  for (const nbd_serve::Range& range : window.ranges()) hash->add(range.begin << 8 | range.end);
  hash->add(~0u);
}

uint64_t state_hash() {
  Hash hash;
  for (const Page& page : kernel.pages) {
    hash.add(static_cast<uint64_t>(page.cached) << 24 | static_cast<uint64_t>(page.submitted) << 16 |
             static_cast<uint64_t>(page.disk) << 8 | static_cast<uint64_t>(page.state));
  }
  hash.add(static_cast<uint64_t>(kernel.mark) << 16 | static_cast<uint64_t>(kernel.errors_left) << 8 |
           static_cast<uint64_t>(kernel.has_lost));
  for (const std::shared_ptr<WriteWindows>& windows : server.windows) {
    add_window(&hash, windows->filling_);
    for (const nbd_serve::Window& window : windows->sealed_) add_window(&hash, window);
    hash.add(1);
    for (const nbd_serve::Window& window : windows->in_flight_) add_window(&hash, window);
    hash.add(2);
    for (const WriteWindows::Taken& taken : windows->taken_) hash.add(taken.sequence << 32 | taken.ticket);
    hash.add(windows->ticket_next_ << 32 | windows->sequence_next_);
    hash.add(windows->pending_bytes_);
    for (const WriteWindows::Call* call : windows->calls_) {
      for (const std::unique_ptr<Operation>& operation : operations) {
        if (operation->call.get() == call) hash.add(static_cast<uint64_t>(operation->id));
      }
    }
  }
  for (const std::unique_ptr<Operation>& operation : operations) {
    hash.add(static_cast<uint64_t>(operation->kind) << 8 | static_cast<uint64_t>(operation->request + 1) << 16 |
             static_cast<uint64_t>(operation->is_running) << 4 | static_cast<uint64_t>(operation->is_executed) << 5 |
             static_cast<uint64_t>(operation->is_delivered) << 6 |
             static_cast<uint64_t>(operation->has_met_error) << 7);
    if (operation->is_running) {
      hash.add(operation->step);
      hash.add(operation->ticket_in_hand << 32 | operation->wait_began_at);
      hash.add(operation->ready != nullptr && operation->ready() ? 1 : 0);
    }
    if (operation->call != nullptr && !operation->is_delivered) {
      hash.add(static_cast<uint64_t>(operation->call->failure_.error) << 32 | operation->call->sequence_end_);
      for (const int version : operation->recorded) hash.add(static_cast<uint64_t>(version));
    } else {
      hash.add(static_cast<uint64_t>(operation->result));
    }
  }
  for (const int id : server.queue) hash.add(static_cast<uint64_t>(id));
  hash.add(3);
  for (const int id : server.completed) hash.add(static_cast<uint64_t>(id));
  hash.add(4);
  for (const size_t next : server.next) hash.add(next);
  for (const std::unique_ptr<Request>& request : server.requests) {
    hash.add(static_cast<uint64_t>(request->type) << 32 | static_cast<uint64_t>(request->connection) << 40 | static_cast<uint64_t>(request->page) << 16 |
             static_cast<uint64_t>(request->version) << 8 | static_cast<uint64_t>(request->is_acknowledged) << 1 |
             static_cast<uint64_t>(request->is_after_loss));
    for (const int version : request->promised) hash.add(static_cast<uint64_t>(version));
  }
  for (const int version : server.acknowledged) hash.add(static_cast<uint64_t>(version));
  for (const int version : server.recorded) hash.add(static_cast<uint64_t>(version));
  hash.add(static_cast<uint64_t>(server.is_lost) | static_cast<uint64_t>(server.has_unflushed) << 1 |
           static_cast<uint64_t>(server.is_error_told) << 2 | static_cast<uint64_t>(server.is_closing) << 3 |
           static_cast<uint64_t>(server.is_ended) << 4 | static_cast<uint64_t>(server.has_following) << 5);
  for (const int id : server.watched) hash.add(static_cast<uint64_t>(id));
  hash.add(5);
  if (server.running != nullptr) {
    hash.add(server.running->is_synced ? 6 : 7);
    hash.add(static_cast<uint64_t>(server.running->result));
    for (const int waiter : server.running->waiters) hash.add(static_cast<uint64_t>(waiter + 1));
    hash.add(8);
    for (const int id : server.running->waits_for) hash.add(static_cast<uint64_t>(id));
  }
  hash.add(9);
  for (const int index : server.add_order) hash.add(static_cast<uint64_t>(index));
  hash.add(10);
  for (const int waiter : server.following) hash.add(static_cast<uint64_t>(waiter + 1));
  return hash.value();
}

// ---- one run -------------------------------------------------------------------------------------------

struct Action {
  enum { receive, deliver, shut_down, run, written_back, lost } type;
  int which;
};

std::vector<Action> enabled_actions() {
  std::vector<Action> actions;
  for (size_t index = 0; index < operations.size(); ++index) {
    const Operation& operation = *operations[index];
    if (operation.is_running && operation.ready()) actions.push_back({Action::run, static_cast<int>(index)});
  }
  if (!server.queue.empty() && server.running_count < program->thread_count) {
    actions.push_back({Action::run, server.queue.front()});
  }
  if (!server.completed.empty()) actions.push_back({Action::deliver, 0});
  for (size_t connection = 0; connection < server.next.size(); ++connection) {
    if (server.next[connection] < program->connections[connection].size()) {
      actions.push_back({Action::receive, static_cast<int>(connection)});
    }
  }
  if (can_shut_down()) actions.push_back({Action::shut_down, 0});
  for (int page = 0; page < kPageCount; ++page) {
    if (!is_under_write_back(page)) continue;
    actions.push_back({Action::written_back, page});
    if (kernel.errors_left > 0) actions.push_back({Action::lost, page});
  }
  return actions;
}

void take(const Action& action) {
  switch (action.type) {
    case Action::receive:
      return receive(action.which);
    case Action::deliver:
      return deliver();
    case Action::shut_down:
      return shut_down();
    case Action::written_back:
      return end_write_back(action.which, true);
    case Action::lost:
      return end_write_back(action.which, false);
    case Action::run: {
      Operation& operation = *operations[static_cast<size_t>(action.which)];
      if (!operation.is_running) {
        server.queue.pop_front();
        server.running_count += 1;
      }
      say("pool: %s %d goes on from step %llx", kKindNames[static_cast<int>(operation.kind)], operation.id,
          static_cast<unsigned long long>(operation.step));
      resume(operation);
      if (operation.is_executed) {
        server.running_count -= 1;
        server.completed.push_back(operation.id);
      }
      return;
    }
  }
}

void unwind() {
  is_unwinding = true;
  for (const std::unique_ptr<Operation>& operation : operations) {
    if (operation->is_running) resume(*operation);
  }
  is_unwinding = false;
  operations.clear();
}

void run() {
  position = 0;
  trace.clear();
  kernel = Kernel();
  kernel.errors_left = program->error_budget;
  server = Server();
  server.next.assign(program->connections.size(), 0);
  for (size_t index = 0; index < program->connections.size(); ++index) {
    // Pages of one byte.
    server.windows.push_back(
        std::make_shared<WriteWindows>(0, program->window_count, program->window_bytes_max, 1));
  }
  while (!server.is_ended && violation.empty()) {
    // Only where this run leaves the path of the one before.
    if (position == path.size() && !is_tracing && !seen.insert(state_hash()).second) break;
    const std::vector<Action> actions = enabled_actions();
    if (actions.empty()) {
      violate("deadlock");
      break;
    }
    take(actions[static_cast<size_t>(choose(static_cast<int>(actions.size())))]);
  }
  if (server.is_ended && kernel.has_lost) lost_run_count += 1;
  unwind();
}

// The next list of choices; false when there is none.
bool advance_path() {
  while (!path.empty()) {
    if (path.back() + 1 < widths.back()) {
      path.back() += 1;
      return true;
    }
    path.pop_back();
    widths.pop_back();
  }
  return false;
}

bool check(const Program& checked) {
  program = &checked;
  seen.clear();
  path.clear();
  widths.clear();
  flush_ok_count = flush_failed_count = lost_run_count = 0;
  uint64_t run_count = 0;
  do {
    run();
    run_count += 1;
    if (!violation.empty()) {
      std::printf("VIOLATION in \"%s\": %s\n", checked.name, violation.c_str());
      violation.clear();
      is_tracing = true;
      run();
      for (const std::string& line : trace) std::printf("  %s\n", line.c_str());
      return false;
    }
    if (seen.size() > kStateCountMax) bug("too many states: make the program smaller");
  } while (advance_path());
  std::printf("holds: \"%s\", %zu states, %llu runs, %llu flushes succeed, %llu fail, %llu ends with a loss\n",
              checked.name, seen.size(), static_cast<unsigned long long>(run_count),
              static_cast<unsigned long long>(flush_ok_count),
              static_cast<unsigned long long>(flush_failed_count),
              static_cast<unsigned long long>(lost_run_count));
  return true;
}

const std::vector<Program>& programs() {
  static const std::vector<Program> list = {
      {"a write, a flush and a second one", 0, 1, 2, 3, {"W0FF"}},
      {"two windows, one stays in flight", 1, 1, 1, 3, {"W0W1F"}},
      {"a window is drained while it is flushed", 1, 2, 2, 3, {"W0DF"}},
      {"a page is written again on its way", 0, 1, 1, 3, {"W0W0F"}},
      {"a window of two ranges", 1, 2, 1, 3, {"W0W2D", "F"}},
      {"a drain behind two advances", 0, 1, 1, 3, {"W0W1D"}},
      {"a drain between two advances", 0, 1, 1, 2, {"W0DW1W2"}},
      {"one connection writes, the other one flushes", 0, 1, 1, 3, {"W0W1", "F"}},
      {"two writers, each with its windows", 0, 1, 1, 3, {"W0F", "W1F"}},
      {"a write in the pool, and one with FUA", 0, 1, 1, 3, {"P0", "U1"}},
      {"FUA and FLUSH share an fdatasync", 4, 4, 2, 3, {"U0F", "P1F"}},
      {"a connection closes while another one flushes", 2, 4, 1, 3, {"W0P1C", "F"}},
      {"a flush, a change in the pool, the end", 2, 4, 1, 3, {"W1FP0"}},
  };
  return list;
}

}  // namespace

void block_until(const std::function<bool()>& ready) {
  Operation* self = current;
  self->ready = ready;
  swapcontext(&self->context, &scheduler);
  if (is_unwinding) throw Unwind();
}

void enter_wait() {
  const WriteWindows& windows = *server.windows[static_cast<size_t>(current->connection)];
  step(40, 0, 0);
  current->wait_began_at =
      windows.ticket_next_ << 1 | (windows.is_taken_before(current->call->sequence_end_) ? 1 : 0);
}

// The window that the running coroutine works on: the latest one taken, unless it still has one in hand.
void note_window_in_hand() {
  const WriteWindows& windows = *server.windows[static_cast<size_t>(current->connection)];
  const bool has_one = std::any_of(
      windows.taken_.begin(), windows.taken_.end(),
      [](const WriteWindows::Taken& taken) { return taken.ticket == current->ticket_in_hand; });
  if (!has_one) current->ticket_in_hand = windows.taken_.back().ticket;
}

}  // namespace model

// What native/write_windows.cc calls.
namespace nbd_serve::page_cache {

using namespace model;

int64_t sync_range(int, int64_t offset, int64_t length, int flags) {
  const int begin = static_cast<int>(offset);
  const int end = static_cast<int>(offset + length);
  constexpr int kWait = 1;
  note_window_in_hand();
  if ((flags & kWait) == 0) {
    step(20, begin, end);
    block_until([] { return true; });
    if (injects_error("sync_file_range")) return -EIO;
    submit(begin, end);
    return 0;
  }
  // WAIT_BEFORE: its error ends the call before anything is written (ksys_sync_file_range).
  step(30, begin, end);
  block_until([begin, end] { return !is_any_under_write_back(begin, end); });
  if (const int error = consume_mark(); error != 0) return -error;
  return write_and_wait(begin, end, 31);
}

// Drops clean pages; what is lost is then read as the disk has it. Nothing waits and no mark is looked at.
int64_t fadvise(int, int64_t, int64_t, int) { return 0; }
int64_t page_size() { return 1; }

}  // namespace nbd_serve::page_cache

int main(int argument_count, char** arguments) {
  using model::Mutation;
  const std::map<std::string, Mutation> mutations = {
      {"none", Mutation::none},
      {"no-latch", Mutation::no_latch},
      {"no-wait-for-watched", Mutation::no_wait_for_watched},
      {"join-running-flush", Mutation::join_running_flush},
      {"unwatched-advance", Mutation::unwatched_advance},
      {"report-once", Mutation::report_once},
      {"forgotten-change", Mutation::forgotten_change},
  };
  const auto found = mutations.find(argument_count == 2 ? arguments[1] : "none");
  if (argument_count > 2 || found == mutations.end()) {
    std::fprintf(stderr, "usage: model [mutation]\n");
    return 2;
  }
  model::mutation = found->second;
  for (const model::Program& program : model::programs()) {
    if (!model::check(program)) return 1;
  }
  return 0;
}
