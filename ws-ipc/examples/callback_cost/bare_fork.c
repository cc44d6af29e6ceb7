/* The loop beside which the fork server is held: socketpair, fork, request, answer, wait.
 *
 * bare_fork CALLS KIB REQUEST ANSWER: so many calls from a process with so many KiB of its own, with
 * a request and an answer of so many bytes. Prints microseconds of CPU time for a call, of parent and
 * children together.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[1 << 16];

static double used(int who)
{
    struct rusage usage;
    getrusage(who, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6
        + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static int pass(ssize_t moved, size_t wanted)
{
    return moved == (ssize_t)wanted ? 0 : -1;
}

static int call(size_t request, size_t answer)
{
    int pair[2], status;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        close(pair[0]);
        if (pass(read(pair[1], buffer, sizeof buffer), request) < 0)
            _exit(1);
        _exit(pass(write(pair[1], buffer, answer), answer) < 0);
    }
    close(pair[1]);
    if (pass(write(pair[0], buffer, request), request) < 0)
        return -1;
    if (pass(read(pair[0], buffer, sizeof buffer), answer) < 0)
        return -1;
    close(pair[0]);
    if (waitpid(child, &status, 0) != child)
        return -1;
    return status == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    long calls = atol(argv[1]);
    size_t size = (size_t)atol(argv[2]) << 10;
    char *own = malloc(size + 1);
    if (own == NULL)
        return 1;
    memset(own, 1, size + 1);
    double before = used(RUSAGE_SELF) + used(RUSAGE_CHILDREN);
    for (long done = 0; done < calls; done++)
        if (call((size_t)atol(argv[3]), (size_t)atol(argv[4])) < 0)
            return 1;
    double after = used(RUSAGE_SELF) + used(RUSAGE_CHILDREN);
    printf("%f\n", (after - before) / (double)calls);
    return own[0] == 1 ? 0 : 1;
}
