// A CUDA device made of host memory: doubles of the C functions through which CuPy calls CUDA.
//
// CuPy's modules find the functions of cupy_backends.cuda.api.runtime and .driver in two tables of
// capsules.  install() puts the functions below into these tables before `import cupy`, so that the
// wheel as it is allocates, copies and launches here.  A function that has no double keeps CUDA's,
// and fails for want of a driver: nothing passes by accident.
//
//   memory     every allocation is filled with NaN and lies between two guards, which are looked at
//              after each launch with the array as an argument, and when it is freed; a fault
//              during a launch is an error
//   launch     the threads of a block run one after another, from the first or from the last; where
//              a kernel has barriers, each thread is a fiber that stops at __syncthreads()
//   counters   launches by the kernel's name, copies by direction, waits for the device

#include <Python.h>
#include <setjmp.h>
#include <signal.h>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

typedef intptr_t address;

static PyObject* none() { Py_RETURN_NONE; }

static PyObject* fail(const std::string& reason) {
  PyErr_SetString(PyExc_RuntimeError, reason.c_str());
  return nullptr;
}

// ---- memory -----------------------------------------------------------------------------------

static const size_t GUARD = 256;          // bytes before and after an allocation
static const unsigned char POISON = 0xFF;  // NaN in every float type, -1 in every integer

struct Allocation {
  size_t bytes;
  char guard;  // what its guards are filled with
};
static std::map<char*, Allocation> allocations;  // by where each begins

// Guards are numbers that are huge in every dtype, so that to read one shows; not NaN, which stays
// NaN when a thread past the end writes what it makes of it; and not its neighbours' numbers, which
// a thread may write there too.
static char next_guard() {
  static unsigned n;
  return (char)(0x6C + n++ % 16);
}

static void* allocate(size_t bytes) {
  size_t whole = (bytes + 2 * GUARD + 255) / 256 * 256;  // aligned as cudaMalloc aligns
  char* block = (char*)aligned_alloc(256, whole);
  if (!block) return nullptr;
  char guard = next_guard();
  memset(block, guard, whole);
  memset(block + GUARD, POISON, bytes);
  allocations[block + GUARD] = {bytes, guard};
  return block + GUARD;
}

static bool is_whole(const char* guard, char byte) {
  return *guard == byte && memcmp(guard, guard + 1, GUARD - 1) == 0;
}

// Whether something has been written next to an allocation; its guards are mended.
static bool is_overrun(char* begin, Allocation of) {
  if (is_whole(begin - GUARD, of.guard) && is_whole(begin + of.bytes, of.guard)) return false;
  memset(begin - GUARD, of.guard, GUARD);
  memset(begin + of.bytes, of.guard, GUARD);
  return true;
}

static long overrun_when_freed = -1;  // its bytes; -1 if there was none

static void release(address p) {
  if (!p) return;
  auto found = allocations.find((char*)p);
  if (is_overrun(found->first, found->second)) overrun_when_freed = (long)found->second.bytes;
  allocations.erase(found);
  free((char*)p - GUARD);
}

// The bytes of the allocation with this address if something has been written next to it; or -1.
static long overrun_at(char* address) {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return -1;
  auto [begin, of] = *--after;
  return address < begin + of.bytes + GUARD && is_overrun(begin, of) ? (long)of.bytes : -1;
}

static address malloc_(size_t bytes, int) { return (address)allocate(bytes); }
static address malloc_async(size_t bytes, address, int) { return (address)allocate(bytes); }
static address malloc_pinned(size_t bytes, unsigned, int) { return (address)allocate(bytes); }
static PyObject* free_(address p, int) { release(p); return none(); }
static PyObject* free_async(address p, address, int) { release(p); return none(); }

// ---- counters, copies and waits ---------------------------------------------------------------

static long syncs, to_device, to_host;

static void count_copy(int kind) {
  to_device += kind == 1;  // cudaMemcpyHostToDevice
  to_host += kind == 2;    // cudaMemcpyDeviceToHost
}

static PyObject* copy(address to, address from, size_t bytes, int kind, int) {
  count_copy(kind);
  syncs += kind == 2;
  memmove((void*)to, (void*)from, bytes);
  return none();
}
static PyObject* copy_async(address to, address from, size_t bytes, int kind, address, int) {
  count_copy(kind);
  memmove((void*)to, (void*)from, bytes);
  return none();
}
static PyObject* fill(address p, int byte, size_t bytes, int) {
  memset((void*)p, byte, bytes);
  return none();
}
static PyObject* fill_async(address p, int byte, size_t bytes, address, int) {
  memset((void*)p, byte, bytes);
  return none();
}
static PyObject* wait_for_device(int) { syncs++; return none(); }
static PyObject* wait_for_stream_or_event(address, int) { syncs++; return none(); }

// ---- launches ---------------------------------------------------------------------------------

struct Index { unsigned x, y, z; };  // as prelude.h has it

Index threadIdx, blockIdx, blockDim, gridDim;  // kernels read these
static const size_t SHARED = 48 << 10;         // bytes of shared memory that a block may ask for
alignas(64) char dynamic_shared[SHARED + GUARD];
static bool reversed;  // whether the last thread of a block runs first

struct Kernel {
  std::string name;
  void (*thread)(void** arguments);  // runs the thread that threadIdx names
  int (*addresses)(void** arguments, char** found);  // how many arguments are addresses; which
  void (*new_block)();                               // fills its shared memory with NaN
  bool barriers;
  long launches;
};
static std::vector<std::unique_ptr<Kernel>> kernels;

static const unsigned MOST_THREADS = 1024;
static const unsigned MOST_ADDRESSES = 4096;  // bytes of arguments, so more than enough
static const size_t STACK = 64 << 10;

struct Fiber {
  enum { NEW, AT_BARRIER, AT_WARP_BARRIER, DONE } state;
  void* stack;  // where it goes on
};
static Fiber fibers[MOST_THREADS];
static void* scheduler;   // where the block goes on
static unsigned running;  // the number of the thread that runs
static const Kernel* kernel;
static void** arguments;

// Go on from another stack; what has to survive a call is kept on this one, which *left points to.
extern "C" void switch_stack(void** left, void* entered);
asm(R"(
switch_stack:
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret
)");

static void stop(decltype(Fiber::state) state) {
  fibers[running].state = state;
  switch_stack(&fibers[running].stack, scheduler);
}

void __syncthreads() { stop(Fiber::AT_BARRIER); }
void __syncwarp(unsigned) { stop(Fiber::AT_WARP_BARRIER); }  // stops other warps too

static void run_fiber() {
  kernel->thread(arguments);
  stop(Fiber::DONE);
}

// A stack from which run_fiber begins: its address, below it six registers, above it a gap, so that
// the stack is aligned as after a call.
static void* fresh_stack(unsigned thread) {
  static std::unique_ptr<char[]> stacks(new char[STACK * MOST_THREADS]);
  size_t top = (size_t)(stacks.get() + STACK * (thread + 1)) / 16 * 16;
  void** stack = (void**)top - 2;
  *stack = (void*)run_fiber;
  return stack - 6;
}

static void become(unsigned thread) {
  running = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
               thread / (blockDim.x * blockDim.y)};
}

// Run a thread until its next barrier or its end.
static void resume(unsigned thread) {
  become(thread);
  Fiber& fiber = fibers[thread];
  if (fiber.state == Fiber::NEW) fiber.stack = fresh_stack(thread);
  switch_stack(&scheduler, fiber.stack);
}

// Whether all is well: false if threads wait at a barrier and others have ended.  CUDA leaves open
// what happens then; CuPy's own scans rely on what does.
static bool run_block(unsigned threads) {
  auto nth = [=](unsigned k) { return reversed ? threads - 1 - k : k; };
  if (!kernel->barriers) {
    for (unsigned k = 0; k < threads; k++) {
      become(nth(k));
      kernel->thread(arguments);
    }
    return true;
  }
  for (unsigned k = 0; k < threads; k++) fibers[k].state = Fiber::NEW;
  for (unsigned done = 0; done < threads;) {
    unsigned waiting = 0;
    for (unsigned k = 0; k < threads; k++) {
      Fiber& fiber = fibers[nth(k)];
      if (fiber.state == Fiber::DONE) continue;
      resume(nth(k));
      done += fiber.state == Fiber::DONE;
      waiting += fiber.state == Fiber::AT_BARRIER;
    }
    if (done && waiting && kernel->name.compare(0, 5, "cupy_")) return false;
  }
  return true;
}

static sigjmp_buf fault;
static void on_fault(int) { siglongjmp(fault, 1); }

// What a kernel has done wrong in one of its blocks; null if nothing.
static const char* run_grid(unsigned shared) {
  unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  struct sigaction handler = {}, before;
  handler.sa_handler = on_fault;
  sigaction(SIGSEGV, &handler, &before);
  const char* volatile reason = nullptr;
  if (sigsetjmp(fault, 1)) {
    reason = " has read or written at an address that is no array's";
  } else {
    for (unsigned z = 0; z < gridDim.z && !reason; z++)
      for (unsigned y = 0; y < gridDim.y && !reason; y++)
        for (unsigned x = 0; x < gridDim.x && !reason; x++) {
          blockIdx = {x, y, z};
          memset(dynamic_shared, POISON, shared);
          char guard = next_guard();
          memset(dynamic_shared + shared, guard, GUARD);
          kernel->new_block();
          if (!run_block(threads))
            reason = " has threads at a barrier when others have ended";
          else if (!is_whole(dynamic_shared + shared, guard))
            reason = " has written past its shared memory";
        }
  }
  sigaction(SIGSEGV, &before, nullptr);
  return reason;
}

static PyObject* launch(address f, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        address, address packed, address, int) {
  Kernel& launched = *(Kernel*)f;
  size_t threads = (size_t)block_x * block_y * block_z;
  if (!threads || threads > MOST_THREADS)
    return fail("CUDA_ERROR_INVALID_VALUE: " + launched.name + " with " +
                std::to_string(threads) + " threads in a block, not 1 to 1024");
  if (!grid_x || !grid_y || !grid_z || grid_y > 65535 || grid_z > 65535)
    return fail("CUDA_ERROR_INVALID_VALUE: " + launched.name + " with a grid of " +
                std::to_string(grid_x) + " x " + std::to_string(grid_y) + " x " +
                std::to_string(grid_z) + " blocks");
  if (shared > SHARED)
    return fail("CUDA_ERROR_INVALID_VALUE: " + launched.name + " with " +
                std::to_string(shared) + " bytes of shared memory, more than 49152");
  launched.launches++;
  kernel = &launched;
  arguments = (void**)packed;
  blockDim = {block_x, block_y, block_z};
  gridDim = {grid_x, grid_y, grid_z};
  if (const char* reason = run_grid(shared)) return fail(launched.name + reason);
  static char* addresses[MOST_ADDRESSES];
  for (int n = launched.addresses(arguments, addresses); n-- > 0;) {
    long bytes = overrun_at(addresses[n]);
    if (bytes >= 0)
      return fail(launched.name + " has written outside of an array of " +
                  std::to_string(bytes) + " bytes");
  }
  if (overrun_when_freed >= 0) {
    long bytes = overrun_when_freed;
    overrun_when_freed = -1;
    return fail("a kernel before " + launched.name + " has written outside of an array of " +
                std::to_string(bytes) + " bytes, which is freed by now");
  }
  return none();
}

// ---- modules: what compiled.py has made of a source, loaded by it -------------------------------

static PyObject* load_module;   // (image) -> a number
static PyObject* load_function;  // (module, name) -> what Kernel is made of

static address module_load(PyObject* image, int) {
  PyObject* loaded = PyObject_CallOneArg(load_module, image);
  if (!loaded) return 0;
  address number = PyLong_AsSsize_t(loaded);
  Py_DECREF(loaded);
  return number;
}

static address module_function(address module, PyObject* name, int) {
  PyObject* found = PyObject_CallFunction(load_function, "nO", module, name);
  if (!found) return 0;
  Py_ssize_t thread, addresses, new_block;
  int barriers;
  bool good = PyArg_ParseTuple(found, "nnnp", &thread, &addresses, &new_block, &barriers);
  Py_DECREF(found);
  if (!good) return 0;
  kernels.emplace_back(new Kernel{PyUnicode_AsUTF8(name), (void (*)(void**))thread,
                                  (int (*)(void**, char**))addresses, (void (*)())new_block,
                                  barriers != 0, 0});
  return (address)kernels.back().get();
}

static PyObject* module_unload(address, int) { return none(); }

// ---- what CuPy asks of a device: one with the limits of most --------------------------------------

static int attribute(int which, int, int) {
  switch (which) {  // cudaDeviceAttr
    case 1: case 2: case 3: return MOST_THREADS;  // threads in a block, and along x and y
    case 4: return 64;                            // along z
    case 5: return 2147483647;                    // blocks along x
    case 6: case 7: return 65535;                 // along y and z
    case 8: return SHARED;                        // shared memory of a block
    case 10: return 32;                           // threads of a warp
    case 16: return 4;                            // multiprocessors
    case 39: return 2048;                         // threads of a multiprocessor
    case 75: return 8;                            // compute capability, major
    default: return 0;
  }
}

static PyObject* properties(int, int) {
  return Py_BuildValue("{s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:L,s:i,s:i}", "name", "host memory", "major",
                       8, "minor", 0, "multiProcessorCount", 4, "maxThreadsPerBlock", MOST_THREADS,
                       "warpSize", 32, "sharedMemPerBlock", (int)SHARED, "totalGlobalMem", 8LL << 30,
                       "maxThreadsPerMultiProcessor", 2048, "l2CacheSize", 0);
}

static PyObject* set_device(int device, int) {
  return device ? fail("cudaErrorInvalidDevice: there is device 0 alone") : none();
}

static PyObject* memory_info(int) { return Py_BuildValue("LL", 8LL << 30, 8LL << 30); }
static int device_count(int) { return 1; }
static int driver_version(int) { return 12090; }
static int zero(int) { return 0; }
static int zero_of(address, int) { return 0; }
static int no_peer(int, int, int) { return 0; }
static float no_time(address, address, int) { return 0; }
static address context(int) { return 1; }
static int function_attribute(int which, address, int) { return which ? 0 : MOST_THREADS; }
static int two_blocks(address, int, size_t, int) { return 2; }

// Streams and events: all is done by the time that a call returns, so a handle is all there is.
static address handle(int) { return 1; }
static address handle_with(unsigned, int) { return 1; }

static PyObject* nothing() { return none(); }
static PyObject* nothing_i(int, int) { return none(); }
static PyObject* nothing_p(address, int) { return none(); }
static PyObject* nothing_pp(address, address, int) { return none(); }
static PyObject* nothing_ipi(int, address, int, int) { return none(); }

// ---- the two tables -----------------------------------------------------------------------------

struct Double { const char* name; void* function; };

static const Double RUNTIME[] = {
    {"malloc", (void*)malloc_},
    {"mallocAsync", (void*)malloc_async},
    {"hostAlloc", (void*)malloc_pinned},
    {"free", (void*)free_},
    {"freeHost", (void*)free_},
    {"freeAsync", (void*)free_async},
    {"memGetInfo", (void*)memory_info},
    {"pointerGetMemoryType", (void*)zero_of},
    {"memcpy", (void*)copy},
    {"memcpyAsync", (void*)copy_async},
    {"memset", (void*)fill},
    {"memsetAsync", (void*)fill_async},
    {"deviceSynchronize", (void*)wait_for_device},
    {"streamSynchronize", (void*)wait_for_stream_or_event},
    {"eventSynchronize", (void*)wait_for_stream_or_event},
    {"getDeviceCount", (void*)device_count},
    {"getDevice", (void*)zero},
    {"setDevice", (void*)set_device},
    {"deviceGetAttribute", (void*)attribute},
    {"getDeviceProperties", (void*)properties},
    {"driverGetVersion", (void*)driver_version},
    {"deviceCanAccessPeer", (void*)no_peer},
    {"_deviceEnsurePeerAccess", (void*)nothing_i},
    {"_ensure_context", (void*)nothing},
    {"streamCreate", (void*)handle},
    {"streamCreateWithFlags", (void*)handle_with},
    {"streamDestroy", (void*)nothing_p},
    {"streamQuery", (void*)nothing_p},
    {"streamIsCapturing", (void*)zero_of},
    {"eventCreate", (void*)handle},
    {"eventCreateWithFlags", (void*)handle_with},
    {"eventDestroy", (void*)nothing_p},
    {"eventRecord", (void*)nothing_pp},
    {"eventQuery", (void*)nothing_p},
    {"eventElapsedTime", (void*)no_time},
    {nullptr, nullptr}};

static const Double DRIVER[] = {
    {"ctxGetCurrent", (void*)context},
    {"ctxGetDevice", (void*)zero},
    {"moduleLoadData", (void*)module_load},
    {"moduleGetFunction", (void*)module_function},
    {"moduleUnload", (void*)module_unload},
    {"funcGetAttribute", (void*)function_attribute},
    {"funcSetAttribute", (void*)nothing_ipi},
    {"occupancyMaxActiveBlocksPerMultiprocessor", (void*)two_blocks},
    {"launchKernel", (void*)launch},
    {nullptr, nullptr}};

// A capsule is named after the C signature, which stays that of the original.
static bool replace(PyObject* table, const Double* doubles) {
  for (; doubles->name; doubles++) {
    PyObject* original = PyDict_GetItemString(table, doubles->name);
    if (!original) {
      PyErr_SetString(PyExc_KeyError, doubles->name);
      return false;
    }
    Py_INCREF(original);  // the name is its
    PyObject* capsule = PyCapsule_New(doubles->function, PyCapsule_GetName(original), nullptr);
    if (!capsule || PyDict_SetItemString(table, doubles->name, capsule)) return false;
    Py_DECREF(capsule);
  }
  return true;
}

// ---- for Python -----------------------------------------------------------------------------------

// install(runtime's table, driver's table, load_module, load_function)
static PyObject* install(PyObject*, PyObject* args) {
  PyObject *of_runtime, *of_driver, *module, *function;
  if (!PyArg_ParseTuple(args, "OOOO", &of_runtime, &of_driver, &module, &function)) return nullptr;
  if (!replace(of_runtime, RUNTIME) || !replace(of_driver, DRIVER)) return nullptr;
  Py_INCREF(load_module = module);
  Py_INCREF(load_function = function);
  return none();
}

// counted() -> (syncs, copies to the device, copies to the host, {kernel: launches})
static PyObject* counted(PyObject*, PyObject*) {
  std::map<std::string, long> launches;  // a name can have several kernels: one for each dtype
  for (auto& k : kernels) launches[k->name] += k->launches;
  PyObject* by_name = PyDict_New();
  for (auto& [name, n] : launches) {
    PyObject* number = PyLong_FromLong(n);
    PyDict_SetItemString(by_name, name.c_str(), number);
    Py_DECREF(number);
  }
  return Py_BuildValue("lllN", syncs, to_device, to_host, by_name);
}

// set_order(last_first)
static PyObject* set_order(PyObject*, PyObject* last_first) {
  reversed = PyObject_IsTrue(last_first);
  return none();
}

static PyMethodDef METHODS[] = {{"install", install, METH_VARARGS, nullptr},
                                {"counted", counted, METH_NOARGS, nullptr},
                                {"set_order", set_order, METH_O, nullptr},
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "runtime", nullptr, -1, METHODS};

PyMODINIT_FUNC PyInit_runtime() { return PyModule_Create(&MODULE); }
