<?php

/*
 * Runs a PHP application for ws: loads it once, then answers each request in a process of its own.
 *
 *     php fork.php app.php               a forked process per request
 *     php fork.php --worker app.php      all requests one after another in this process
 *
 * The application is a file that returns a function. What that echoes, and what it returns, is the
 * answer:
 *
 *     <?php
 *     // Loaded once: autoloader, configuration, templates.
 *     return fn (array $server, string $body) => "$body, said $server[REMOTE_ADDR]";
 *
 * $_SERVER (the first argument), $_GET, $_COOKIE and getenv() are as in CGI; the body is also on
 * php://stdin, a socket or a file, and the constant STDIN is closed. ws\header('X-WS-Close', '1000
 * bye') adds a header to the answer. To answer is to return: who throws or calls exit has not
 * answered, and what was echoed before is dropped. What is written to STDOUT goes to the log, like
 * STDERR.
 *
 * Whatever the application opens while it is loaded is shared by all processes, which no connection
 * to a database stands: open those in the function.
 *
 * Environment:
 *     WS_FORK_EXIT=kill             Processes end by SIGKILL once they have answered and their
 *                                   registered shutdown functions have run, several times faster:
 *                                   destructors do not run. Sessions are closed before the answer.
 *                                   "normal" without it.
 *     USE_ZEND_ALLOC_HUGE_PAGES=1   Read by PHP itself: its memory is on pages of 2 MiB, which
 *                                   makes it cheaper to fork a large application. With both,
 *                                   one of 50 MiB answers at least four times as many requests.
 *
 * Descriptor 0 is a listening Unix socket, the protocol is SCGI, the answer is CGI's with a
 * Content-Length. SIGTERM ends it after the requests that it has accepted. Needs PHP 8.2 with
 * pcntl, posix and sockets.
 */

declare(strict_types=1);

namespace ws;

const MAX_REQUEST_SIZE = 64 << 20;
const MAX_CHILDREN = 256;
/** Microseconds after which all children are looked at. */
const ROUND = 100_000;
/** Seconds that shutdown functions may take. */
const SHUTDOWN_TIME = 30;

/** Adds a header to the answer: X-WS-Type, X-WS-Close, X-WS-User, Status, Set-Cookie, ... */
function header(string $name, string $value): void
{
    if (!preg_match('/^[A-Za-z0-9-]+$/D', $name) || preg_match('/[\x00-\x1F\x7F]/', $value)) {
        throw new \InvalidArgumentException("not a header: $name");
    }
    Answer::$headers[] = "$name: $value";
}

/** Where what has to be said goes. */
final class Log
{
    public static string $name = 'fork.php';
    /** @var ?resource standard error, unless the application may close that */
    public static $stream = null;
}

function say(string $text): void
{
    $stream = Log::$stream ?? (is_resource(STDERR) ? STDERR : null);
    if ($stream) {
        fwrite($stream, "$text\n");
    }
}

/** The answer that is being made. */
final class Answer
{
    public static bool $isDue = false;
    /** @var list<string> */
    public static array $headers = [];
}

/**
 * How long an SCGI request is, of which the beginning is here; null if that does not tell yet.
 *
 * @throws \UnexpectedValueException
 */
function request_length(string $bytes): ?int
{
    // CONTENT_LENGTH comes first (SCGI: "Request format").
    if (preg_match('/^([0-9]{1,9}):CONTENT_LENGTH\0([0-9]{1,9})\0/', $bytes, $lengths)) {
        return strlen("$lengths[1]:,") + (int) $lengths[1] + (int) $lengths[2];
    }
    if (strlen($bytes) >= strlen("123456789:CONTENT_LENGTH\0123456789\0")) {
        throw new \UnexpectedValueException('request does not begin with its length');
    }
    return null;
}

/**
 * Takes a whole request apart.
 *
 * @return array{array<string, string>, string} variables and body
 * @throws \UnexpectedValueException
 */
function parse_request(string $bytes): array
{
    [$size] = explode(':', $bytes, 2);
    $start = strlen("$size:");
    $comma = $start + (int) $size;
    $fields = explode("\0", substr($bytes, $start, $comma - $start));
    if (($bytes[$comma] ?? '') !== ',' || array_pop($fields) !== '' || count($fields) % 2 !== 0) {
        throw new \UnexpectedValueException('variables of the request are malformed');
    }
    $variables = [];
    foreach ($fields as $index => $field) {
        if ($index % 2 === 0) {
            $variables[$field] = $fields[$index + 1];
        }
    }
    return [$variables, substr($bytes, $comma + 1, (int) $variables['CONTENT_LENGTH'])];
}

/** @param list<string> $headers */
function build_answer(array $headers, string $body): string
{
    return implode("\r\n", [...$headers, 'Content-Length: ' . strlen($body), '', '']) . $body;
}

/** @return array<string, mixed> what PHP makes of a Cookie header: the first of a name counts */
function parse_cookies(string $header): array
{
    $pairs = array_map(trim(...), explode(';', strtr($header, ['&' => '%26', '+' => '%2B'])));
    parse_str(implode('&', array_reverse($pairs)), $cookies);
    return $cookies;
}

/** Runs the application for one request and returns the answer. */
function run(callable $application, array $variables, string $body): string
{
    Stdin::set($body);
    return build_answer(...ask($application, $variables, $body));
}

/** @return array{list<string>, string} headers and body of the application's answer */
function ask(callable $application, array $variables, string $body): array
{
    Answer::$headers = [];
    Answer::$isDue = true;
    fill_superglobals($variables);
    try {
        $output = capture(fn () => $application($variables, $body));
        return [Answer::$headers, $output];
    } catch (\Throwable $error) {
        say((string) $error);
        return [['Status: 500'], ''];
    } finally {
        Answer::$isDue = false;
    }
}

/** Returns what is printed meanwhile, also what is flushed, and behind it what is returned. */
function capture(callable $act): string
{
    $output = '';
    $level = ob_get_level();
    ob_start(function (string $printed, int $phase) use (&$output) {
        $output .= $phase & PHP_OUTPUT_HANDLER_CLEAN ? '' : $printed;
        return '';
    });
    try {
        $returned = $act();
        while (ob_get_level() > $level) {
            ob_end_flush();
        }
        return $output . $returned;
    } finally {
        discard_output($level);
    }
}

function discard_output(int $level): void
{
    while (ob_get_level() > $level) {
        ob_end_clean();
    }
}

/** Variables of the request before are taken back, which matters to a worker. */
function fill_superglobals(array $variables): void
{
    static $server = null, $former = [];
    $server ??= $_SERVER;
    $now = microtime(true);
    $_SERVER = $variables + ['REQUEST_TIME' => (int) $now, 'REQUEST_TIME_FLOAT' => $now] + $server;
    parse_str($variables['QUERY_STRING'] ?? '', $_GET);
    $_COOKIE = parse_cookies($variables['HTTP_COOKIE'] ?? '');
    $_REQUEST = $_GET;
    foreach (array_diff_key($former, $variables) as $name => $value) {
        putenv(isset($server[$name]) ? "$name=$server[$name]" : $name);
    }
    foreach ($variables as $name => $value) {
        putenv("$name=$value");
    }
    $former = $variables;
}

/** Descriptor 0: the listening socket at first, then what a request's body is read from. */
final class Stdin
{
    /** @var resource|\Socket|null */
    private static $file;

    public static function takeListener(): \Socket
    {
        $stream = fopen('php://fd/0', 'r+');
        $listener = $stream ? @socket_import_stream($stream) : false;
        // Fails unless it is such a socket; the kernel allows as many to wait as it ever does.
        if (!$listener || !@socket_listen($listener, 4096)) {
            say(Log::$name . ': descriptor 0 is no listening socket');
            exit(1);
        }
        socket_set_nonblock($listener);
        fclose(STDIN);
        self::$file = fopen('/dev/null', 'r');
        return $listener;
    }

    /** Descriptor 0 is the lowest that is free, which the next one opened gets. */
    public static function set(string $body): void
    {
        self::$file = null;
        self::$file = self::inSocket($body) ?? self::inFile($body);
    }

    /** Null if the body is larger than what a socket holds. */
    private static function inSocket(string $body): ?\Socket
    {
        socket_create_pair(AF_UNIX, SOCK_STREAM, 0, $pair);
        $sent = @socket_send($pair[1], $body, strlen($body), MSG_DONTWAIT);
        return $sent === strlen($body) ? $pair[0] : null;
    }

    /**
     * To delete it has PHP forget all paths that it has resolved, which costs as much as a fork.
     *
     * @return resource
     */
    private static function inFile(string $body): mixed
    {
        // In memory if possible: to delete it costs a disk milliseconds.
        $directory = is_writable('/dev/shm') ? '/dev/shm' : sys_get_temp_dir();
        $path = tempnam($directory, 'ws');
        $file = fopen($path, 'w+');
        unlink($path);
        fwrite($file, $body);
        rewind($file);
        return $file;
    }
}

/** Writes the whole answer, unless nobody waits for it any more. */
function send(\Socket $connection, string $answer): void
{
    do {
        $sent = @socket_send($connection, $answer, strlen($answer), MSG_NOSIGNAL);
        $answer = substr($answer, (int) $sent);
    } while ($sent && $answer !== '');
}

/** Waits for connections and their requests, and for the ends of the processes that answer them. */
final class ForkServer
{
    /** @var array<string, array{\Socket, string}> connections that are being read, and what came */
    private array $arriving = [];
    /** @var array<int, ?\Socket> children, and the connections of those whose answer is awaited */
    private array $children = [];
    /** @var list<int> children of which a signal has told that they have ended */
    private array $ended = [];
    /** When to look at all children, in nanoseconds of hrtime(). */
    private int $nextRound = 0;
    private bool $isEnding = false;

    public function __construct(
        private readonly \Socket $listener,
        private readonly \Closure $application,
        private readonly bool $killsItself,
    ) {
    }

    public function run(): void
    {
        pcntl_signal(SIGTERM, fn () => $this->isEnding = true);
        // Interrupts the waiting, too.
        pcntl_signal(SIGCHLD, function (int $signal, mixed $about) {
            if (in_array($about['code'] ?? null, [CLD_EXITED, CLD_KILLED, CLD_DUMPED], true)) {
                $this->ended[] = $about['pid'];
            }
        });
        // A handler of the application may throw for what is silenced here. A child has it again.
        set_error_handler(fn () => false);
        while (!$this->isEnding || $this->arriving || $this->children) {
            $this->step();
        }
    }

    private function step(): void
    {
        foreach ($this->wait() as $key => $connection) {
            if ($connection === $this->listener) {
                $this->accept();
            } else {
                $this->read($key, $connection);
            }
        }
        if (hrtime(true) >= $this->nextRound) {
            $this->nextRound = hrtime(true) + ROUND * 1000;
            foreach (array_keys($this->children) as $pid) {
                $this->look($pid);
            }
        }
        // After that: what a signal tells of those must not be heard when a new one has the number.
        pcntl_signal_dispatch();
        foreach (array_splice($this->ended, 0) as $pid) {
            $this->bury($pid);
        }
    }

    /** @return array<string, \Socket> what can be read */
    private function wait(): array
    {
        $ready = array_map(fn ($it) => $it[0], $this->arriving);
        if (!$this->isEnding && count($this->arriving) + count($this->children) < MAX_CHILDREN) {
            $ready['listener'] = $this->listener;
        }
        $none = null;
        [$seconds, $microseconds] = $this->children ? [0, ROUND] : [1, 0];
        $count = $ready
            ? @socket_select($ready, $none, $none, $seconds, $microseconds)
            : usleep($microseconds);
        return $count ? $ready : [];
    }

    private function accept(): void
    {
        $connection = @socket_accept($this->listener);
        if ($connection) {
            $this->arriving['connection ' . spl_object_id($connection)] = [$connection, ''];
        }
    }

    /** The child takes it apart: each page that the parent writes is copied once more for each. */
    private function read(string $key, \Socket $connection): void
    {
        $count = @socket_recv($connection, $bytes, 1 << 16, MSG_DONTWAIT);
        if ($count === false && socket_last_error($connection) === SOCKET_EAGAIN) {
            return;
        }
        $bytes = $this->arriving[$key][1] .= $bytes;
        try {
            $length = request_length($bytes);
        } catch (\UnexpectedValueException $error) {
            say(Log::$name . ": {$error->getMessage()}");
            $count = 0;
        }
        if (isset($length) && strlen($bytes) >= $length) {
            unset($this->arriving[$key]);
            $this->fork($connection, $bytes);
        } elseif (!$count || strlen($bytes) >= MAX_REQUEST_SIZE) {
            unset($this->arriving[$key]);
        }
    }

    private function fork(\Socket $connection, string $request): void
    {
        $group = posix_getpgrp();
        $pid = @pcntl_fork();
        if ($pid === 0) {
            // By the parent, too, it would be put back when it has left its group for its end.
            posix_setpgid(0, 0);
            if (has_hung_up($connection)) {
                // The parent may have seen that before there was a group to kill.
                posix_kill(posix_getpid(), SIGKILL);
            }
            $this->becomeChild();
            $this->answer($connection, $request, $group);
        } elseif ($pid > 0) {
            $this->children[$pid] = $connection;
        } else {
            $reason = pcntl_strerror(pcntl_get_last_error());
            say(Log::$name . ": cannot fork: $reason");
        }
    }

    /** Lets go of what is the parent's. Each child draws random numbers of its own. */
    private function becomeChild(): void
    {
        pcntl_signal(SIGTERM, SIG_DFL);
        pcntl_signal(SIGCHLD, SIG_DFL);
        // Closed, not only forgotten: the loop around this still counts those that were ready.
        $others = [...array_column($this->arriving, 0), ...array_filter($this->children)];
        foreach ($others as $other) {
            socket_close($other);
        }
        $this->arriving = $this->children = [];
        socket_close($this->listener);
        restore_error_handler();
        mt_srand();
    }

    private function answer(\Socket $connection, string $request, int $group): never
    {
        try {
            $answer = run($this->application, ...parse_request($request));
        } catch (\UnexpectedValueException $error) {
            say(Log::$name . ": {$error->getMessage()}");
            exit(1);
        }
        if ($this->killsItself) {
            if (session_status() === PHP_SESSION_ACTIVE) {
                session_write_close();
            }
            // It is the last of them, and behind those that they register. To release all memory
            // would cost more than the answer did.
            register_shutdown_function(fn () => register_shutdown_function(self::kill(...)));
        }
        // Who has the answer hangs up, for which the group is killed. Out of it, this process
        // lives to run its shutdown functions: so long, and whether or not the group is asked to
        // end meanwhile.
        pcntl_signal(SIGTERM, SIG_IGN);
        pcntl_signal(SIGALRM, SIG_DFL);
        pcntl_alarm(SHUTDOWN_TIME);
        posix_setpgid(0, $group);
        send($connection, $answer);
        exit(0);
    }

    private static function kill(): never
    {
        if (session_status() === PHP_SESSION_ACTIVE) {
            session_write_close();
        }
        posix_kill(posix_getpid(), SIGKILL);
        exit;
    }

    /** For what no signal tells: who has hung up, and a second one that ended at the same time. */
    private function look(int $pid): void
    {
        if ($this->children[$pid] && has_hung_up($this->children[$pid])) {
            $this->children[$pid] = null;
            posix_kill(-$pid, SIGKILL);
        }
        $stat = @file_get_contents("/proc/$pid/stat");
        if ($stat === false && pcntl_waitpid($pid, $status, WNOHANG) > 0) {
            // Without /proc. The number is at least taken while its group has members.
            posix_kill(-$pid, SIGKILL);
            $this->forget($pid, $status);
        } elseif ($stat !== false && preg_match('/.*\) [ZX]/s', $stat)) {
            // The state follows the name, which may hold anything.
            $this->bury($pid);
        }
    }

    /** Reaps a child that has ended. */
    private function bury(int $pid): void
    {
        if (array_key_exists($pid, $this->children)) {
            // What it started dies with it, before it is reaped: its number is its own until then.
            posix_kill(-$pid, SIGKILL);
            pcntl_waitpid($pid, $status);
            $this->forget($pid, $status);
        }
    }

    private function forget(int $pid, int $status): void
    {
        $connection = $this->children[$pid];
        unset($this->children[$pid]);
        if ($connection) {
            // What it started and has left the group may hold the connection, too.
            @socket_shutdown($connection);
        }
        $signal = pcntl_wifsignaled($status) ? pcntl_wtermsig($status) : 0;
        if ($signal > 0 && $connection && !($signal === SIGKILL && $this->killsItself)) {
            say(Log::$name . ": process $pid was killed by signal $signal");
        }
    }
}

/** Of a connection whose request was read. */
function has_hung_up(\Socket $connection): bool
{
    return @socket_recv($connection, $none, 1, MSG_PEEK | MSG_DONTWAIT) === 0;
}

/** Answers requests one after another. */
function serve_as_worker(\Socket $listener, \Closure $application): void
{
    $isEnding = false;
    pcntl_signal(SIGTERM, function () use (&$isEnding) {
        $isEnding = true;
    });
    while (pcntl_signal_dispatch() && !$isEnding) {
        $ready = [$listener];
        $none = null;
        if (@socket_select($ready, $none, $none, 1) && ($connection = @socket_accept($listener))) {
            try {
                $request = read_request($connection);
                if ($request !== null) {
                    send($connection, run($application, ...$request));
                }
            } catch (\UnexpectedValueException $error) {
                say(Log::$name . ": {$error->getMessage()}");
            }
            unset($connection);
        }
    }
}

/** @return ?array{array<string, string>, string} null if the peer hung up first */
function read_request(\Socket $connection): ?array
{
    $bytes = '';
    while (strlen($bytes) < (request_length($bytes) ?? MAX_REQUEST_SIZE)) {
        if (!@socket_recv($connection, $more, 1 << 16, 0) || strlen($bytes) > MAX_REQUEST_SIZE) {
            return null;
        }
        $bytes .= $more;
    }
    return parse_request($bytes);
}

/** @return array{string, bool} the application's file, and whether to be a worker */
function read_arguments(array $arguments): array
{
    array_shift($arguments);
    $isWorker = ($arguments[0] ?? '') === '--worker';
    $file = realpath($arguments[$isWorker ? 1 : 0] ?? '');
    if ($arguments === [] || $file === false || !is_file($file)) {
        fwrite(STDERR, "usage: php fork.php [--worker] APPLICATION.php\n");
        exit(2);
    }
    return [$file, $isWorker];
}

function serve(bool $isWorker, \Socket $listener, mixed $application): void
{
    if (!is_callable($application)) {
        fwrite(STDERR, "fork.php: the application does not return a function\n");
        exit(1);
    }
    drop_answers_of_exits();
    if ($isWorker) {
        serve_as_worker($listener, $application(...));
    } else {
        serve_by_forks($listener, $application(...));
    }
}

function drop_answers_of_exits(): void
{
    register_shutdown_function(function () {
        if (Answer::$isDue) {
            say(Log::$name . ': the application exited instead of returning');
            discard_output(0);
        }
    });
}

function serve_by_forks(\Socket $listener, \Closure $application): void
{
    $killsItself = getenv('WS_FORK_EXIT') === 'kill';
    (new ForkServer($listener, $application, $killsItself))->run();
}

if (get_included_files()[0] === __FILE__) {
    // Whatever PHP has to say goes to the log, never into an answer.
    ini_set('display_errors', 'stderr');
    ini_set('log_errors', '0');
    // Out here rather than in a function, so that the application's variables are global as ever.
    serve(read_arguments($argv)[1], Stdin::takeListener(), require read_arguments($argv)[0]);
}
