/* The least that a fork server has to do: what the Rust one does, without Rust and its libraries.
 *
 * least_fork KIB ANSWER: with so many KiB of its own, answers each connection to the listening socket
 * at descriptor 0 from a process of its own, by a body of so many bytes. The child leads a process
 * group, has default signals and dies with its parent; the group is killed when the peer hangs up and
 * when the child has ended, before it is reaped. A request is what the first read returns.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define P_PIDFD_ID 3 /* P_PIDFD, which older headers do not have */
#define MOST 1024

struct child {
    uint64_t number; /* never used twice: a late event must not meet another child */
    pid_t pid;
    int pidfd;
    int connection;
};

static struct child children[MOST];
static uint64_t last_number;
static char buffer[1 << 16];

static int watch(int epoll, int descriptor, uint32_t events, uint64_t token)
{
    struct epoll_event event = { .events = events | EPOLLET, .data.u64 = token };
    return epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event);
}

static void answer(int connection, pid_t parent, size_t size)
{
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || read(connection, buffer, sizeof buffer) <= 0)
        _exit(1);
    int head = sprintf(buffer, "Status: 200\r\nContent-Length: %zu\r\n\r\n", size);
    memset(buffer + head, 'x', size);
    _exit(write(connection, buffer, (size_t)head + size) < 0);
}

static int serve(int epoll, int listener, size_t size)
{
    pid_t own = getpid();
    int connection;
    while ((connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        uint64_t number = ++last_number;
        struct child *child = &children[number % MOST];
        if (child->number != 0)
            return -1;
        pid_t pid = fork();
        if (pid < 0)
            return -1;
        if (pid == 0) {
            syscall(SYS_close_range, 3, connection - 1, 0);
            syscall(SYS_close_range, connection + 1, ~0U, 0);
            answer(connection, own, size);
        }
        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        *child = (struct child) { number, pid, pidfd, connection };
        if (watch(epoll, pidfd, EPOLLIN, number * 2) < 0
            || watch(epoll, connection, EPOLLPRI, number * 2 + 1) < 0)
            return -1;
    }
    return 0;
}

static void handle(uint64_t token)
{
    struct child *child = &children[token / 2 % MOST];
    siginfo_t end;
    if (child->number != token / 2)
        return;
    if (token % 2 == 1)
        syscall(SYS_pidfd_send_signal, child->pidfd, SIGKILL, NULL, 0);
    kill(-child->pid, SIGKILL);
    if (token % 2 == 1 || waitid(P_PIDFD_ID, (id_t)child->pidfd, &end, WEXITED | WNOHANG) < 0)
        return;
    close(child->pidfd);
    close(child->connection);
    child->number = 0;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t size = (size_t)atol(argv[1]) << 10;
    char *own = malloc(size + 1);
    int listener = fcntl(0, F_DUPFD_CLOEXEC, 3);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (own == NULL || listener < 0 || epoll < 0)
        return 1;
    memset(own, 1, size + 1);
    signal(SIGPIPE, SIG_IGN);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (watch(epoll, listener, EPOLLIN, 0) < 0)
        return 1;
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(epoll, events, 64, -1);
        for (int at = 0; at < count; at++) {
            if (events[at].data.u64 != 0)
                handle(events[at].data.u64);
            else if (serve(epoll, listener, (size_t)atol(argv[2])) < 0)
                return own[0];
        }
    }
}
