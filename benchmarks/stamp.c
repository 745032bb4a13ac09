/* A job that is only its own first instruction: append the monotonic time in nanoseconds to the file named by argv[1],
   and, when it runs as a job of the controller, write a result. Built static, so that the loader's time is not measured. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    char line[64];
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc < 2) return 64;
    int size = snprintf(line, sizeof line, "%lld\n", (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
    int out = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (out < 0 || write(out, line, size) != size) return 74;
    const char *result = getenv("RETRAIN_RESULT");
    if (result != NULL) {
        static const char document[] = "{\"metrics\": {\"score\": 1}}";
        int file = open(result, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || write(file, document, strlen(document)) < 0) return 74;
    }
    return 0;
}
