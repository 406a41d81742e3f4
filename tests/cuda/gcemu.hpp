// gcemu.hpp: runs generated CUDA C++ on the host processor, and is strict where a GPU is not.
//
// Blocks run one after another, forwards or backwards; the threads of a block are fibers of one OS thread, which switch
// only at barriers and warp operations. All memory that kernels see goes through checked accessors, so that these are
// errors, each named with kernel, block, thread and buffer:
//   - an element out of the bounds of its own buffer (not merely of the allocation), in global, shared or local memory;
//   - a read of what nobody has written;
//   - a race: two threads touch one element, one of them writes, and no barrier orders them. Blocks are never ordered;
//     atomic additions don't race with each other;
//   - a barrier or warp operation that not all threads reach; different warp operations that meet.
// It can't see: races that need another interleaving of data-dependent control flow, the limits of registers and of
// shared memory (the real compiler's to say), or the rounding of the GPU's mathematical library.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>
#include <sys/mman.h>
#if defined(__x86_64__) && !defined(GCEMU_PORTABLE)
#define GCEMU_SWITCH 1  // fibers by a dozen instructions; elsewhere by ucontext, whose switch is a system call
#else
#include <ucontext.h>
#endif
#define GC_EMULATOR 1

namespace gcemu {

struct Dim { unsigned x = 1, y = 1, z = 1; };
struct Error : std::exception {};

// One element's history within the running launch. A thread's moment is its block, its number in it, and how many
// block and warp barriers it has passed.
struct Moment { int block = -1, thread = 0; uint32_t block_epoch = 0, warp_epoch = 0; bool atomic = false; };
struct History { Moment write, read, other_read; };

// A buffer as the host hands it over: its memory, and one byte for each of its bytes that says whether it was written.
struct Argument { unsigned char* data; unsigned char* written; int64_t nbytes; const char* name; };
struct Config { int32_t grid, block, backwards; };

enum State : uint8_t { FRESH, WAITING, DONE };
constexpr int MAX_THREADS = 1024, SLOT = 8, STACK = 256 * 1024;

struct Fiber {
#if GCEMU_SWITCH
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  void* stack = nullptr;
};

struct Warp {
  int size = 0, arrived = 0, done = 0;
  uint32_t epoch = 0;       // warp operations passed
  uint32_t barriers = 0;    // of which __syncwarp: these order memory
  int operation = 0;
  unsigned char slots[2][32][SLOT];
};

struct Machine {
  const char* kernel = "";
  int threads = 0, arrived = 0, done = 0, current = 0, block = 0, backwards = 0;
  uint32_t epoch = 0;
  uint64_t serial = 0;      // of blocks, over all launches: what shared memory belongs to
  State state[MAX_THREADS];
  const uint32_t* waits_for[MAX_THREADS];
  uint32_t waits_value[MAX_THREADS];
  int fiber_of[MAX_THREADS];
  Warp warps[MAX_THREADS / 32];
  std::vector<Fiber> fibers;
  std::vector<int> idle;
  int running = -1;
  Fiber host;
  void (*body)(Argument*) = nullptr;
  Argument* arguments = nullptr;
  bool failed = false;
  std::string message;
  std::unordered_map<const void*, std::vector<History>> histories;  // of global memory, for one launch
};
static Machine M;
static Dim thread_index, block_index, block_dim, grid_dim;

[[noreturn]] inline void fail(const std::string& what) {
  if (!M.failed)
    M.message = std::string(M.kernel) + ": " + what + " (block " + std::to_string(M.block) + ", thread " +
                std::to_string(M.current) + ")";
  M.failed = true;
  throw Error();
}

// ---------------------------------------------------------------- fibers
static void fiber_main();
#if GCEMU_SWITCH
extern "C" void gcemu_switch(void** save, void* load);
asm(R"(
.text
.hidden gcemu_switch
.globl gcemu_switch
.type gcemu_switch,@function
gcemu_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
.size gcemu_switch,.-gcemu_switch
)");
inline void prepare(Fiber& f) {
  void** top = (void**)((char*)f.stack + STACK - 64);
  *--top = nullptr;
  *--top = (void*)&fiber_main;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  f.stack_pointer = top;
}
inline void switch_to(Fiber& from, Fiber& to) { gcemu_switch(&from.stack_pointer, to.stack_pointer); }
#else
inline void prepare(Fiber& f) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
}
inline void switch_to(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#endif

inline int take_fiber() {
  if (!M.idle.empty()) {
    int f = M.idle.back();
    M.idle.pop_back();
    return f;
  }
  Fiber fiber;
  fiber.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fiber.stack == MAP_FAILED) { perror("gcemu: no memory for a fiber"); abort(); }
  mprotect(fiber.stack, 4096, PROT_NONE);
  M.fibers.push_back(fiber);
  return (int)M.fibers.size() - 1;
}
inline void drop_fibers() {  // after an error their stacks hold half-run threads
  for (Fiber& f : M.fibers) munmap(f.stack, STACK);
  M.fibers.clear();
  M.idle.clear();
}
inline void become(int thread) {
  M.current = thread;
  thread_index.x = (unsigned)thread;
}
inline bool ready(int t) { return M.state[t] == FRESH || (M.state[t] == WAITING && *M.waits_for[t] != M.waits_value[t]); }
inline int next_ready() {  // round-robin, in the direction of the launch
  for (int i = 1, t = M.current; i <= M.threads; i++) {
    t = M.backwards ? (t + M.threads - 1) % M.threads : (t + 1) % M.threads;
    if (ready(t)) return t;
  }
  return -1;
}
[[noreturn]] inline void deadlock() {
  int at_barrier = M.arrived, done = M.done;
  fail("divergent barrier: of " + std::to_string(M.threads) + " threads " + std::to_string(at_barrier) +
       " wait at __syncthreads, " + std::to_string(M.threads - at_barrier - done) + " at a warp operation, and " +
       std::to_string(done) + " have exited");
}
inline void run_thread(int t) {  // leaves the running fiber for thread t
  int from = M.running, to;
  become(t);
  if (M.state[t] == FRESH) {
    to = take_fiber();
    prepare(M.fibers[to]);
    M.fiber_of[t] = to;
  } else {
    to = M.fiber_of[t];
  }
  M.running = to;
  // the vector of fibers may have grown: take the address only now
  switch_to(from < 0 ? M.host : M.fibers[from], M.fibers[to]);
}
inline void wait_for(const uint32_t* counter) {
  int me = M.current;
  uint32_t value = *counter;
  M.state[me] = WAITING;
  M.waits_for[me] = counter;
  M.waits_value[me] = value;
  int next = next_ready();
  if (next < 0) deadlock();
  run_thread(next);
  if (M.failed) throw Error();
}
[[noreturn]] inline void leave() {  // back to the host for good
  int from = M.running;
  M.running = -1;
  switch_to(M.fibers[from], M.host);
  abort();
}
static void fiber_main() {
  for (;;) {  // a fiber runs fresh threads in a row while they don't wait
    bool sound = true;  // leaving from inside of a handler would never end it
    try {
      M.body(M.arguments);
      Warp& w = M.warps[M.current / 32];
      M.state[M.current] = DONE;
      M.done++;
      w.done++;
      if (w.arrived) fail("divergent warp: this lane exited while its warp waits for it");
      if (M.arrived) fail("divergent barrier: this thread exited while others wait at __syncthreads");
    } catch (const Error&) {
      sound = false;
    }
    if (!sound) leave();
    if (M.done == M.threads) {
      M.idle.push_back(M.running);
      leave();
    }
    int next = next_ready();
    if (next < 0) {
      try { deadlock(); } catch (const Error&) {}
      leave();
    }
    if (M.state[next] == FRESH) {
      M.fiber_of[next] = M.running;
      become(next);
      continue;
    }
    int from = M.running;
    M.idle.push_back(from);
    become(next);
    M.running = M.fiber_of[next];
    switch_to(M.fibers[from], M.fibers[M.running]);
    // never resumed: an idle fiber is prepared anew when it is taken
    abort();
  }
}

// ---------------------------------------------------------------- checked memory
inline Moment now(bool atomic) {
  return {M.block, M.current, M.epoch, M.warps[M.current / 32].barriers, atomic};
}
inline bool ordered(const Moment& before, const Moment& me) {
  if (before.block < 0) return true;
  if (before.block != me.block) return false;
  if (before.thread == me.thread || before.block_epoch != me.block_epoch) return true;
  return before.thread / 32 == me.thread / 32 && before.warp_epoch != me.warp_epoch;
}
[[noreturn]] inline void race(const Moment& before, const char* how, const char* name, int64_t at) {
  fail(std::string("race on ") + name + "[" + std::to_string(at) + "]: " + how + " unordered with thread " +
       std::to_string(before.thread) + " of block " + std::to_string(before.block));
}
inline void note_read(History& h, const char* name, int64_t at) {
  Moment me = now(false);
  if (!ordered(h.write, me)) race(h.write, "read", name, at);
  if (h.read.block == me.block && h.read.thread == me.thread) { h.read = me; return; }
  h.other_read = h.read;
  h.read = me;
}
inline void note_write(History& h, bool atomic, const char* name, int64_t at) {
  Moment me = now(atomic);
  if (!(atomic && h.write.atomic) && !ordered(h.write, me)) race(h.write, "written", name, at);
  if (!ordered(h.read, me)) race(h.read, "written", name, at);
  if (!ordered(h.other_read, me)) race(h.other_read, "written", name, at);
  h.write = me;
}
inline void in_bounds(int64_t at, int64_t size, const char* name) {
  if (at < 0 || at >= size)
    fail(std::string("out of bounds: ") + name + "[" + std::to_string(at) + "], which has " + std::to_string(size) +
         " elements");
}
[[noreturn]] inline void unwritten(const char* name, int64_t at) {
  fail(std::string(name) + "[" + std::to_string(at) + "] is read, but nobody has written it");
}

template <class Memory> struct Reference {  // what `buffer[i]` is: read by conversion, written by assignment
  using T = typename Memory::Element;
  const Memory& memory;
  int64_t at;
  operator T() const { return memory.read(at); }
  T operator=(T value) const { memory.write(at, value, false); return value; }
  T operator=(const Reference& other) const { return *this = (T)other; }
  Reference operator&() const { return *this; }
  void add(T value) const { memory.write(at, (T)(memory.peek(at) + value), true); }
};

template <class T> struct Global {
  using Element = T;
  T* data;
  unsigned char* flags;
  int64_t size;
  const char* name;
  std::vector<History>* history;
  explicit Global(const Argument& a)
      : data((T*)a.data), flags(a.written), size(a.nbytes / (int64_t)sizeof(T)), name(a.name) {
    history = &M.histories[a.data];
    if ((int64_t)history->size() < size) history->resize(size);
  }
  bool known(int64_t at) const {
    for (size_t i = 0; i < sizeof(T); i++) if (!flags[at * sizeof(T) + i]) return false;
    return true;
  }
  T read(int64_t at) const {
    in_bounds(at, size, name);
    if (!known(at)) unwritten(name, at);
    note_read((*history)[at], name, at);
    return data[at];
  }
  T peek(int64_t at) const {
    in_bounds(at, size, name);
    if (!known(at)) unwritten(name, at);
    return data[at];
  }
  void write(int64_t at, T value, bool atomic) const {
    in_bounds(at, size, name);
    note_write((*history)[at], atomic, name, at);
    data[at] = value;
    memset(flags + at * sizeof(T), 1, sizeof(T));
  }
  Reference<Global> operator[](int64_t at) const { return {*this, at}; }
};
template <class T> struct Constant : Global<T> {  // what a kernel may only read
  using Global<T>::Global;
  T operator[](int64_t at) const { return this->read(at); }
};

template <class T, int N> struct Shared {  // forgotten at the start of each block
  using Element = T;
  const char* name;
  mutable T data[N];
  mutable bool known[N];
  mutable History history[N];
  mutable uint64_t owner = ~0ull;
  explicit Shared(const char* name) : name(name) {}
  void claim(int64_t at) const {
    in_bounds(at, N, name);
    if (owner == M.serial) return;
    owner = M.serial;
    for (int i = 0; i < N; i++) { known[i] = false; history[i] = History(); }
  }
  T peek(int64_t at) const {
    claim(at);
    if (!known[at]) unwritten(name, at);
    return data[at];
  }
  T read(int64_t at) const {
    T value = peek(at);
    note_read(history[at], name, at);
    return value;
  }
  void write(int64_t at, T value, bool atomic) const {
    claim(at);
    note_write(history[at], atomic, name, at);
    data[at] = value;
    known[at] = true;
  }
  Reference<Shared> operator[](int64_t at) const { return {*this, at}; }
};

template <class T, int N> struct Local {
  using Element = T;
  const char* name;
  mutable T data[N];
  mutable bool known[N] = {};
  explicit Local(const char* name) : name(name) {}
  T read(int64_t at) const {
    in_bounds(at, N, name);
    if (!known[at]) unwritten(name, at);
    return data[at];
  }
  T peek(int64_t at) const { return read(at); }
  void write(int64_t at, T value, bool) const {
    in_bounds(at, N, name);
    data[at] = value;
    known[at] = true;
  }
  Reference<Local> operator[](int64_t at) const { return {*this, at}; }
};

// ---------------------------------------------------------------- barriers and warp operations
inline void block_barrier() {
  if (M.done) fail("divergent barrier: __syncthreads after some threads have exited");
  if (++M.arrived == M.threads) {
    M.arrived = 0;
    M.epoch++;
    return;
  }
  wait_for(&M.epoch);
}
// Every lane brings `bytes` of value; returns the slots of all. operation: 0 is __syncwarp, which alone orders memory.
inline unsigned char (*warp_meet(int operation, const void* value, int bytes))[SLOT] {
  Warp& w = M.warps[M.current / 32];
  if (w.done) fail("divergent warp: a lane has exited before a warp operation");
  if (w.arrived && w.operation != operation) fail("divergent warp: lanes meet in different warp operations");
  w.operation = operation;
  unsigned char(*slots)[SLOT] = w.slots[w.epoch & 1];
  if (bytes) memcpy(slots[M.current % 32], value, bytes);
  if (++w.arrived == w.size) {
    w.arrived = 0;
    w.epoch++;
    if (operation == 0) w.barriers++;
  } else {
    wait_for(&w.epoch);
  }
  return slots;
}
template <class T> inline T exchange(unsigned mask, T value, int source, int operation) {
  static_assert(sizeof(T) <= SLOT, "too wide a value for a shuffle");
  if (mask != 0xffffffffu) fail("a shuffle of part of a warp");
  Warp& w = M.warps[M.current / 32];
  if (source >= w.size) fail("a shuffle reads a lane that doesn't exist");
  T result;
  memcpy(&result, warp_meet(operation, &value, sizeof(T))[source], sizeof(T));
  return result;
}

// ---------------------------------------------------------------- launches
inline int launch(const char* kernel, const Config* config, void (*body)(Argument*), Argument* arguments, char* error) {
  M.kernel = kernel;
  M.failed = false;
  M.message.clear();
  M.body = body;
  M.arguments = arguments;
  M.threads = config->block;
  M.backwards = config->backwards;
  M.histories.clear();
  M.block = M.current = 0;
  if (config->grid < 1 || config->block < 1 || config->block > MAX_THREADS) {
    snprintf(error, 512, "%s: invalid geometry: %d blocks of %d threads", kernel, config->grid, config->block);
    return 1;
  }
  grid_dim.x = (unsigned)config->grid;
  block_dim.x = (unsigned)config->block;
  for (int i = 0; i < config->grid && !M.failed; i++) {
    M.block = config->backwards ? config->grid - 1 - i : i;
    block_index.x = (unsigned)M.block;
    M.serial++;
    M.done = M.arrived = 0;
    M.epoch = 0;
    memset(M.state, FRESH, M.threads);
    for (int w = 0; w * 32 < M.threads; w++) {
      M.warps[w].size = M.threads - w * 32 < 32 ? M.threads - w * 32 : 32;
      M.warps[w].arrived = M.warps[w].done = 0;
      M.warps[w].epoch = M.warps[w].barriers = 0;
    }
    M.running = -1;
    run_thread(config->backwards ? M.threads - 1 : 0);
  }
  if (!M.failed) return 0;
  drop_fibers();
  snprintf(error, 512, "%s", M.message.c_str());
  return 1;
}

template <class F> struct Call;
template <class... A> struct Call<void (*)(A...)> {
  template <void (*kernel)(A...), size_t... I> static void with(Argument* a, std::index_sequence<I...>) {
    kernel(A(a[I])...);
  }
  template <void (*kernel)(A...)> static void run(Argument* a) { with<kernel>(a, std::index_sequence_for<A...>{}); }
  static constexpr int count = sizeof...(A);
};
}  // namespace gcemu

#define GC_EXPORT(name)                                                                                              \
  extern "C" int gcemu_run_##name(const gcemu::Config* config, gcemu::Argument* arguments, int count, char* error) { \
    using Kernel = gcemu::Call<decltype(&name)>;                                                                     \
    if (count != Kernel::count) {                                                                                    \
      snprintf(error, 512, #name ": takes %d arguments, given %d", Kernel::count, count);                            \
      return 1;                                                                                                      \
    }                                                                                                                \
    return gcemu::launch(#name, config, &Kernel::run<&name>, arguments, error);                                      \
  }

// ---------------------------------------------------------------- the names that generated text uses
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define threadIdx (::gcemu::thread_index)
#define blockIdx (::gcemu::block_index)
#define GC_READ(T) const gcemu::Constant<T>
#define GC_WRITE(T) const gcemu::Global<T>
#define GC_ALIASED(T) const gcemu::Global<T>
#define GC_SHARED(T, name, size) static const gcemu::Shared<T, size> name(#name)
#define GC_LOCAL(T, name, size) const gcemu::Local<T, size> name(#name)
#define GC_INFINITY (__builtin_inf())
#define GC_NAN (__builtin_nan(""))
inline void __syncthreads() { gcemu::block_barrier(); }
inline void __syncwarp() { gcemu::warp_meet(0, nullptr, 0); }
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return gcemu::exchange(mask, value, (gcemu::M.current % 32) ^ distance, 1);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
template <class M> inline void gc_atomic_add(gcemu::Reference<M> place, typename M::Element value) { place.add(value); }
inline void gc_report(const gcemu::Global<int>& error, int code) {
  if (error.peek(0) == 0) error.write(0, code, true);
}
