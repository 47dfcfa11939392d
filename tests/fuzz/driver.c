/*
 * Runs a fuzz entry without a fuzzing compiler: every file of the corpus as it is, then mutations
 * of it from a printed seed until the time is over. The entry is libFuzzer's, so the same files
 * also build with clang -fsanitize=fuzzer.
 *
 *   fuzz_NAME [--seconds S] [--seed N] [--iterations N] [FILE|DIR ...]
 */
#include "base/clock.h"
#include "base/rng.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_BYTES_MAX (1u << 20)
#define CORPUS_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *data;
    size_t size;
};

static struct input corpus[CORPUS_MAX];
static size_t corpus_count;

static void load_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL || corpus_count == CORPUS_MAX) {
        if (f != NULL)
            fclose(f);
        return;
    }
    uint8_t *data = malloc(INPUT_BYTES_MAX);
    if (data == NULL)
        abort();
    size_t size = fread(data, 1, INPUT_BYTES_MAX, f);
    fclose(f);
    corpus[corpus_count++] = (struct input){data, size};
}

static void load(const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    if (!S_ISDIR(st.st_mode)) {
        load_file(path);
        return;
    }
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        char name[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        load_file(name);
    }
    if (dir != NULL)
        closedir(dir);
}

/* A few random edits: bit flips, interesting bytes, cuts, repeats and splices of two inputs. */
static size_t mutate(struct rng *rng, uint8_t *data, size_t size)
{
    static const uint8_t interesting[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '}', '[', '\\', '\n'};
    uint32_t edits = 1 + rng_below(rng, 6);
    for (uint32_t i = 0; i < edits; i++) {
        uint32_t at = size > 0 ? rng_below(rng, (uint32_t)size) : 0;
        uint32_t len = 1 + rng_below(rng, 16);
        switch (rng_below(rng, 6)) {
        case 0:
            if (size > 0)
                data[at] ^= (uint8_t)(1u << rng_below(rng, 8));
            break;
        case 1:
            if (size > 0)
                data[at] = interesting[rng_below(rng, sizeof interesting)];
            break;
        case 2: /* cut */
            if (at + len <= size) {
                memmove(data + at, data + at + len, size - at - len);
                size -= len;
            }
            break;
        case 3: /* repeat */
            if (at + len <= size && size + len <= INPUT_BYTES_MAX) {
                memmove(data + at + len, data + at, size - at);
                size += len;
            }
            break;
        case 4: { /* splice */
            const struct input *other = &corpus[rng_below(rng, (uint32_t)corpus_count)];
            if (other->size == 0)
                break;
            uint32_t from = rng_below(rng, (uint32_t)other->size);
            size_t n = other->size - from;
            if (n > INPUT_BYTES_MAX - at)
                n = INPUT_BYTES_MAX - at;
            memcpy(data + at, other->data + from, n);
            size = at + n;
            break;
        }
        default: /* truncate */
            if (size > 0 && rng_below(rng, 4) == 0)
                size = at;
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    uint64_t seconds = 2;
    uint64_t iterations = UINT64_MAX;
    uint64_t seed = clock_wall_us();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--iterations") == 0 && i + 1 < argc)
            iterations = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            load(argv[i]);
    }
    for (size_t i = 0; i < corpus_count; i++)
        LLVMFuzzerTestOneInput(corpus[i].data, corpus[i].size);
    if (corpus_count == 0)
        corpus[corpus_count++] = (struct input){calloc(1, 1), 1};

    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    struct rng rng;
    rng_seed(&rng, seed);
    uint8_t *data = malloc(INPUT_BYTES_MAX);
    uint64_t end_us = clock_now_us() + seconds * 1000000;
    uint64_t done = 0;
    while (data != NULL && done < iterations && clock_now_us() < end_us) {
        const struct input *from = &corpus[rng_below(&rng, (uint32_t)corpus_count)];
        memcpy(data, from->data, from->size);
        size_t size = mutate(&rng, data, from->size);
        /* An exact allocation lets ASan see one byte too far. */
        uint8_t *exact = malloc(size > 0 ? size : 1);
        if (exact == NULL)
            abort();
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
        done++;
    }
    printf("%llu inputs, %zu from the corpus\n", (unsigned long long)(done + corpus_count),
           corpus_count);
    free(data);
    return 0;
}
