/*
 * A CUDA device on the CPU: what the kernels in src/kernels/cuda need when g++ compiles them.
 * Blocks run one after another; every thread of a block is a fiber with a stack of its own, which
 * runs until it waits for others. What a GPU would leave to chance is made to fail here: shared
 * memory is full of NaN before each block and ends at memory that nobody may touch, copies arrive
 * only when they are waited for, warps and lanes run in rising order in one block and in falling
 * order in the next, and a barrier that not all reach ends the process.
 */
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "kernels.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint2 {
    unsigned x, y;
};
struct __align__(16) uint4
{
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct __align__(16) float4
{
    float x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};

static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

/* Where a thread is; the scheduler sets threadIdx whenever it resumes one. */
static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation
{
constexpr unsigned LANES = 32, THREADS_MAX = 1024, WARPS_MAX = THREADS_MAX / LANES;
/* Not a power of two, so that the tops of the stacks do not share the sets of a cache. */
constexpr size_t STACK_BYTES = (64 << 10) + 576, SHARED_BYTES_MAX = EMULATION_SHARED_BYTES_MAX,
                 STATIC_BYTES_MAX = 48 << 10;
constexpr unsigned COPIES_MAX = 256, SLOT_WORDS = 16;

/* A copy into shared memory that is under way. */
struct copy {
    void *to;
    const void *from; /* NULL: zeros */
    unsigned group;
};

struct fiber {
    void *stack_pointer;
    uint3 place;
    unsigned group; /* of the copies it asks for now */
    unsigned copy_count;
};

/* What lanes bring to an operation of their warp. Two sets in turn: a lane can be in the next
 * operation before its neighbours have read the results of this one, but not further. */
struct warp {
    uint32_t ready, at_warp_barrier, at_block_barrier, done;
    unsigned generation;
    const char *operation;
    uint32_t slots[2][LANES][SLOT_WORDS];

    void reset()
    {
        ready = UINT32_MAX;
        at_warp_barrier = at_block_barrier = done = 0;
        operation = nullptr;
    }
};

static fiber fibers[THREADS_MAX];
static copy copies[THREADS_MAX][COPIES_MAX]; /* of each fiber: those that nobody has waited for */
static warp warps[WARPS_MAX];
static unsigned warp_count, current_warp, current_lane;
static bool is_falling; /* the order of warps and lanes in this block */
static char *stacks, *shared_end, *dynamic, static_shared[STATIC_BYTES_MAX] __align__(128);
static size_t static_used;
static unsigned block_number;
static void *scheduler;
static void (*kernel_entry)(const void *);
static const void *kernel_parameter;
static const char *kernel_name;

/* Saves what a function must keep and the stack pointer, and goes on where `to` left off. */
extern "C" void emulation_switch(void **from, void *to);
asm(R"(
    .text
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, . - emulation_switch
)");

[[noreturn]] static inline void fail(const char *what)
{
    fprintf(stderr, "%s: block (%u, %u, %u), thread %u: %s\n", kernel_name, blockIdx.x, blockIdx.y,
            blockIdx.z, current_warp * LANES + current_lane, what);
    for (unsigned w = 0; w < warp_count; w++)
        fprintf(stderr, "  warp %2u: at a block barrier %08x, in %s %08x, ended %08x\n", w,
                warps[w].at_block_barrier, warps[w].operation ? warps[w].operation : "no operation",
                warps[w].at_warp_barrier, warps[w].done);
    abort();
}

static inline unsigned lane_of(uint32_t mask)
{
    return is_falling ? 31 - (unsigned)__builtin_clz(mask) : (unsigned)__builtin_ctz(mask);
}

/* Leaves the current thread for one that can run: of its own warp where there is one. */
static inline void leave(void **from)
{
    unsigned w = current_warp;
    for (unsigned i = 0; i < warp_count && warps[w].ready == 0; i++)
        w = is_falling ? (w + warp_count - 1) % warp_count : (w + 1) % warp_count;
    if (warps[w].ready == 0) {
        for (unsigned i = 0; i < warp_count; i++)
            if (warps[i].done != UINT32_MAX)
                fail("some threads wait for others that have ended, or wait elsewhere");
        emulation_switch(from, scheduler);
    }
    current_warp = w;
    current_lane = lane_of(warps[w].ready);
    warps[w].ready &= ~(1u << current_lane);
    const fiber *next = &fibers[w * LANES + current_lane];
    threadIdx = next->place;
    if (from != &next->stack_pointer)
        emulation_switch(from, next->stack_pointer);
}

static inline void **here()
{
    return &fibers[current_warp * LANES + current_lane].stack_pointer;
}

static inline void wait_for_block()
{
    warps[current_warp].at_block_barrier |= 1u << current_lane;
    for (unsigned w = 0; w < warp_count; w++)
        if (warps[w].at_block_barrier != UINT32_MAX)
            return leave(here());
    for (unsigned w = 0; w < warp_count; w++) {
        warps[w].ready = UINT32_MAX;
        warps[w].at_block_barrier = 0;
    }
    leave(here());
}

/* Where this lane puts what it brings to the next operation of its warp. */
static inline uint32_t *slot()
{
    warp *w = &warps[current_warp];
    return w->slots[w->generation & 1][current_lane];
}

/* Waits for the other lanes; the last one computes. Returns all lanes' slots. */
template <typename compute>
static inline uint32_t (*together(const char *operation, compute with))[SLOT_WORDS]
{
    warp *w = &warps[current_warp];
    uint32_t(*all)[SLOT_WORDS] = w->slots[w->generation & 1];
    if (w->at_warp_barrier != 0 && w->operation != operation &&
        strcmp(w->operation, operation) != 0)
        fail(operation);
    w->operation = operation;
    w->at_warp_barrier |= 1u << current_lane;
    if (w->at_warp_barrier != UINT32_MAX) {
        leave(here());
        return all;
    }
    with(all);
    w->generation++;
    w->at_warp_barrier = 0;
    w->operation = nullptr;
    w->ready |= ~(1u << current_lane);
    return all;
}

/* An array in static shared memory: of one place in the source, once a block. */
struct site {
    unsigned block;
    void *at;
};

static inline void *place(site *s, size_t bytes)
{
    if (s->block != block_number) {
        static_used = (static_used + 15) / 16 * 16;
        if (static_used + bytes > STATIC_BYTES_MAX)
            fail("more static shared memory than there is");
        *s = {block_number, static_shared + static_used};
        memset(s->at, 0xff, bytes);
        static_used += bytes;
    }
    return s->at;
}

static inline void copy_ask(void *to, const void *from)
{
    const unsigned thread = current_warp * LANES + current_lane;
    fiber *f = &fibers[thread];
    if (f->copy_count == COPIES_MAX || ((uintptr_t)to | (uintptr_t)from) % 16 != 0)
        fail("too many copies under way, or one that is not aligned to 16 bytes");
    memset(to, 0xff, 16);
    copies[thread][f->copy_count++] = {to, from, f->group};
}

static inline void copy_wait(unsigned groups_left)
{
    const unsigned thread = current_warp * LANES + current_lane;
    fiber *f = &fibers[thread];
    unsigned kept = 0;
    for (unsigned i = 0; i < f->copy_count; i++) {
        const copy c = copies[thread][i];
        if (f->group - c.group <= groups_left)
            copies[thread][kept++] = c;
        else if (c.from != nullptr)
            memcpy(c.to, c.from, 16);
        else
            memset(c.to, 0, 16);
    }
    f->copy_count = kept;
}

static void thread_main()
{
    kernel_entry(kernel_parameter);
    if (fibers[current_warp * LANES + current_lane].copy_count != 0)
        fail("ended with copies under way");
    warps[current_warp].done |= 1u << current_lane;
    leave(here());
    abort();
}

static inline void run_block(size_t shared_bytes)
{
    block_number++;
    is_falling = block_number % 2 == 0;
    static_used = 0;
    dynamic = shared_end - (shared_bytes + 15) / 16 * 16;
    memset(dynamic, 0xff, (size_t)(shared_end - dynamic));
    for (unsigned i = 0; i < warp_count * LANES; i++) {
        void **top = (void **)(void *)(stacks + (i + 1) * STACK_BYTES) - 2;
        *top = (void *)thread_main;
        fibers[i].stack_pointer = top - 6; /* the registers that are taken off first */
        fibers[i].place = {i % blockDim.x, i / blockDim.x % blockDim.y,
                           i / blockDim.x / blockDim.y};
        fibers[i].group = fibers[i].copy_count = 0;
    }
    for (unsigned w = 0; w < warp_count; w++)
        warps[w].reset();
    current_warp = is_falling ? warp_count - 1 : 0;
    leave(&scheduler);
}

static inline bool allocate()
{
    if (stacks != nullptr)
        return true;
    const size_t shared = SHARED_BYTES_MAX / 4096 * 4096 + 4096;
    const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *at = (char *)mmap(nullptr, shared + 4096, PROT_READ | PROT_WRITE, how, -1, 0);
    char *all =
        (char *)mmap(nullptr, THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE, how, -1, 0);
    if (at == MAP_FAILED || all == MAP_FAILED || mprotect(at + shared, 4096, PROT_NONE) < 0)
        return false;
    shared_end = at + shared;
    stacks = all;
    return true;
}

/* One kernel under its name; the parameter is the struct that it takes. */
struct kernel {
    const char *name;
    void (*entry)(const void *);
    size_t parameter_bytes;
};

template <auto function> struct trampoline;
template <typename job, void (*function)(job)> struct trampoline<function> {
    static_assert(sizeof(job) <= 4096, "a kernel's parameters");
    static constexpr size_t BYTES = sizeof(job);
    static void enter(const void *parameter)
    {
        function(*static_cast<const job *>(parameter));
    }
};
} // namespace emulation

#define SHARED(type, name, count)                                                                  \
    static emulation::site name##_site;                                                            \
    type *const name = static_cast<type *>(emulation::place(&name##_site, (count) * sizeof(type)))
#define DYNAMIC_SHARED(type, name)                                                                 \
    type *const name = static_cast<type *>(static_cast<void *>(emulation::dynamic))

static inline void __syncthreads()
{
    emulation::wait_for_block();
}

static inline void __syncwarp()
{
    emulation::together("__syncwarp", [](auto) {});
}

/* Every lane brings a value and takes that of another. */
template <typename T> static inline T emulation_take(T value, unsigned lane)
{
    static_assert(sizeof(T) <= sizeof(uint32_t[emulation::SLOT_WORDS]), "what a lane brings");
    memcpy(emulation::slot(), &value, sizeof value);
    const auto all = emulation::together("a shuffle", [](auto) {});
    memcpy(&value, all[lane % emulation::LANES], sizeof value);
    return value;
}

template <typename T> static inline T __shfl_sync(unsigned, T value, int lane)
{
    return emulation_take(value, (unsigned)lane);
}

template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emulation_take(value, emulation::current_lane ^ (unsigned)mask);
}

template <typename T> static inline T __shfl_up_sync(unsigned, T value, unsigned by)
{
    const unsigned lane = emulation::current_lane;
    return emulation_take(value, lane >= by ? lane - by : lane);
}

template <typename T> static inline T __shfl_down_sync(unsigned, T value, unsigned by)
{
    const unsigned lane = emulation::current_lane + by;
    return emulation_take(value, lane < emulation::LANES ? lane : emulation::current_lane);
}

/* The host's library declares this name too. */
#define __expf expf

static inline float __uint_as_float(unsigned bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline unsigned __float_as_uint(float value)
{
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static inline unsigned long long __float2ull_rn(float x)
{
    return (unsigned long long)llrintf(x);
}

static inline float __fdividef(float a, float b)
{
    return a / b;
}

/* Threads of a block take turns, and only where they wait. */
template <typename T> static inline T atomicAdd(T *at, T value)
{
    T before = *at;
    *at = before + value;
    return before;
}

template <typename T> static inline T min(T a, T b)
{
    return a < b ? a : b;
}

template <typename T> static inline T max(T a, T b)
{
    return a > b ? a : b;
}

/* Selects four of the eight bytes of a and b. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++)
        result |= (unsigned)(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return result;
}
