/* The disk's ceiling as fio finds it: a child process whose JSON report is read from a pipe. */
#include "bench/bench.h"

#include <jansson.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define REPORT_BYTES_MAX (256u << 10)

extern char **environ;

/* Runs the program and keeps what it prints, cut at the buffer's end. False when it cannot start or
 * ends with an error. */
static bool run(char *const *arguments, char *report, size_t bytes)
{
    posix_spawn_file_actions_t actions;
    int pipe_fds[2], status = -1;
    size_t length = 0;
    pid_t child;
    if (pipe(pipe_fds) != 0) return false;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, pipe_fds[0]);
    int refused = posix_spawnp(&child, arguments[0], &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fds[1]);
    while (!refused && length + 1 < bytes) {
        ssize_t got = read(pipe_fds[0], report + length, bytes - 1 - length);
        if (got <= 0) break;
        length += (size_t)got;
    }
    report[length] = 0;
    close(pipe_fds[0]);
    return !refused && waitpid(child, &status, 0) == child && status == 0;
}

double bench_fio_rate(const struct bench_options *options)
{
    char file[4200], bs[64], depth[32], runtime[32];
    char report[REPORT_BYTES_MAX];
    snprintf(file, sizeof file, "--filename=%s", options->file);
    snprintf(bs, sizeof bs, "--bs=%llu", (unsigned long long)options->bytes);
    snprintf(depth, sizeof depth, "--iodepth=%d", (int)options->depth);
    snprintf(runtime, sizeof runtime, "--runtime=%.0fms", options->seconds * 1000);
    char *arguments[] = {"fio",
                         "--name=ceiling",
                         "--readonly",
                         "--ioengine=io_uring",
                         "--direct=1",
                         "--fixedbufs=1",
                         "--registerfiles=1",
                         "--rw=randread",
                         "--time_based",
                         "--norandommap",
                         "--output-format=json",
                         file,
                         bs,
                         depth,
                         runtime,
                         NULL};
    if (!run(arguments, report, sizeof report)) return 0;
    const char *start = strchr(report, '{');
    json_t *root = start ? json_loads(start, 0, NULL) : NULL;
    json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    json_t *rate = json_object_get(json_object_get(job, "read"), "bw_bytes");
    double gigabytes = (double)json_integer_value(rate) * 1e-9;
    json_decref(root);
    return gigabytes;
}
