/* Runs a fuzz target over stored inputs, without libFuzzer: every file of the folders given. Speaks
 * TAP. A finding ends the program, as it would under the fuzzer. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int run_file(const char *path, int number)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode)) {
        if (f)
            fclose(f);
        return 0;
    }
    uint8_t *data = malloc((size_t)st.st_size + 1);
    size_t n = data ? fread(data, 1, (size_t)st.st_size, f) : 0;
    fclose(f);
    LLVMFuzzerTestOneInput(data, n);
    free(data);
    printf("ok %d - %s\n", number, strrchr(path, '/') + 1);
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **names;
        int n_name = scandir(argv[i], &names, NULL, by_name);
        for (int k = 0; k < n_name; k++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], names[k]->d_name);
            n += run_file(path, n + 1);
            free(names[k]);
        }
        if (n_name >= 0)
            free(names);
    }
    printf("1..%d\n", n);
    return n == 0;
}
