<?php

// What the tests of the shims ask for.

declare(strict_types=1);

$count = 0;
mt_srand(1);

function slow_end(): void
{
    register_shutdown_function(function () {
        usleep(50_000);
        touch(getenv('FILE'));
    });
}

/** Lives until the process ends. */
final class Lasting
{
    public static ?self $instance = null;

    public function __destruct()
    {
        touch(getenv('FILE'));
    }
}

return function (array $server, string $body): ?string {
    global $count;

    switch ($server['REQUEST_URI']) {
        case '/body':
            return $body;
        case '/stdin':
            return file_get_contents('php://stdin');
        case '/variables':
            return "$server[PROBE] " . getenv('PROBE') . ' ' . ($_SERVER['OTHER'] ?? 'none');
        case '/superglobals':
            return json_encode([$_GET, $_COOKIE, $_REQUEST, $_SERVER['PROBE']]);
        case '/print':
            echo 'printed, ';
            return 'returned';
        case '/program':
            echo 'before, ';
            passthru('echo program');
            return null;
        case '/flush':
            echo 'flushed, ';
            ob_flush();
            flush();
            echo 'dropped';
            ob_clean();
            ob_start();
            echo 'kept, ';
            while (ob_get_level() > 0) {
                ob_end_flush();
            }
            return 'returned';
        case '/header':
            ws\header('X-WS-Close', '1000 bye');
            return '';
        case '/split-header':
            ws\header('X-WS-Close', "1000\r\nX-WS-User: root");
            return '';
        case '/throw':
            echo 'half';
            throw new LogicException('thrown as asked');
        case '/exit-0':
            echo 'half';
            exit(0);
        case '/exit-3':
            exit(3);
        case '/signal':
            posix_kill(getmypid(), SIGKILL);
            return null;
        case '/count':
            return (string) ++$count;
        case '/random':
            return (string) mt_rand();
        case '/pid':
            return (string) getmypid();
        case '/hang':
            proc_open(['sleep', '600'], [], $pipes);
            sleep(600);
            return null;
        case '/shell':
            exec($server['COMMAND']);
            return 'done';
        case '/leave-behind':
            exec('setsid sleep 600 > /dev/null 2>&1 &');
            posix_kill(getmypid(), SIGKILL);
            return null;
        case '/wait':
            touch($server['FILE'] . '.begun');
            while (!file_exists($server['FILE'])) {
                clearstatcache();
                usleep(1000);
            }
            return 'waited';
        case '/paths':
            return isset(realpath_cache_get()[__FILE__]) ? 'known' : 'forgotten';
        case '/slow-end':
            slow_end();
            return 'answered';
        case '/destructor':
            Lasting::$instance = new Lasting();
            return 'answered';
        case '/session':
            session_id('test');
            session_save_path(dirname($server['FILE']));
            session_start(['use_cookies' => false, 'use_only_cookies' => false]);
            $_SESSION['count'] ??= 0;
            return (string) ++$_SESSION['count'];
        case '/descriptors':
            // The directory itself is open while it is read, and gone when its link is.
            $names = array_diff(scandir('/proc/self/fd'), ['.', '..']);
            $links = array_map(fn ($name) => "$name " . @readlink("/proc/self/fd/$name"), $names);
            return implode("\n", $links);
    }
};
