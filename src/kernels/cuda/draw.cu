/*
 * From logits to tokens. One decision: weights are whole numbers, whose sums are the same in
 * whatever order threads make them; so nothing is sorted, and histograms may be made by atomics.
 *
 * What a filter keeps is all above some logit and the first of those equal to it. That logit is
 * found digit by digit: of the numbers that order as logits do, the highest bits first, a histogram
 * of what each digit weighs says which digit the limit has. A draw narrows the vocabulary to the
 * part that the number falls into, by as much as a block has warps, until one token is left.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/kernels.h"

#include <cfloat>
#include <primitives.cuh>

#define DRAW_WARPS (CUDA_DRAW_THREADS / WARP_LANES)
#define DRAW_AHEAD 8u /* logits that a thread has under way */
#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)
#define EQUALS_ALL UINT32_MAX

static_assert(DIGITS == 2 * CUDA_DRAW_THREADS, "a thread looks at two digits");
static_assert(DRAW_WARPS == WARP_LANES, "a warp joins what all warps have");

typedef unsigned long long mass; /* a sum of weights, or a count */

struct best {
    float value;
    uint32_t token;
};

struct digit {
    uint32_t value;
    mass above; /* what larger digits weigh; all of it where the goal is not reached */
    bool is_there;
};

struct draw_shared {
    mass digits[DIGITS];
    mass sums[DRAW_WARPS];
    uint32_t equals[DRAW_WARPS];
    struct best bests[DRAW_WARPS];
    struct digit found;
};

/* --- logits as numbers that order as they do, and as weights --- */

static __device__ __forceinline__ uint32_t key_of(float logit)
{
    float value = logit == logit ? logit + 0.0f : -INFINITY; /* one zero, and no NaN */
    uint32_t bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float logit_of(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct scale {
    float best;
    float inverse_temperature;
};

static __device__ __forceinline__ mass weight_of(const struct scale &s, float logit)
{
    float below = (logit - s.best) * s.inverse_temperature;
    return below > -CUDA_DRAW_SPREAD
               ? __float2ull_rn(expf(below) * (float)(1ull << CUDA_DRAW_WEIGHT_BITS))
               : 0;
}

/* What the filters keep: the keys above this one, and of those equal to it the first `equals`. */
struct cut {
    uint32_t key, equals;
};

/* Calls with(index, logit) for this thread's logits of [begin, end), `threads` apart. */
template <typename function>
static __device__ __forceinline__ void each_logit(const float *logits, uint32_t begin, uint32_t end,
                                                  uint32_t threads, function with)
{
    for (; begin < end; begin += DRAW_AHEAD * threads) {
        float values[DRAW_AHEAD];
#pragma unroll
        for (uint32_t k = 0; k < DRAW_AHEAD; k++)
            values[k] = begin + k * threads < end ? logits[begin + k * threads] : 0;
#pragma unroll
        for (uint32_t k = 0; k < DRAW_AHEAD; k++)
            if (begin + k * threads < end)
                with(begin + k * threads, values[k]);
    }
}

/* --- the largest --- */

/* The better of two; of equals the first. */
static __device__ __forceinline__ struct best better(struct best a, struct best b)
{
    return b.value > a.value || (b.value == a.value && b.token < a.token) ? b : a;
}

static __device__ __forceinline__ struct best warp_best(struct best b)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        struct best other = {__shfl_xor_sync(WARP_ALL, b.value, mask),
                             __shfl_xor_sync(WARP_ALL, b.token, mask)};
        b = better(b, other);
    }
    return b;
}

/* The same for all threads. */
static __device__ __forceinline__ struct best find_best(struct draw_shared &shared,
                                                        const float *logits, uint32_t vocab)
{
    struct best mine = {-INFINITY, UINT32_MAX};
    each_logit(logits, threadIdx.x, vocab, CUDA_DRAW_THREADS, [&](uint32_t i, float logit) {
        mine = better(mine, {logit, i});
    });
    mine = warp_best(mine);
    if (threadIdx.x % WARP_LANES == 0)
        shared.bests[threadIdx.x / WARP_LANES] = mine;
    __syncthreads();
    mine = warp_best(shared.bests[threadIdx.x % WARP_LANES]);
    return mine.value > -INFINITY ? mine : best{mine.value, 0};
}

/* --- sums of a block --- */

static __device__ __forceinline__ mass warp_mass(mass value)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2)
        value += __shfl_xor_sync(WARP_ALL, value, mask);
    return value;
}

/* What this lane and those before it have. */
static __device__ __forceinline__ mass warp_running_mass(mass value)
{
#pragma unroll
    for (uint32_t by = 1; by < WARP_LANES; by *= 2) {
        mass before = __shfl_up_sync(WARP_ALL, value, by);
        value += threadIdx.x % WARP_LANES >= by ? before : 0;
    }
    return value;
}

/* Likewise of all threads of the block. */
static __device__ __forceinline__ mass block_running_mass(struct draw_shared &shared, mass value)
{
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    mass running = warp_running_mass(value);
    __syncthreads(); /* others have read what was there */
    if (lane == WARP_LANES - 1)
        shared.sums[warp] = running;
    __syncthreads();
    mass before = warp_mass(lane < warp ? shared.sums[lane] : 0);
    return before + running;
}

static __device__ __forceinline__ mass block_mass(struct draw_shared &shared, mass value)
{
    value = warp_mass(value);
    __syncthreads(); /* others have read what was there */
    if (threadIdx.x % WARP_LANES == 0)
        shared.sums[threadIdx.x / WARP_LANES] = value;
    __syncthreads();
    return warp_mass(shared.sums[threadIdx.x % WARP_LANES]);
}

/* --- filters --- */

/* What is measured of a logit: that it is one (top-k), or its weight (top-p). Logits at the key of
 * a cut that does not keep all of them are measured together, by equals_measure. */
template <bool weighs>
static __device__ __forceinline__ mass measure(const struct scale &s, const struct cut &cut,
                                               uint32_t key, float logit)
{
    if (key < cut.key || (key == cut.key && cut.equals != EQUALS_ALL))
        return 0;
    return weighs ? weight_of(s, logit) : 1;
}

static __device__ __forceinline__ mass equals_measure(const struct scale &s, const struct cut &cut)
{
    return cut.equals != EQUALS_ALL ? cut.equals * weight_of(s, logit_of(cut.key)) : 0;
}

/* The digit at which what is in shared.digits, from the largest on, reaches `goal` > 0. */
static __device__ __forceinline__ struct digit find_digit(struct draw_shared &shared, mass goal)
{
    const uint32_t high = DIGITS - 1 - 2 * threadIdx.x, low = high - 1;
    mass at_high = shared.digits[high], own = at_high + shared.digits[low];
    mass running = block_running_mass(shared, own), before = running - own;
    if (threadIdx.x == CUDA_DRAW_THREADS - 1)
        shared.found = {0, running, false};
    __syncthreads();
    if (before < goal && goal <= running)
        shared.found = before + at_high >= goal ? digit{high, before, true}
                                                : digit{low, before + at_high, true};
    __syncthreads();
    return shared.found;
}

/*
 * The cut that keeps the fewest of the largest whose measures reach `goal` > 0 together, of what
 * `cut` keeps; `cut` itself where all of them do not reach it.
 */
template <bool weighs>
static __device__ __noinline__ struct cut narrow(struct draw_shared &shared, const float *logits,
                                                 uint32_t vocab, const struct scale &s,
                                                 const struct cut &cut, mass goal)
{
    uint32_t key = 0, known = 0; /* its highest bits, and which they are */
    for (uint32_t left = 32; left > 0;) {
        const uint32_t bits = left < DIGIT_BITS ? left : DIGIT_BITS, shift = left - bits;
        for (uint32_t i = threadIdx.x; i < DIGITS; i += CUDA_DRAW_THREADS)
            shared.digits[i] = 0;
        __syncthreads();
        auto add = [&](uint32_t k, mass m) {
            if (m != 0 && (k & known) == key)
                atomicAdd(&shared.digits[k >> shift & ((1u << bits) - 1)], m);
        };
        each_logit(logits, threadIdx.x, vocab, CUDA_DRAW_THREADS, [&](uint32_t, float logit) {
            uint32_t k = key_of(logit);
            add(k, measure<weighs>(s, cut, k, logit));
        });
        if (weighs && threadIdx.x == 0)
            add(cut.key, equals_measure(s, cut));
        __syncthreads();
        struct digit d = find_digit(shared, goal);
        if (!d.is_there)
            return cut;
        goal -= d.above;
        key |= d.value << shift;
        known |= ((1u << bits) - 1) << shift;
        left = shift;
    }
    const mass one = weighs ? weight_of(s, logit_of(key)) : 1;
    return {key, (uint32_t)min((goal + one - 1) / one, (mass)EQUALS_ALL)};
}

/* What all that `cut` keeps weighs. */
static __device__ __forceinline__ mass weigh(struct draw_shared &shared, const float *logits,
                                             uint32_t vocab, const struct scale &s,
                                             const struct cut &cut)
{
    mass sum = 0;
    each_logit(logits, threadIdx.x, vocab, CUDA_DRAW_THREADS,
               [&](uint32_t, float logit) { sum += measure<true>(s, cut, key_of(logit), logit); });
    return block_mass(shared, sum) + equals_measure(s, cut);
}

static __device__ __forceinline__ struct cut filter(struct draw_shared &shared, const float *logits,
                                                    uint32_t vocab, const struct scale &s,
                                                    const struct cuda_draw_row &row)
{
    struct cut cut = {key_of(s.best - CUDA_DRAW_SPREAD * row.temperature), EQUALS_ALL};
    if (row.top_k > 0 && row.top_k < vocab)
        cut = narrow<false>(shared, logits, vocab, s, cut, row.top_k);
    if (row.top_p < 1) {
        mass all = weigh(shared, logits, vocab, s, cut);
        mass goal = (mass)ceil((double)row.top_p * (double)all);
        cut = narrow<true>(shared, logits, vocab, s, cut, min(max(goal, (mass)1), all));
    }
    uint32_t least = key_of((float)((double)s.best + (double)row.temperature * row.log_min_p));
    return least > cut.key ? ::cut{least, EQUALS_ALL} : cut;
}

/* --- draws --- */

/* Of what `cut` keeps between `begin` and `end`, in this warp's part: what those above its key
 * weigh, and how many are at it. */
static __device__ __forceinline__ void weigh_part(struct draw_shared &shared, const float *logits,
                                                  uint32_t begin, uint32_t end,
                                                  const struct scale &s, const struct cut &cut)
{
    mass sum = 0, equals = 0;
    each_logit(logits, begin + threadIdx.x % WARP_LANES, end, WARP_LANES,
               [&](uint32_t, float logit) {
                   uint32_t key = key_of(logit);
                   sum += key > cut.key ? weight_of(s, logit) : 0;
                   equals += key == cut.key;
               });
    sum = warp_mass(sum);
    equals = warp_mass(equals);
    if (threadIdx.x % WARP_LANES == 0) {
        shared.sums[threadIdx.x / WARP_LANES] = sum;
        shared.equals[threadIdx.x / WARP_LANES] = (uint32_t)equals;
    }
}

/* What part `i` weighs, where `equals` of those at the cut's key are still kept. */
static __device__ __forceinline__ mass part_mass(const struct draw_shared &shared, uint32_t i,
                                                 uint32_t equals, mass equal_weight)
{
    return shared.sums[i] + min(shared.equals[i], equals) * equal_weight;
}

static __device__ __forceinline__ uint32_t draw_from(struct draw_shared &shared,
                                                     const float *logits, uint32_t vocab,
                                                     const struct scale &s, const struct cut &cut,
                                                     double unit)
{
    const mass equal_weight = weight_of(s, logit_of(cut.key));
    uint32_t begin = 0, end = vocab, equals = cut.equals;
    mass target = 0;
    while (end - begin > 1) {
        const uint32_t part = (end - begin + DRAW_WARPS - 1) / DRAW_WARPS;
        const uint32_t own = begin + threadIdx.x / WARP_LANES * part;
        __syncthreads(); /* others have read what was there */
        weigh_part(shared, logits, min(own, end), min(own + part, end), s, cut);
        __syncthreads();
        if (end - begin == vocab) {
            mass all = 0;
            for (uint32_t i = 0, left = equals; i < DRAW_WARPS; i++) {
                all += part_mass(shared, i, left, equal_weight);
                left -= min(shared.equals[i], left);
            }
            target = min((mass)(unit * (double)all), all - 1);
        }
        for (uint32_t i = 0; i < DRAW_WARPS; i++) {
            mass here = part_mass(shared, i, equals, equal_weight);
            if (target < here) {
                begin += i * part;
                end = min(begin + part, end);
                break;
            }
            target -= here;
            equals -= min(shared.equals[i], equals);
        }
    }
    return begin;
}

extern "C" __global__ void __launch_bounds__(CUDA_DRAW_THREADS)
    sllora_draw(const __grid_constant__ struct cuda_draw job)
{
    SHARED(struct draw_shared, shared, 1);
    grid_begin();
    const float *logits = job.logits + (uint64_t)blockIdx.x * job.vocab;
    const struct cuda_draw_row row = job.rows[blockIdx.x];
    struct best best = find_best(*shared, logits, job.vocab);
    uint32_t token = best.token;
    if (row.temperature > 0 && fabsf(best.value) < INFINITY) {
        const struct scale s = {best.value, fminf(1 / row.temperature, FLT_MAX)};
        const struct cut cut = filter(*shared, logits, job.vocab, s, row);
        token = draw_from(*shared, logits, job.vocab, s, cut, row.unit);
    }
    if (threadIdx.x == 0)
        job.tokens[blockIdx.x] = token;
}
