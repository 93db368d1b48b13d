/* Runs a fuzz target over files and folders of them: how a build without libFuzzer tests the
 * committed corpus, and how a single crash is looked at. */
#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

static int cannot(const char *path)
{
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    return -1;
}

/* The bytes lie in memory of exactly their size, so that a sanitizer sees a read past the end. */
static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        return cannot(path);
    long size = ftell(file);
    rewind(file);
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size)
        return cannot(path);
    fclose(file);
    fprintf(stderr, "%s\n", path); /* stands last before the report of a crash */
    LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return 1;
}

/* How many inputs were run, or -1. */
static int run_path(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOTDIR ? run_file(path) : cannot(path);
    int total = 0;
    for (struct dirent *entry; total >= 0 && (entry = readdir(dir));) {
        char inside[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        int n = run_file(inside);
        total = n < 0 ? n : total + n;
    }
    closedir(dir);
    return total;
}

int main(int argc, char **argv)
{
    int total = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        int n = run_path(argv[i]);
        if (n <= 0) {
            fprintf(stderr, "%s: no input to run\n", argv[i]);
            return 1;
        }
        total += n;
    }
    if (total == 0) {
        fprintf(stderr, "usage: %s FILE-OR-FOLDER...\n", argv[0]);
        return 2;
    }
    fprintf(stderr, "%d inputs\n", total);
    return 0;
}
